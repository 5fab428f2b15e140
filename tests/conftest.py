"""What holds for every test."""

import gc

from hypothesis import settings

# The SDKs are a million objects that stay. Looking at them all as often as Python does by default
# takes half of the time that a stack's graph takes.
gc.set_threshold(1_000_000, 50, 1000)

# How long an example takes says something about the machine's load, not about the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
