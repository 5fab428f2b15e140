"""How fast the data plane is, and how much it takes: each figure beside a peer's of the same run.

`python -m bench` (or ``make bench``) asks the questions, one module each, and writes the answers
into ``docs/benchmarks.md``. Client and server share the machine, so ratios mean something and
absolute figures little.
"""
