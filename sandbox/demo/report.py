"""The demo's report: one HTML file with inline SVG, and nothing to load from anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import groupby, pairwise

from sandbox.demo.observe import Line
from sandbox.demo.story import Story

COLUMNS = ("event", "at step", "steps lost", "seconds to recover", "bytes", "MB/s")
WIDTH, LEFT, RIGHT, TOP = 1040, 66, 16, 44

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1c2430; --soft: #5d6b7c;
  --line: #dde2e8; --run: #1f6feb; --calm: #b3bdc9; --bad: #c62f3b; --good: #1a7f4b;
  --save: #7a5af0; --copy: #b7660b; --font: system-ui, -apple-system, "Segoe UI", Roboto,
  "Liberation Sans", sans-serif; }
@media (prefers-color-scheme: dark) { :root { --page: #0f141b; --card: #171e28; --ink: #e4eaf1;
  --soft: #9aa8b8; --line: #2b3644; --run: #5aa2ff; --calm: #4d5b6c; --bad: #ff6b74;
  --good: #46c586; --save: #a58bff; --copy: #f0a64a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 var(--font); }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { font-size: 26px; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 17px; margin: 0 0 2px; }
p { margin: 0 0 12px; color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 18px 20px; margin-top: 18px; overflow-x: auto; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin-top: 18px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 12px 16px; }
.tile b { display: block; font-size: 24px; line-height: 1.25; font-weight: 650; }
.tile span { color: var(--soft); font-size: 13px; }
.good { color: var(--good); } .bad { color: var(--bad); }
svg { display: block; width: 100%; min-width: 720px; height: auto; }
svg text { fill: var(--soft); font: 12px var(--font); }
svg .mark { fill: var(--bad); font-weight: 600; }
.grid { stroke: var(--line); } .axis { stroke: var(--soft); }
.calm { stroke: var(--calm); fill: none; stroke-width: 6; stroke-linejoin: round; opacity: .8; }
.beside { stroke: var(--calm); fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.run { stroke: var(--run); fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.fault { stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 4 3; }
.band { fill: var(--good); opacity: .16; } .dot { fill: var(--good); stroke: var(--card); }
.save { fill: var(--save); } .copy { fill: var(--copy); }
.lost { stroke: var(--bad); stroke-width: 3; fill: none; opacity: .55; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 6px 0 0; font-size: 13px;
  color: var(--soft); }
.legend i { display: inline-block; width: 18px; height: 10px; margin-right: 6px;
  border-radius: 2px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 7px 10px; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; font-size: 13px; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr:last-child td { border-bottom: 0; }
ul { list-style: none; margin: 0; padding: 0; }
li { padding: 7px 0; border-bottom: 1px solid var(--line); } li:last-child { border: 0; }
li small { display: block; color: var(--soft); font-size: 13px; }
code { font: 12.5px ui-monospace, Menlo, "Liberation Mono", monospace; color: var(--soft);
  overflow-wrap: anywhere; }
"""


def rows(story: Story) -> list[tuple[str, ...]]:
    """The final table, as text: what happened, then what saves and backups moved."""
    told: list[tuple[str, ...]] = []
    for row in story.rows:
        told.append((row.event, str(row.step), str(row.steps_lost), f"{row.seconds:.1f}",
                     *_moved(row.bytes, row.transfer_seconds)))  # fmt: skip
    saves = [line.fields for line in story.lines if line.event == "save"]
    copied = [backup for backup in story.backups if backup.bytes]
    for name, count, size, seconds in (
        ("saves", len(saves), sum(s["bytes"] for s in saves), sum(s["seconds"] for s in saves)),
        ("backups", len(copied), sum(b.bytes for b in copied), sum(b.seconds for b in copied)),
    ):
        told.append((f"{count} {name}", "", "", "", *_moved(size, seconds)))
    return told


def _moved(size: int | None, seconds: float | None) -> tuple[str, str]:
    if not size or not seconds:
        return "", ""
    return f"{size:,}", f"{size / 1e6 / seconds:.1f}"


