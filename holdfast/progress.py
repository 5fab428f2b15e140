"""How a verb that moves bytes tells how far it is. Rendering belongs to the command line."""

from typing import Protocol


class Progress(Protocol):
    """Called from several threads at once; must not raise."""

    def start(self, what: str, files: int, size: int) -> None:
        """A copy begins: its name, how many files it has, and how many bytes altogether."""
        ...

    def advance(self, size: int) -> None:
        """So many bytes more were moved."""
        ...

    def file(self, path: str) -> None:
        """One more file is complete."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line: a fall-back, a bundle that was skipped."""
        ...


class Silent:
    """The progress that nobody watches."""

    def start(self, what: str, files: int, size: int) -> None:
        pass

    def advance(self, size: int) -> None:
        pass

    def file(self, path: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass


SILENT = Silent()
