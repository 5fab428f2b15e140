"""The cluster has what the stack declares: neither engine, provider nor API server dropped a field.

The graph on mocks cannot see that: Pulumi's provider drops what its own client library does not
know, and the API server what a feature gate turns off, both without a word.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from infra.plan.graph import collect
from infra.settings import parse
from tests.e2e import kube
from tests.e2e.conftest import Stack, settings

pytestmark = pytest.mark.e2e
#: Written, and never read back.
_WRITE_ONLY = {"stringData"}


def test_no_field_that_the_stack_declares_is_missing_in_the_cluster(training: Stack) -> None:
    values = {key.removeprefix("holdfast:"): value for key, value in settings().items()}
    missing = [
        f"{manifest['kind']} {manifest['metadata']['name']}: {path}"
        for manifest in collect(parse(values), "e2e").kubernetes()
        for path in _missing(manifest, _live(manifest), "")
    ]
    assert not missing


def _live(manifest: dict[str, Any]) -> Any:
    group, _, version = manifest["apiVersion"].rpartition("/")
    kind = f"{manifest['kind']}.{version}.{group}" if group else manifest["kind"]
    metadata = manifest["metadata"]
    return kube.get(kind, metadata["name"], metadata.get("namespace", "default"))


def _missing(declared: Any, live: Any, path: str) -> Iterator[str]:
    """The paths that are declared and not there. Values are the API server's to write in its way,
    and what is declared empty says nothing."""
    if isinstance(declared, dict):
        for key, value in declared.items():
            if key in _WRITE_ONLY or value in (None, {}, [], "", False, 0):
                continue
            if not isinstance(live, dict) or key not in live:
                yield f"{path}.{key}"
            else:
                yield from _missing(value, live[key], f"{path}.{key}")
    elif isinstance(declared, list):
        if not isinstance(live, list) or len(live) < len(declared):
            yield f"{path}[{len(declared)}]"
            return
        for number, value in enumerate(declared):
            yield from _missing(value, live[number], f"{path}[{number}]")
