"""The report of `make demo-pipeline`: one self-contained page."""

import base64
from html import escape

from sandbox.demo.pipeline_story import PipelineStory
from sandbox.demo.report import STYLE

COLUMNS = ("event", "seconds", "bytes", "things compared")
_PICTURES = {
    "before": "Before: MLflow's page of the model",
    "after": "After all was lost but the store, and the newest snapshot restored",
    "older": "After the snapshot before it was restored",
}


def rows(story: PipelineStory) -> list[tuple[str, ...]]:
    """The final table, as text."""
    return [
        (row.event, f"{row.seconds:.1f}", _number(row.bytes), _number(row.things))
        for row in story.rows
    ]


def render(story: PipelineStory) -> str:
    """The whole page."""
    broken = sum(not promise.kept for promise in story.promises)
    total = len(story.promises)
    verdict = f"{broken} of {total} promises broken" if broken else "Every promise was kept"
    promises = "".join(
        f'<li><b class="{"good" if p.kept else "bad"}">{"✓ kept" if p.kept else "✗ broken"}</b> '
        f"&nbsp;{escape(p.text)}<small>{escape(p.found)}</small></li>"
        for p in story.promises
    )
    pictures = "".join(
        f"<section><h2>{escape(_PICTURES[name])}</h2>"
        f'<img alt="{escape(_PICTURES[name])}" style="width:100%" src="data:image/png;base64,'
        f'{base64.b64encode(file.read_bytes()).decode()}"></section>'
        for name, file in story.pictures.items()
    )
    kinds = sorted({kind for found in story.counts.values() for kind in found})
    held = _table(
        ("", *story.counts),
        [(k, *(_number(found.get(k, 0)) for found in story.counts.values())) for k in kinds],
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Holdfast pipeline demo: {verdict}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{STYLE}</style></head><body><main>
<h1>{verdict}</h1>
<p>PostgreSQL and MLflow of the stack “{escape(story.stack)}”, run as processes on one machine, with
two trainings that log to them and an application that serves their model. All but the store is
lost, restored through the Blueprint <code>pipeline-state</code>, and compared; once more from an
older snapshot; damage in the store is refused. {story.seconds:.0f} s for all of it.</p>
<section><h2>What was promised</h2><ul>{promises}</ul></section>
<section><h2>What MLflow's client found</h2>{held}</section>
<section><h2>What happened</h2>{_table(COLUMNS, rows(story))}</section>
{pictures}
</main></body></html>
"""


def _table(columns: tuple[str, ...], body: list[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    cells = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table>"


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
