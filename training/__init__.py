"""The example workload: a small GPT that is trained with PyTorch and loses nothing when it dies.

`python -m training` runs it. A user of the `holdfast` package like any other, not a privileged one.
"""
