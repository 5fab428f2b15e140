"""Damage to the store, one bit at a time."""

from pathlib import Path

from sandbox.errors import SandboxError


def flip(file: Path) -> None:
    """Flip one bit in the middle of a file; twice, and it is as before."""
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        byte = opened.read(1)[0]
        opened.seek(-1, 1)
        opened.write(bytes([byte ^ 1]))


def stored(store: Path, kind: str) -> list[Path]:
    """The dumps, or the artifacts' files, of a pipeline in a directory store, oldest first."""
    place = store / "data" / "pipeline"
    folders = [path for path in place.rglob(f"*{kind}*") if path.is_dir()]
    files = {f for folder in folders for f in folder.rglob("*") if f.is_file()}
    files = {f for f in files if f.name == "database.dump" or f.name.isdigit()}
    if not files:
        raise SandboxError(f"no bundle of kind {kind} below {place}")
    return sorted(files, key=lambda file: (file.stat().st_mtime, file.name))
