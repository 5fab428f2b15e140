"""Move an alias to a version, and delete versions that no alias names."""

from __future__ import annotations

from holdfast.assets import aliases
from holdfast.assets.aliases import Alias
from holdfast.assets.versions import Version, resolve, versions
from holdfast.copies.prune import delete_snapshot
from holdfast.copies.writing import writing
from holdfast.errors import HoldfastError
from holdfast.failpoint import failpoint
from holdfast.manifest import check_name
from holdfast.progress import SILENT, Progress
from holdfast.store.snapshot import Catalog


def promote(
    catalog: Catalog, version: Version, alias: str, *, again: bool = False, patience: float = 10.0
) -> tuple[Alias, Alias | None]:
    """Let the alias mean this version; returns its record, and what it meant before.

    If it means this version already, nothing is written, unless ``again``: then applications that
    were restored to another one since go back to it. Only the manifest is looked at, not every
    byte: `holdfast verify` does that.

    Raises:
        Mismatch: the version's manifest is missing or damaged.
        NoSnapshot: the version was deleted meanwhile.
    """
    check_name(alias, "alias")
    workload = version.snapshot.workload
    catalog.manifest(version.ref)
    with writing(catalog, workload, patience):
        before = aliases.current(catalog.store, workload, version.name, alias)
        same = before and (before.version, before.content) == (version.version, version.ref.content)
        if before and same and not again:
            return before, before
        made = aliases.append(catalog.store, version.snapshot, version.version, alias)
        failpoint("promote.record-written")
        resolve(Catalog(catalog.store, catalog.owner), f"{version.name}@{alias}", version.kind)
    return made, before


def delete_version(
    catalog: Catalog,
    version: Version,
    *,
    aliased: bool = False,
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> list[str]:
    """Delete every snapshot of a version; returns their IDs. Later prunes delete the data that no
    other version, and no snapshot of another workload, names.

    Raises HoldfastError while an alias means it, unless ``aliased``, and while it is pinned.
    """
    workload = version.snapshot.workload
    means = [
        one.alias
        for one in aliases.all_current(catalog.store, workload, version.name)
        if (one.version, one.content) == (version.version, version.ref.content)
    ]
    if means and not aliased:
        raise HoldfastError(
            f"{version.kind} {version} is '{version.name}@{', '.join(means)}': promote another"
            " version first, or give --aliased"
        )
    doomed = [
        one.snapshot.id
        for one in versions(catalog, version.kind, version.name, progress=progress)
        if one.version == version.version
    ]
    for snapshot in doomed:
        delete_snapshot(catalog, workload, snapshot, dry_run=dry_run)
    return doomed
