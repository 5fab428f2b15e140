"""The verbs of `holdfast pipeline`: one snapshot of a database and its artifacts."""
