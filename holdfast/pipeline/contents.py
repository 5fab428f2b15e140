"""What a tracking database mentions, read from a dump itself or from the live one.

Both come as the same text: `pg_restore --data-only` writes the rows of a dump as COPY statements,
and `pg_dump --data-only` those of a server. So no server is needed to know what a dump needs.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

from holdfast.errors import HoldfastError, Mismatch
from holdfast.pipeline.programs import find

#: run tag with the content hash of the dataset that a training read
DATASET_TAG = "holdfast.dataset"
#: run tag in which MLflow notes the files that it logged as tables
_LOGGED_TAG = "mlflow.loggedArtifacts"
#: trace tags: where its files are, where its spans are, and where those are that were archived
_TRACE_FILES, _TRACE_SPANS = "mlflow.artifactLocation", "mlflow.trace.spansLocation"
_TRACE_ARCHIVE = "mlflow.trace.archiveLocation"
_IN_DATABASE = "TRACKING_STORE"
_ATTACHMENT = re.compile(r"mlflow-attachment://([\w-]+)\?[^\s\"\\]*?trace_id=([\w-]+)")
_COPY = re.compile(r'COPY public\."?(\w+)"? \((.*)\) FROM stdin;')
_DUMPED = re.compile(r"-- Dumped (from database|by pg_dump) version (\d+)")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v"}
_DELETED = "Deleted_Internal"
_READY = "2"  # of a logged model: mlflow.entities.LoggedModelStatus


@dataclass(frozen=True, slots=True)
class Run:
    """A run and where its files are; ``active`` unless a person deleted it."""

    location: str
    active: bool


@dataclass(frozen=True, slots=True)
class LoggedModel:
    """A model that a run logged; ``ready`` once all its files are there."""

    location: str
    ready: bool


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a registered model. ``location`` is where its files are, as the row says it."""

    model: str
    number: str
    location: str
    ready: bool

    def __str__(self) -> str:
        return f"{self.model} version {self.number}"


@dataclass
class Contents:
    """The rows that other things depend on, and the major versions of the server and of the client
    that made the dump. Keys of models begin with their workspace."""

    postgresql: int = 0
    pg_dump: int = 0
    schema: str = ""
    auth_schema: str = ""
    secrets: int = 0
    experiments: int = 0
    runs: dict[str, Run] = field(default_factory=dict)
    logged_models: dict[str, LoggedModel] = field(default_factory=dict)
    versions: dict[tuple[str, str, str], Version] = field(default_factory=dict)
    aliases: dict[tuple[str, str, str], str] = field(default_factory=dict)
    #: by run: the content of its dataset
    datasets: dict[str, str] = field(default_factory=dict)
    #: (run, path) of files that a tag of the run names
    named_files: list[tuple[str, str]] = field(default_factory=list)
    traces: Traces = field(default_factory=lambda: Traces())


@dataclass
class Traces:
    """Traces by their IDs. Their spans are in the database, among the artifacts, or archived there;
    attachments are always among the artifacts."""

    locations: dict[str, str] = field(default_factory=dict)
    archives: dict[str, str] = field(default_factory=dict)
    in_database: set[str] = field(default_factory=set)
    #: (trace, attachment)
    attachments: list[tuple[str, str]] = field(default_factory=list)

    def files(self) -> Iterator[tuple[str, str]]:
        """Each trace with the URI of a file or directory that it needs."""
        for trace, location in self.archives.items():
            yield trace, location
        for trace, location in self.locations.items():
            if trace not in self.in_database and trace not in self.archives:
                yield trace, f"{location}/traces.json"
        for trace, attachment in self.attachments:
            if trace in self.locations:
                yield trace, f"{self.locations[trace]}/attachments/{attachment}"


Row = dict[str, str | None]


def _text(row: Row, column: str) -> str:
    return row.get(column) or ""


def _run(contents: Contents, row: Row) -> None:
    location, active = _text(row, "artifact_uri"), row.get("lifecycle_stage") != "deleted"
    contents.runs[_text(row, "run_uuid")] = Run(location, active)


def _logged_model(contents: Contents, row: Row) -> None:
    ready = row.get("status") == _READY and row.get("lifecycle_stage") != "deleted"
    model = LoggedModel(_text(row, "artifact_location"), ready)
    contents.logged_models[_text(row, "model_id")] = model


def _version(contents: Contents, row: Row) -> None:
    if row.get("current_stage") == _DELETED:
        return
    name, number = _text(row, "name"), _text(row, "version")
    location = _text(row, "storage_location") or _text(row, "source")
    version = Version(name, number, location, row.get("status") == "READY")
    contents.versions[_text(row, "workspace"), name, number] = version


def _alias(contents: Contents, row: Row) -> None:
    key = (_text(row, "workspace"), _text(row, "name"), _text(row, "alias"))
    contents.aliases[key] = _text(row, "version")


def _tag(contents: Contents, row: Row) -> None:
    run, key, value = _text(row, "run_uuid"), row.get("key"), _text(row, "value")
    if key == DATASET_TAG:
        contents.datasets[run] = value
    elif key == _LOGGED_TAG:
        with suppress(ValueError, TypeError, AttributeError):
            paths = [item["path"] for item in json.loads(value) if "path" in item]
            contents.named_files += [(run, str(path)) for path in paths]


