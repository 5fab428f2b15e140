"""What a tracking database needs beside itself, and whether a list of artifacts has it.

A reference *dangles* when the database mentions files, a version or a dataset that is nowhere. Runs
may have no files; a model that is ready, and a version of a registered one, must have some.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from holdfast.pipeline.artifacts import below
from holdfast.pipeline.contents import Contents

_PROXIED = "mlflow-artifacts"
_PROXY_PATH = "/api/2.0/mlflow-artifacts/artifacts"
_DEEPEST = 10  # of URIs that name each other


@dataclass
class References:
    """What was checked, as counts by what it is; and each problem by the name of what has it."""

    counts: dict[str, int] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


class Elsewhere(Exception):
    """A URI leads out of the artifacts that a snapshot holds."""


def check_references(
    contents: Contents,
    holds: Callable[[str], bool],
    place: str,
    datasets: Collection[str] | None,
) -> References:
    """Check every reference of the database.

    Args:
        holds: whether there is an artifact at a path or below it.
        place: where the artifacts are: a directory or ``s3://bucket/prefix``.
        datasets: the contents (hashes) of the datasets that are there; None: not known.
    """
    return _Check(contents, holds, place, datasets).run()


class _Check:
    def __init__(
        self,
        contents: Contents,
        holds: Callable[[str], bool],
        place: str,
        datasets: Collection[str] | None,
    ) -> None:
        self.contents, self.holds, self.place = contents, holds, place
        self.datasets = datasets
        self.found = References()

    def run(self) -> References:
        contents = self.contents
        models = {key: one for key, one in contents.logged_models.items() if one.ready}
        versions = {key: one for key, one in contents.versions.items() if one.ready}
        self.found.counts = {
            "experiments": contents.experiments,
            "runs": sum(run.active for run in contents.runs.values()),
            "logged models": len(models),
            "model versions": len(contents.versions),
            "aliases": len(contents.aliases),
            "dataset references": len(contents.datasets),
            "traces": len(contents.traces.locations),
        }
        for name, model in models.items():
            self._files(f"logged model {name}", model.location)
        for version in versions.values():
            self._files(f"model {version}", version.location)
        for (workspace, model, alias), number in contents.aliases.items():
            if (workspace, model, number) not in contents.versions:
                self._problem(
                    f"alias {model}@{alias}", f"names version {number}, which is not there"
                )
        for run, path in contents.named_files:
            if run in contents.runs and contents.runs[run].active:
                self._files(f"run {run}, {path}", f"{contents.runs[run].location}/{path}")
        for trace, uri in contents.traces.files():
            self._files(f"trace {trace}, {uri.rpartition('/')[2]}", uri)
        self._check_datasets()
        return self.found

    def _check_datasets(self) -> None:
        if self.datasets is None:
            return
        for run, content in self.contents.datasets.items():
            known = self.contents.runs.get(run)
            if known is not None and known.active and content not in self.datasets:
                self._problem(f"run {run}, dataset {content[:12]}", "no dataset has this content")

    def _files(self, what: str, uri: str) -> None:
        try:
            path = self.resolve(uri)
        except Elsewhere as error:
            self._problem(what, str(error))
            return
        if not self.holds(path):
            self._problem(what, f"has no files at '{path}'")

    def _problem(self, what: str, reason: str) -> None:
        self.found.problems[what] = reason

    def resolve(self, uri: str, depth: int = 0) -> str:
        """The path of a URI among the artifacts. Raises Elsewhere."""
        if depth > _DEEPEST:
            raise Elsewhere(f"'{uri}' leads to itself")
        parts = urlsplit(uri)
        if parts.scheme == _PROXIED:
            return unquote(parts.path).removeprefix(_PROXY_PATH).strip("/")
        if parts.scheme == "runs":
            run, _, rest = parts.path.lstrip("/").partition("/")
            if run not in self.contents.runs:
                raise Elsewhere(f"'{uri}' names a run that is not there")
            return self.resolve(f"{self.contents.runs[run].location}/{rest}", depth + 1)
        if parts.scheme == "models":
            return self.resolve(self._model(uri, parts.path), depth + 1)
        path = below(uri, self.place)
        if path is None:
            raise Elsewhere(f"'{uri}' is not below the artifacts that are protected")
        return path.strip("/")

    def _model(self, uri: str, path: str) -> str:
        name, _, rest = path.lstrip("/").partition("/")
        if name in self.contents.logged_models:
            return f"{self.contents.logged_models[name].location}/{rest}".rstrip("/")
        found = [
            version
            for (_, model, number), version in self.contents.versions.items()
            if (model, number) == (name, rest.partition("/")[0])
        ]
        if not found:
            raise Elsewhere(f"'{uri}' names a model that is not there")
        return found[0].location


def differences(snapshot: Contents, live: Contents) -> dict[str, str]:
    """What a snapshot's database has and the live one lacks, by its name."""
    found = {}
    for run, one in snapshot.runs.items():
        if one.active and run not in live.runs:
            found[f"run {run}"] = "is not in the database"
    for key, model in snapshot.logged_models.items():
        if model.ready and key not in live.logged_models:
            found[f"logged model {key}"] = "is not in the database"
    for key, version in snapshot.versions.items():
        if key not in live.versions:
            found[f"model {version}"] = "is not in the database"
    for key, number in snapshot.aliases.items():
        _, name, alias = key
        if key not in live.aliases:
            found[f"alias {name}@{alias}"] = "is not in the database"
        elif live.aliases[key] != number:
            found[f"alias {name}@{alias}"] = (
                f"names version {live.aliases[key]}, not {number} as in the snapshot"
            )
    return found
