"""What stands in for Kubernetes and Kanister: the stack's objects, run as processes."""
