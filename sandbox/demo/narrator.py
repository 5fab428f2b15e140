"""What a demo prints while it runs: chapters, what happened, promises."""

from rich.console import Console

from sandbox.demo.promises import Promise


class Narrator:
    """Prints to the terminal, or to stderr where stdout is for JSON, and keeps the promises."""

    def __init__(self, as_json: bool, promises: list[Promise]) -> None:
        self.console = Console(stderr=as_json, highlight=False, soft_wrap=True)
        if not self.console.is_terminal:
            self.console.width = 120
        self._promises = promises

    def chapter(self, title: str) -> None:
        self.console.print(f"\n[bold]{title}[/bold]")

    def say(self, text: str) -> None:
        self.console.print(f"  {text}", markup=False)

    def promise(self, text: str, kept: bool, found: str) -> None:
        """Say whether Holdfast kept its word, with what was found."""
        self._promises.append(Promise(text, kept, found))
        word = "[green]PROMISE KEPT[/green]  " if kept else "[bold red]PROMISE BROKEN[/bold red]"
        self.console.print(f"  {word} ", end="")
        self.console.print(f"{text} ({found})", markup=False)
