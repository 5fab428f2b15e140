"""What a demo prints: chapters, what happened, promises; at its end a table, or JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from holdfast.text import plural
from sandbox.demo.promises import Promise


class Narrator:
    """Prints to the terminal, or to stderr where stdout is for JSON, and keeps the promises."""

    def __init__(self, as_json: bool, promises: list[Promise]) -> None:
        self.console = Console(stderr=as_json, highlight=False, soft_wrap=True)
        if not self.console.is_terminal:
            self.console.width = 120
        self._as_json, self._promises = as_json, promises

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

    def end(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
        seconds: float,
        document: Mapping[str, Any],
        report: Path,
        state: Path,
    ) -> None:
        """Print the table and how many promises were kept, or JSON, which is left beside the page.

        Args:
            columns, rows: the table; the first column is text, the others are numbers.
            seconds: how long the story took.
            document: what JSON tells besides the promises, the time and the report.
            report: the page that was written.
            state: the folder that stays when a promise was broken.
        """
        table = Table(box=None, header_style="bold")
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        self.console.print("\n", table, "", sep="\n")
        broken = sum(not promise.kept for promise in self._promises)
        kept = f"{plural(len(self._promises) - broken, 'promise')} kept, {broken} broken"
        self.say(f"{kept}, in {seconds:.0f} s; report: {report}")
        told = {
            "kept": not broken,
            "seconds": round(seconds, 1),
            "promises": [asdict(promise) for promise in self._promises],
            **document,
            "report": str(report),
        }
        text = json.dumps(told, indent=2)
        report.with_suffix(".json").write_text(f"{text}\n", encoding="utf-8")
        if self._as_json:
            print(text)
        if broken:
            self.say(f"volumes and logs are still in {state}")


def first_of(names: Iterable[str]) -> str:
    """Some names, and how many there are besides."""
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
