"""Make bundles of the checkpoints that any framework finishes in a directory.

A framework either gives a checkpoint its name when it is finished, or writes one file of it last:
that is the rule. What changes or goes away while it is copied becomes no bundle.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from holdfast import durable
from holdfast.bundle import Bundle, BundleWriter, Tree
from holdfast.errors import CommitRefused, HoldfastError, UsageError
from holdfast.manifest import FileEntry, canonical
from holdfast.recovery.writers import Writer, void_stages
from holdfast.volume import Volume

#: the rule of frameworks that write under another name and rename
RENAMED = "renamed"

#: in a generation: what each directory held when it was watched for the first time
_NOTES = ".watched"
_NUMBER = re.compile(r"[0-9]+", re.ASCII)


class Watch:
    """Looks for finished checkpoints; one process at a time writes to a run."""

    def __init__(
        self,
        directory: Path,
        pattern: str,
        complete_when: str,
        volume: Volume,
        keep: int,
        say: Callable[[str], None],
    ) -> None:
        """Directories whose name matches `pattern` are checkpoints; its last number is the step.

        `complete_when` is RENAMED or a pattern of the file in a checkpoint that is written last.
        """
        rule = PurePosixPath(complete_when)
        if rule.is_absolute() or ".." in rule.parts or not rule.parts:
            raise UsageError(
                f"invalid rule '{complete_when}': use '{RENAMED}', or the name of the file that is"
                " written last, such as trainer_state.json"
            )
        self._directory = directory
        self._pattern = pattern
        self._rule = complete_when
        self._volume = volume
        self._keep = keep
        self._say = say
        self._said: set[str] = set()
        #: held until this process ends: while the framework runs, no restore switches the run
        self._writer = Writer(volume)
        if os.environ.get("HOLDFAST_DECISION") is None:  # else an init container did it
            void_stages(volume)
        self._generation = volume.present() or 1
        self._left = self._left_behind() if self._generation > 1 else {}

    def close(self) -> None:
        """The framework has ended: restores may switch the run again."""
        self._writer.close()

    def look(self) -> list[Bundle]:
        """Make bundles of what is finished and newer than the newest bundle, in order of steps.

        What cannot become a bundle is said, once, and looked at again the next time. Raises
        Superseded if a restore made another generation the present one: what the framework writes
        now belongs to the one before.
        """
        self._writer.require_present(self._generation)
        generation = self._generation
        steps = [bundle.step for bundle in self._volume.bundles(generation)]
        newest = max((step for step in steps if step is not None), default=-1)
        made = []
        for step, path in sorted(self._finished()):
            if step <= newest:
                continue
            try:
                if path.name in self._left and self._left[path.name] == _digest(path):
                    self._say_once(
                        f"'{path}' was there before generation {generation} began: it belongs to"
                        " what was restored away, and is no bundle"
                    )
                    continue
                made.append(self._commit(path, step, generation))
            except (HoldfastError, OSError) as error:
                self._say_once(f"'{path}' is no bundle: {error}")
        if made:
            self._volume.keep(self._keep)
        return made

    def _left_behind(self) -> dict[str, str]:
        """What a restore left in the directory, by name: the history after the restored step.

        Noted once, when the first watch of a generation begins: what the framework finishes while
        no watch runs is new. Raises HoldfastError for a note that cannot be read.
        """
        name = hashlib.sha256(os.fsencode(self._directory.absolute())).hexdigest()[:16]
        note = self._volume.generation_path(self._generation) / _NOTES / f"{name}.json"
        try:
            return json.loads(note.read_bytes())
        except FileNotFoundError:
            pass
        except ValueError as error:
            raise HoldfastError(
                f"'{note}' is no JSON ({error}): remove it, and of '{self._directory}' what is not"
                f" of generation {self._generation}"
            ) from None
        found = {path.name: _digest(path) for path in self._checkpoints()}
        note.parent.mkdir(exist_ok=True)
        durable.write_durably(note, canonical(found))
        return found

    def _checkpoints(self) -> Iterator[Path]:
        for path in durable.entries(self._directory):
            if fnmatch.fnmatchcase(path.name, self._pattern) and durable.is_directory(path):
                yield path

    def _finished(self) -> list[tuple[int, Path]]:
        found = []
        for path in self._checkpoints():
            numbers = _NUMBER.findall(path.name)
            if not numbers:
                self._say_once(f"'{path}' has no number in its name: its step is unknown")
            elif self._rule == RENAMED or any(path.glob(self._rule)):
                found.append((int(numbers[-1]), path))
        return found

    def _commit(self, source: Path, step: int, generation: int) -> Bundle:
        parent = self._volume.generation_path(generation)
        with BundleWriter(parent, f"step-{step:08d}", "checkpoint") as writer:
            with durable.no_space_named(writer.path):
                before = _signature(source)
                tree = Tree.of(source)
                if problems := tree.problems():
                    raise CommitRefused(problems)
                durable.check_space(writer.path, sum(tree.files.values()), spare=0)
                for directory in tree.directories:
                    (writer.path / directory).mkdir()

                def copy(path: str) -> FileEntry:
                    digest, size = durable.copy_file(source / path, writer.path / path)
                    return FileEntry(path=path, size=size, sha256=digest)

                entries = durable.in_threads(copy, list(tree.files))
            if _signature(source) != before:
                raise CommitRefused(["it changed while it was copied: the rule is not right"])
            labels = {"run": self._volume.run, "generation": generation, "step": step}
            bundle = writer.commit(labels, entries)
        self._say(f"committed {bundle.name} of '{source}'")
        return bundle

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)


def _digest(root: Path) -> str:
    """The signature of a directory, in a form that can be kept."""
    return hashlib.sha256(json.dumps(_signature(root), sort_keys=True).encode()).hexdigest()


def _signature(root: Path) -> dict[str, tuple[int, int, int]]:
    """What tells that a file was written, replaced, added or removed."""
    found = {}
    for path in Tree.of(root).files:
        status = (root / path).lstat()
        found[path] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found