def _trace_tag(contents: Contents, row: Row) -> None:
    trace, key, value = _text(row, "request_id"), row.get("key"), _text(row, "value")
    if key == _TRACE_FILES:
        contents.traces.locations[trace] = value
    elif key == _TRACE_ARCHIVE:
        contents.traces.archives[trace] = value
    elif key == _TRACE_SPANS and value == _IN_DATABASE:
        contents.traces.in_database.add(trace)


def _span(contents: Contents, row: Row) -> None:
    found = _ATTACHMENT.findall(_text(row, "content"))
    contents.traces.attachments += [(trace, attachment) for attachment, trace in found]


def _schema(contents: Contents, row: Row) -> None:
    contents.schema = _text(row, "version_num")


def _auth_schema(contents: Contents, row: Row) -> None:
    contents.auth_schema = _text(row, "version_num")


def _secret(contents: Contents, row: Row) -> None:
    contents.secrets += 1


def _experiment(contents: Contents, row: Row) -> None:
    contents.experiments += 1


_TABLES: dict[str, Callable[[Contents, Row], None]] = {
    "alembic_version": _schema,
    "alembic_version_auth": _auth_schema,
    "experiments": _experiment,
    "logged_models": _logged_model,
    "model_versions": _version,
    "registered_model_aliases": _alias,
    "runs": _run,
    "secrets": _secret,
    "spans": _span,
    "tags": _tag,
    "trace_tags": _trace_tag,
}
#: the tables that are read
TABLES = tuple(_TABLES)
#: rows that are looked at only if they hold one of these: runs and traces have many
_WANTED: dict[str, tuple[bytes, ...]] = {
    "tags": (DATASET_TAG.encode(), _LOGGED_TAG.encode()),
    "trace_tags": (_TRACE_FILES.encode(), _TRACE_SPANS.encode(), _TRACE_ARCHIVE.encode()),
    "spans": (b"mlflow-attachment://",),
}


def parse(lines: Iterable[bytes]) -> Contents:
    """Read the COPY statements in this text; all else in it is passed over."""
    contents = Contents()
    take: Callable[[Contents, Row], None] | None = None
    columns: list[str] = []
    wanted: tuple[bytes, ...] = ()
    copying = False
    for data in lines:
        if (
            copying
            and wanted
            and not data.startswith(b"\\.")
            and not any(w in data for w in wanted)
        ):
            continue
        line = data.decode(errors="replace").rstrip("\n")
        if copying:
            if line == "\\.":
                copying = False
            elif take is not None:
                take(contents, dict(zip(columns, map(_value, line.split("\t")), strict=False)))
        elif match := _COPY.fullmatch(line):
            copying, table = True, match[1]
            take, wanted = _TABLES.get(table), _WANTED.get(table, ())
            columns = [name.strip(' "') for name in match[2].split(",")]
        elif match := _DUMPED.match(line):
            if match[1] == "by pg_dump":
                contents.pg_dump = int(match[2])
            else:
                contents.postgresql = int(match[2])
    if copying:
        raise Mismatch("the dump ends in the middle of a table")
    return contents


def _value(text: str) -> str | None:
    if text == "\\N":
        return None
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda match: _ESCAPES.get(match[1], match[1]), text)


def from_text(chunks: Iterable[bytes]) -> Contents:
    """The contents of a text of COPY statements that comes in pieces."""
    return parse(_lines(chunks))


class DumpReader:
    """Reads a dump while it passes by: `feed` every piece of it, then `finish`.

    A reader that fails raises only in `finish`: what passes by is not held up.
    """

    def __init__(self, major: int = 0) -> None:
        command = [find("pg_restore", major), "--data-only", "-f", "-"]
        command += [f"--table={name}" for name in TABLES]
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - `close` does
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )
        self._contents = Contents()
        self._failure: Exception | None = None
        self._parser = threading.Thread(target=self._parse, daemon=True)
        self._parser.start()
        self._broken = False

    def feed(self, chunk: bytes | memoryview) -> None:
        """The next piece."""
        assert self._process.stdin is not None
        if self._broken:
            return
        try:
            self._process.stdin.write(chunk)
        except OSError:
            self._broken = True

    def through(self, chunks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        """The same pieces, each fed on its way."""
        for chunk in chunks:
            self.feed(chunk)
            yield chunk

    def finish(self) -> Contents:
        """What the whole dump mentions. Raises Mismatch for a dump that cannot be read."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._parser.join()
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read()[-2000:].decode(errors="replace").strip()
        self._errors.close()
        if code:
            reason = "; ".join(said.splitlines()[:3]).removeprefix("pg_restore: error: ")
            raise UnreadableDump(
                f"the dump cannot be read: {reason}: if it is of a newer PostgreSQL, install the"
                " client of that version; else restore another snapshot"
            )
        if self._failure is not None:
            raise self._failure
        return self._contents

    def close(self) -> None:
        """End it, finished or not."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._parser.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self._errors.close()

    def _parse(self) -> None:
        assert self._process.stdout is not None
        try:
            self._contents = parse(self._process.stdout)
        except Exception as error:
            self._failure = error
            for _ in self._process.stdout:
                pass


class UnreadableDump(Mismatch):
    """`pg_restore` cannot read the dump: it is damaged, or of a newer major version."""


def read_dump(chunks: Iterable[bytes | memoryview], major: int = 0) -> Contents:
    """What a dump mentions. Raises Mismatch if it is damaged."""
    reader = DumpReader(major)
    try:
        for chunk in chunks:
            reader.feed(chunk)
        return reader.finish()
    finally:
        reader.close()


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest


class NotTracking(HoldfastError):
    """The database holds no tracking server's tables."""
