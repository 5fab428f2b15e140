"""What every stack has, whatever it runs on: images, Kanister, the backup store, the workloads."""

#: Namespaces that the cluster or another layer owns.
SYSTEM_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease", "holdfast-system")
