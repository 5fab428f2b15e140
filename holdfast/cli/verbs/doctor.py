"""Check the volume and the store."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from holdfast.cli import options
from holdfast.cli.context import open_volume
from holdfast.cli.output import emit, say, table
from holdfast.defaults import DOCTOR_MEMORY, KEEP, KIND, MAX_AGE
from holdfast.errors import ExitCode, UsageError
from holdfast.text import plural

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    max_age: Annotated[
        float,
        typer.Option(
            "--max-age",
            envvar="HOLDFAST_MAX_AGE",
            min=1,
            max=options.LONGEST,
            help="Warn when the latest snapshot is older than so many seconds.",
            metavar="SECONDS",
        ),
    ] = int(MAX_AGE.total_seconds()),
    keep: options.Keep = KEEP,
    volume: options.Volume = None,
    run: options.Run = None,
    kind: options.Kind = KIND,
    store: options.Store = None,
    owner: options.Owner = None,
    workload: options.Workload = None,
    memory: options.Memory = DOCTOR_MEMORY,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Check that backup and recovery will work, before they are needed.

    On the volume: space, permissions, the newest bundle. In the store: access, credentials, owner,
    preconditions, clock, the latest snapshot and verification. Answers within 20 seconds whatever
    the storage does. Exits with 1 if a check fails, with 0 if there are only warnings.

    Example: holdfast doctor --volume /mnt/checkpoints --run gpt --store s3://bucket/team/prod
    """
    from holdfast.health import doctor as examiner
    from holdfast.health import examination
    from holdfast.store import open_store
    from holdfast.store.snapshot import Catalog
    from holdfast.volume import Volume

    if volume is None and store is None:
        raise UsageError("nothing to check: give --volume, --store or both")
    say(f"examine {' and '.join(str(place) for place in (volume, store) if place)}")
    start = time.monotonic()
    groups = []

    def opened_volume() -> Volume:
        assert volume is not None
        return Volume(volume, run, kind) if run else open_volume(volume, run, kind)

    if volume is not None:
        groups.append(
            examination.lazily("volume", lambda: examiner.volume_group(opened_volume(), keep))
        )
    if store is not None:
        url = store
        known = None if volume is None else opened_volume

        def of_store() -> list[examination.Examination]:
            opened = open_store(url, memory=memory, deadline=examination.BUDGET)
            catalog = Catalog(opened, owner)
            return examiner.store_group(opened, catalog, workload, max_age, known)

        groups.append(examination.lazily("store", of_store))
    checks = examination.examine(*groups)
    _report(checks, output)
    levels = examination.Level
    count = {level: sum(check.level is level for check in checks) for level in levels}
    say(
        f"examined in {time.monotonic() - start:.1f} s: {count[levels.OK]} ok,"
        f" {plural(count[levels.WARN], 'warning')}, {plural(count[levels.FAIL], 'failure')}"
    )
    if count[levels.FAIL]:
        raise typer.Exit(ExitCode.FAILED)


def _report(checks: list, output: options.Format) -> None:
    if output is options.Format.JSON:
        emit(
            {
                "ok": all(check.level != "fail" for check in checks),
                "checks": [
                    {
                        "name": check.name,
                        "level": str(check.level),
                        "found": check.found,
                        "remedy": check.remedy,
                    }
                    for check in checks
                ],
            }
        )
        return
    from rich.text import Text

    rows = [
        (
            Text(check.level, style=_COLOURS[check.level]),
            check.name,
            check.found + (f": {check.remedy}" if check.remedy else ""),
        )
        for check in checks
    ]
    table(("", "check", "~found"), rows)
