"""Holdfast: immutable bundles on a volume, verified copies of them in a store, and the way back.

A *bundle* is a directory with a `MANIFEST.json` that was written last; `docs/format.md` is its
specification. Start at `holdfast.bundle` (one bundle) and `holdfast.volume` (all bundles of a run).
"""

__version__ = "0.1.0"
