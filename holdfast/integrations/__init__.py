"""Training frameworks whose checkpoints become bundles; `docs/frameworks/` has a page for each.

`run` is what all of them share: what to go on from, and each save, for all ranks. A framework's
library is imported by its own module alone.
"""
