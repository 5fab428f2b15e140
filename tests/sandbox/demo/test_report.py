import re
import xml.dom.minidom

from sandbox.demo import report
from sandbox.demo.observe import Backup, Line
from sandbox.demo.promises import Promise
from sandbox.demo.story import Row, Story


def steps(pod: str, first: int, last: int, start: float) -> list[Line]:
    resumed = Line(pod, "resume" if first > 1 else "start", start, first - 1, {})
    done = [Line(pod, "step", start + n - first + 1, n, {"loss": 4 - n / 20})
            for n in range(first, last + 1)]  # fmt: skip
    save = Line(pod, "save", start + 5.5, first + 4, {"bytes": 4_000_000, "seconds": 0.5})
    return [resumed, *done, save]


def story(kept: bool = True) -> Story:
    return Story(
        "local",
        promises=[Promise("nothing <is> lost", kept, "1 & 1")],
        rows=[Row("volume destroyed", 20, 5, 7.5, 40_000_000, 2.0)],
        marks=[(1020.5, 1028.0, "volume destroyed")],
        undisturbed=steps("alone", 1, 40, 100.0),
        lines=steps("gpt-1", 1, 20, 1000.0) + steps("gpt-2", 16, 40, 1027.0),
        backups=[Backup(1015.0, "s-1", 10, 4_000_000, 1.0)],
        fingerprint={"fingerprint.torch": "2.15"},
        seconds=99.0,
    )


def test_the_report_loads_nothing_from_elsewhere() -> None:
    page = report.render(story())
    assert not re.search(r"""(src|href|url)\s*[=(]|@import|https?://""", page)


def test_text_from_outside_is_escaped() -> None:
    page = report.render(story())
    assert "nothing &lt;is&gt; lost" in page
    assert "<is>" not in page


def test_each_chart_is_well_formed_and_shows_the_failure() -> None:
    charts = re.findall(r"<svg.*?</svg>", report.render(story()), re.DOTALL)
    assert len(charts) == 3
    for chart in charts:
        xml.dom.minidom.parseString(chart)
        assert "volume destroyed" in chart
    assert charts[0].count('class="save"') == 2
    assert charts[0].count('class="copy"') == 1
    assert charts[0].count('class="band"') == 1


def test_a_line_is_not_drawn_across_a_failure() -> None:
    lines = re.findall(r'class="run" points="([^"]*)"', report.render(story()))
    assert [len(line.split()) for line in lines] == [20, 25] * 3


def test_a_broken_promise_is_the_headline() -> None:
    assert "<h1>1 of 1 promises broken</h1>" in report.render(story(kept=False))
    assert "<h1>Every promise was kept</h1>" in report.render(story())


def test_the_table_gives_rates_in_megabytes_per_second() -> None:
    table = report.rows(story())
    assert table[0] == ("volume destroyed", "20", "5", "7.5", "40,000,000", "20.0")
    assert table[1] == ("2 saves", "", "", "", "8,000,000", "8.0")
    assert table[2] == ("1 backups", "", "", "", "4,000,000", "4.0")
