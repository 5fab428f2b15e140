"""What holds for every test."""

import gc

# The SDKs are a million objects that stay. Looking at them all as often as Python does by default
# takes half of the time that a stack's graph takes.
gc.set_threshold(100_000, 50, 1000)
