"""Where a checkpoint comes from: the dataset, the code, the image and the parent model.

Each is a label of every bundle, so that a model can be traced back without the machine that made
it. The dataset's label is the `content` of its manifest, by which a store finds it under whatever
name and version it was added.
"""

import hashlib
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from holdfast.errors import InvalidManifest, UsageError
from holdfast.manifest import MANIFEST, Manifest, sha256
from training.config import Config

_SOURCE = Path(__file__).resolve().parent


def lineage(config: Config, dataset: str | None) -> dict[str, str]:
    """The labels `dataset`, `code`, `image` and `parent`; what is unknown is left out.

    Args:
        config: the settings; `code` and `parent` come from there.
        dataset: the `content` of the dataset, where the data are one.
    """
    found = {
        "dataset": dataset,
        "code": config.code or source_digest(),
        "image": os.environ.get("HOLDFAST_IMAGE"),
        "parent": config.parent,
    }
    return {key: value for key, value in found.items() if value}


@cache
def source_digest() -> str:
    """SHA-256 of this program's own source: of each file's name and bytes, sorted by name."""
    digest = hashlib.sha256()
    for path in sorted(_SOURCE.glob("*.py")):
        data = path.read_bytes()
        digest.update(f"{path.name} {len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def dataset_in(folder: Path) -> Manifest | None:
    """The manifest of the dataset that `holdfast get` put here; None for any other folder.

    Raises UsageError when the manifest is one of ours and damaged.
    """
    try:
        data = (folder / MANIFEST).read_bytes()
    except OSError:
        return None
    try:
        return Manifest.parse(data)
    except InvalidManifest as error:
        if b'"content":"' in data:
            raise _not_the_dataset(folder, f"it {error}") from None
        return None  # somebody else's file of that name


def check(folder: Path, dataset: Manifest, texts: Mapping[Path, bytes]) -> None:
    """Refuse data that are not the dataset: what was read of it, and what is missing."""
    entries = {entry.path: entry.sha256 for entry in dataset.files}
    for path, data in texts.items():
        name = path.relative_to(folder).as_posix()
        if name not in entries:
            raise _not_the_dataset(folder, f"{name} is not in it")
        if sha256(data) != entries[name]:
            raise _not_the_dataset(folder, f"{name} differs")
    for name in entries:
        if not (folder / name).is_file():
            raise _not_the_dataset(folder, f"{name} is missing")


def _not_the_dataset(folder: Path, problem: str) -> UsageError:
    return UsageError(
        f"--data '{folder}' is not the dataset of its {MANIFEST}: {problem}: get it again, or "
        f"remove {MANIFEST} to train on what is there"
    )
