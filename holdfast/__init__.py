"""Holdfast: immutable bundles on a volume, verified copies of them in a store, and the way back.

A *bundle* is a directory with a `MANIFEST.json` that was written last; `docs/format.md` is its
specification. Start at `holdfast.bundle` (one bundle) and `holdfast.volume` (all bundles of a run).
"""

#: By PEP 440: the version that is being developed, `.dev0`, until a release is tagged.
__version__ = "0.2.0.dev0"
