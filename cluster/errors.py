"""What goes wrong, in one line with the remedy."""


class ClusterProblem(Exception):
    """The cluster, or a tool for it, cannot be made or used."""