def render(story: Story) -> str:
    """The whole page."""
    broken = sum(not promise.kept for promise in story.promises)
    verdict = (
        f"{broken} of {len(story.promises)} promises broken" if broken else "Every promise was kept"
    )
    losses = [row.steps_lost for row in story.rows[:2]]
    tiles = [
        (f"{len(story.promises) - broken} of {len(story.promises)}", "promises kept",
         "bad" if broken else "good"),
        (f"{max((row.seconds for row in story.rows), default=0):.1f} s", "longest recovery", ""),
        (f"{max(losses, default=0)}", "steps lost at most in a failure", ""),
        (f"{len({line.pod for line in story.lines})}", "pods, one training", ""),
        (f"{len([b for b in story.backups if b.bytes])}", "backups while training", ""),
        (f"{story.seconds:.0f} s", "for all of it", ""),
    ]  # fmt: skip
    body = "".join(f'<div class="tile"><b class="{kind}">{escape(value)}</b><span>{escape(name)}'
                   "</span></div>" for value, name, kind in tiles)  # fmt: skip
    head = "".join(f"<th>{column}</th>" for column in COLUMNS)
    cells = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
                    for row in rows(story))  # fmt: skip
    promises = "".join(
        f'<li><b class="{"good" if p.kept else "bad"}">{"✓ kept" if p.kept else "✗ broken"}</b> '
        f"&nbsp;{escape(p.text)}<small>{escape(p.found)}</small></li>"
        for p in story.promises
    )
    prints = " · ".join(
        f"{key.partition('.')[2]} {value}" for key, value in story.fingerprint.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Holdfast demo: {verdict}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{STYLE}</style></head><body><main>
<h1>{verdict}</h1>
<p>The Job, CronJob and Blueprint of the stack “{escape(story.stack)}”, run as processes on one
machine: killed in the middle of a save, its volume destroyed, restored to an earlier step, its
newest bundle damaged.</p>
<div class="tiles">{body}</div>
<section><h2>Loss over time</h2><p>Nats per byte, second by second. The shaded
times are recoveries: from a failure to the next step.</p>
{_over_time(story)}{_LEGEND}</section>
<section><h2>Loss over steps</h2><p>The same run beside one that nobody disturbed: steps that were
done twice lie on each other, and all lie on the undisturbed curve.</p>
{_over_steps(story)}</section>
<section><h2>Progress</h2><p>Each fall is work lost or given up; each rise begins at a verified
bundle.</p>{_progress(story)}</section>
<section><h2>What happened</h2><table><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table>
</section>
<section><h2>What was promised</h2><ul>{promises}</ul></section>
<section><h2>Fingerprint</h2><p>Equal in both runs, else identity would not be claimed.</p>
<code>{escape(prints)}</code></section>
</main></body></html>
"""


_LEGEND = "".join((
    '<div class="legend">',
    *(f'<span><i style="background:var(--{color})"></i>{name}</span>' for color, name in (
        ("run", "this run"), ("calm", "undisturbed run"), ("bad", "failure or restore"),
        ("good", "recovery"), ("save", "save committed"), ("copy", "backup"))),
    "</div>",
))  # fmt: skip


class _Plot:
    """A frame with two linear axes; everything is drawn in data units."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float], height: int, foot: int) -> None:
        self.height, self.bottom = height, height - foot
        self.x0, self.x1 = min(xs, default=0), max(xs, default=1)
        self.y0, self.y1 = min(ys, default=0), max(ys, default=1)
        self.parts: list[str] = []

    def x(self, value: float) -> float:
        share = (value - self.x0) / ((self.x1 - self.x0) or 1)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.y0) / ((self.y1 - self.y0) or 1)
        return round(self.bottom - share * (self.bottom - TOP), 1)

    def axes(self, x_unit: str, y_format: Callable[[float], str]) -> None:
        for value in _ticks(self.y0, self.y1, 5):
            y = self.y(value)
            self.add(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
            self.text(LEFT - 8, y + 4, y_format(value), anchor="end")
        for value in _ticks(self.x0, self.x1, 10):
            self.text(self.x(value), self.height - 6, f"{value:g}{x_unit}", anchor="middle")

    def line(self, points: Iterable[tuple[float, float]], kind: str) -> None:
        path = " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points)
        self.add(f'<polyline class="{kind}" points="{path}"/>')

    def dot(self, x: float, y: float) -> None:
        self.add(f'<circle class="dot" cx="{self.x(x)}" cy="{self.y(y)}" r="5"/>')

    def fault(self, x: float, name: str, row: int) -> None:
        at, end = self.x(x), self.x(x) > WIDTH * 0.8
        self.add(f'<line class="fault" x1="{at}" x2="{at}" y1="{TOP - 12 - 15 * row}" '
                 f'y2="{self.bottom}"/>')  # fmt: skip
        self.text(
            at + (-5 if end else 5), TOP - 4 - 15 * row, name, "end" if end else "start", "mark"
        )

    def text(self, x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> None:
        self.add(
            f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def add(self, part: str) -> None:
        self.parts.append(part)

    def svg(self, label: str) -> str:
        return (f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img" aria-label="{label}">'
                f"{''.join(self.parts)}</svg>")  # fmt: skip


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round values between `low` and `high`."""
    span = (high - low) or 1
    power = 10.0 ** (len(str(int(span / about))) - 1 if span >= about else -1)
    size = next(
        (m * power for m in (1, 2, 2.5, 5, 10, 20, 50) if span / (m * power) <= about), span
    )
    first = -(-low // size) * size
    return [round(first + n * size, 6) for n in range(int((high - first) / size + 1e-9) + 1)]


def _segments(lines: Iterable[Line]) -> list[list[Line]]:
    """The steps of each start of the trainer, apart from the others'."""
    starts, found = 0, []
    for line in lines:
        starts += line.event in ("start", "resume")
        if line.event == "step":
            found.append((starts, line))
    return [[line for _, line in group] for _, group in groupby(found, key=lambda item: item[0])]


def _over_time(story: Story) -> str:
    zero = min((line.time for line in story.lines), default=0)
    segments = _segments(story.lines)
    calm = [line for line in story.undisturbed if line.event == "step"]
    start = story.undisturbed[0].time if story.undisturbed else 0
    times = [line.time - zero for line in story.lines] + [0]
    plot = _Plot(times, [s.fields["loss"] for part in [*segments, calm] for s in part], 360, 70)
    plot.axes(" s", lambda value: f"{value:g}")
    for moment, end, _ in story.marks:
        x, width = plot.x(moment - zero), plot.x(end - zero) - plot.x(moment - zero)
        plot.add(f'<rect class="band" x="{x}" y="{TOP}" width="{width:.1f}" '
                 f'height="{plot.bottom - TOP}"/>')  # fmt: skip
    plot.line(((s.time - start, s.fields["loss"]) for s in calm), "beside")
    for part in segments:
        plot.line(((s.time - zero, s.fields["loss"]) for s in part), "run")
    for row, (moment, end, name) in enumerate(story.marks):
        plot.fault(moment - zero, name, row % 2)
        plot.dot(end - zero, next(s.fields["loss"] for p in segments for s in p if s.time >= end))
    for line in (line for line in story.lines if line.event == "save"):
        plot.add(f'<rect class="save" x="{plot.x(line.time - zero) - 1.5:.1f}" '
                 f'y="{plot.bottom + 10}" width="3" height="10">'
                 f"<title>step {line.step}</title></rect>")  # fmt: skip
    for backup in (backup for backup in story.backups if backup.bytes):
        x = plot.x(backup.time - backup.seconds - zero)
        width = max(3.0, plot.x(backup.time - zero) - x)
        plot.add(f'<rect class="copy" x="{x}" y="{plot.bottom + 26}" width="{width:.1f}" '
                 f'height="10" rx="2"><title>step {backup.step}</title></rect>')  # fmt: skip
    plot.text(LEFT - 8, plot.bottom + 19, "saves", "end")
    plot.text(LEFT - 8, plot.bottom + 35, "backups", "end")
    return plot.svg("loss over time with failures, saves, backups and recoveries")


def _over_steps(story: Story) -> str:
    segments = _segments(story.lines)
    calm = [line for line in story.undisturbed if line.event == "step"]
    every = [line for part in [*segments, calm] for line in part]
    plot = _Plot([s.step for s in every], [s.fields["loss"] for s in every], 300, 30)
    plot.axes("", lambda value: f"{value:g}")
    plot.line(((s.step, s.fields["loss"]) for s in calm), "calm")
    for part in segments:
        plot.line(((s.step, s.fields["loss"]) for s in part), "run")
    for part in segments[1:]:
        plot.dot(part[0].step, part[0].fields["loss"])
    for row, (moment, _, name) in enumerate(story.marks):
        done = [line.step for line in story.lines if line.event == "step" and line.time <= moment]
        plot.fault(done[-1] if done else 0, name, row % 2)
    return plot.svg("loss over steps, beside the undisturbed run")


def _progress(story: Story) -> str:
    zero = min((line.time for line in story.lines), default=0)
    segments = _segments(story.lines)
    every = [line for part in segments for line in part]
    plot = _Plot([s.time - zero for s in every] + [0], [s.step for s in every] + [0], 240, 30)
    plot.axes(" s", lambda value: f"{value:g}")
    for before, after in pairwise(segments):
        plot.line([(before[-1].time - zero, before[-1].step),
                   (after[0].time - zero, after[0].step)], "lost")  # fmt: skip
    for part in segments:
        plot.line(((s.time - zero, s.step) for s in part), "run")
    for row, (moment, _, name) in enumerate(story.marks):
        plot.fault(moment - zero, name, row % 2)
    return plot.svg("steps done over time")
