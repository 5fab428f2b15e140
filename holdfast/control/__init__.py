"""The control plane: what talks to a cluster."""
