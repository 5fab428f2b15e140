"""The example workload: a small GPT, trained with PyTorch, that loses nothing when it is killed.

`python -m training` runs it. It uses the `holdfast` package as any other workload would.
"""
