"""What Holdfast promises in a demo."""

from dataclasses import dataclass


@dataclass
class Promise:
    """Something that Holdfast promises, and whether it was kept."""

    text: str
    kept: bool
    found: str
