"""The state of a whole pipeline: the tracking database, its artifacts, and what they refer to."""
