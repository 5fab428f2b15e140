"""A real single-node Kubernetes, and the real Pulumi engine, on a plain Debian machine.

For machines without kind, minikube or Docker: everything is built from Go modules and Debian
packages, and started and stopped as plain processes.
"""
