"""What tests and benchmarks share: an S3 server and a proxy that injects faults, stores, builders
of volumes and of stacks, a stand-in for the Kubernetes API."""
