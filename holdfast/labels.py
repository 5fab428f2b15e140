"""The labels that Holdfast itself reads, and the order of bundles that follows from them.

Labels are free, but a few mean something to push, keep-K or the trainer. A writer refuses values
that these could not use; a reader takes such a value as if the label were missing.
`docs/format.md` is the specification.
"""

import re
from collections.abc import Mapping

from holdfast.manifest import MAX_INTEGER, component_problem

Labels = Mapping[str, str | int]

_INTEGERS = {
    "generation": (1, MAX_INTEGER),
    "step": (0, MAX_INTEGER),
    "world_size": (1, MAX_INTEGER),
    "healthy": (0, 1),
}
#: marks a bundle that was streamed to a store before its digest was known
UPLOAD = "upload"
_UPLOAD = re.compile(r"[0-9a-f]{64}", re.ASCII)
_STEP_NAME = re.compile(r"step-([0-9]+)", re.ASCII)
_DIGITS = re.compile(rb"([0-9]+)")


def label_problems(labels: Labels) -> list[str]:
    """Every label among those that Holdfast reads whose value it could not use."""
    problems = []
    if UPLOAD in labels:
        problems.append("invalid label upload: only a bundle streamed to a store has it; leave out")
    if "run" in labels:
        run = labels["run"]
        problem = component_problem(run) if isinstance(run, str) else "use a name, not a number"
        if problem:
            problems.append(f"invalid label run={run!r}: {problem}")
    for key, (low, high) in _INTEGERS.items():
        if key in labels and _integer(labels, key) is None:
            rule = "0 or 1" if high == 1 else f"an integer from {low} to {high}"
            problems.append(f"invalid label {key}={labels[key]!r}: use {rule}")
    return problems


def made_in(labels: Labels, run: str, generation: int) -> tuple[str, int]:
    """The run and the generation in which a bundle was made; the given ones where labels lack."""
    made = labels.get("run")
    if not isinstance(made, str) or component_problem(made):
        made = run
    return made, _integer(labels, "generation") or generation


def upload_of(labels: Labels) -> str | None:
    """What stands for the digest in the path of a bundle that was streamed to a store: its label
    `upload`, 64 random hexadecimal digits; None for every other bundle."""
    upload = labels.get(UPLOAD)
    return upload if isinstance(upload, str) and _UPLOAD.fullmatch(upload) else None


def step_of(name: str, labels: Labels) -> int | None:
    """The training step of a bundle: its label `step`, else the number in a name like `step-7`."""
    step = _integer(labels, "step")
    if step is None and (match := _STEP_NAME.fullmatch(name)):
        return int(match[1])
    return step


def is_healthy(labels: Labels) -> bool | None:
    """Whether whoever saved the bundle marked it as good (`healthy` 1) or bad (0); None if neither.

    A bad one holds every byte that was saved, but not a state to train on, such as NaN weights.
    """
    mark = _integer(labels, "healthy")
    return None if mark is None else mark == 1


def newness(name: str, labels: Labels) -> tuple[object, ...]:
    """Sorts the bundles of one generation: the greatest is the newest.

    Steps are compared as numbers. Bundles without a step are older than all that have one; among
    them, and at equal steps, names are compared with each run of digits as one number, so that
    `epoch-10` is newer than `epoch-9`.
    """
    step = step_of(name, labels)
    text = name.encode(errors="surrogateescape")
    parts = _DIGITS.split(text)  # text and digits in turn, so that tuples compare like with like
    natural = tuple(int(part) if i % 2 else part for i, part in enumerate(parts))
    return (step is not None, step or 0, natural, text)


def _integer(labels: Labels, key: str) -> int | None:
    """The label as an integer within its bounds, else None."""
    value, (low, high) = labels.get(key), _INTEGERS[key]
    return value if isinstance(value, int) and low <= value <= high else None
