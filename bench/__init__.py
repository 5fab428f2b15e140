"""Time and memory of the data plane, each figure beside a peer's from the same run.

`python -m bench` (or ``make bench``) answers the questions, one module each, and writes the results
into ``docs/benchmarks.md``. Client and server share the machine, so ratios mean something and
absolute figures little.
"""
