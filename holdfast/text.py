"""Format figures for people: IEC sizes, rates, ages, UTC times."""

from __future__ import annotations

from datetime import UTC, datetime


def size(count: int | float) -> str:
    """A size in bytes in IEC units: 1536 → 1.5 KiB."""
    if count < 1024:
        return f"{int(count)} B"
    value = count / 1024
    units = ["KiB", "MiB", "GiB", "TiB"]
    while value >= 1023.95 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.1f} {units[0]}"


def figures(count: int, seconds: float) -> str:
    """Size, duration and rate: `1.0 GiB in 2.1 s (511.3 MB/s)`."""
    rate = f" ({count / seconds / 1e6:.1f} MB/s)" if seconds > 0 and count else ""
    return f"{size(count)} in {seconds:.{1 if seconds >= 10 else 2}f} s{rate}"


def when(moment: datetime) -> str:
    """A time as every command prints it: UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ago(seconds: float) -> str:
    """An age in seconds as text: 42 s, 7 min, 3.1 h, 2.5 d."""
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            value = seconds / divisor
            return f"{value:.1f} {unit}" if unit == "h" else f"{value:.0f} {unit}"
    return f"{seconds / 86400:.1f} d"


def plural(count: int, noun: str) -> str:
    """A count with its noun: `1 file`, `2 files`, `2 aliases`."""
    return f"{count} {noun}" + ("" if count == 1 else "es" if noun.endswith("s") else "s")


def counted(count: int, nouns: str) -> str:
    """A count with what it counts, given in the plural: `1 alias`, `2 aliases`."""
    if count != 1:
        return f"{count} {nouns}"
    return f"1 {nouns.removesuffix('es' if nouns.endswith('ses') else 's')}"
