"""The Kubernetes half of a stack: what is declared in a cluster, whoever made the cluster."""
