"""How a transfer reports its progress. The command line displays it."""

from typing import Protocol


class Progress(Protocol):
    """What is told about a transfer. Called from several threads at once; must not raise."""

    def start(self, what: str, files: int, size: int) -> None:
        """A copy begins: its name, its number of files and its total size in bytes."""
        ...

    def advance(self, size: int) -> None:
        """`size` more bytes were copied."""
        ...

    def file(self, path: str) -> None:
        """Another file is complete."""
        ...

    def note(self, text: str) -> None:
        """Something the user should know: a fallback, a skipped bundle."""
        ...


class Silent:
    """Reports nothing."""

    def start(self, what: str, files: int, size: int) -> None:
        pass

    def advance(self, size: int) -> None:
        pass

    def file(self, path: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass


SILENT = Silent()
