"""The strict JSON schemas of our version of Kubernetes: unknown fields are errors."""

import functools
from typing import Any

import kubernetes_validate
from kubernetes_validate import utils

from infra.versions import KUBERNETES

# The library reads 1.5 MB of definitions again for each object.
utils.schema_contents = functools.cache(utils.schema_contents)

Invalid = kubernetes_validate.ValidationError


def check(manifest: dict[str, Any]) -> None:
    """Raise ``Invalid`` when Kubernetes does not know a field, or misses one."""
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
