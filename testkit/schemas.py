"""The strict JSON schemas of Kubernetes 1.35: unknown fields are errors."""

import functools
from typing import Any

import kubernetes_validate
from kubernetes_validate import utils

# The library reads 1.5 MB of definitions again for each object.
utils.schema_contents = functools.cache(utils.schema_contents)

Invalid = kubernetes_validate.ValidationError


def check(manifest: dict[str, Any]) -> None:
    """Raise ``Invalid`` when Kubernetes 1.35 would not know a field, or misses one."""
    kubernetes_validate.validate(manifest, "1.35", strict=True)
