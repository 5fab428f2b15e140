"""What an EKS stack pins, in one place: an upgrade is a change of this file and of nothing else.

Add-on versions belong to one Kubernetes minor version. To list those that AWS offers:
`aws eks describe-addon-versions --kubernetes-version 1.35 --addon-name vpc-cni`; the node image:
`aws ssm get-parameter --name /aws/service/eks/optimized-ami/1.35/amazon-linux-2023/x86_64/nvidia/
recommended/release_version`.
"""

from types import MappingProxyType

KUBERNETES = "1.35"

#: Standard support of KUBERNETES ends on this day; then AWS upgrades the control plane by itself.
SUPPORTED_UNTIL = "2027-03-27"

#: The release of every AL2023 node image. Nodes are replaced when this changes, never otherwise.
NODE_RELEASE = "1.35.6-20260728"

#: Needed by nodes while they join, so installed before there is one.
ADDONS_BEFORE_NODES = MappingProxyType(
    {
        "vpc-cni": "v1.22.4-eksbuild.3",
        "kube-proxy": "v1.35.3-eksbuild.18",
        "eks-pod-identity-agent": "v1.4.0-eksbuild.1",
    }
)

#: Deployments among these wait for nodes: installed before, CoreDNS is DEGRADED for 20 minutes.
ADDONS_AFTER_NODES = MappingProxyType(
    {
        "coredns": "v1.14.3-eksbuild.3",
        "snapshot-controller": "v8.6.0-eksbuild.4",
        "aws-ebs-csi-driver": "v1.63.1-eksbuild.1",
        "aws-efs-csi-driver": "v3.4.1-eksbuild.1",
        "aws-fsx-csi-driver": "v1.9.0-eksbuild.1",
        "eks-node-monitoring-agent": "v1.7.0-eksbuild.1",
    }
)

ADDONS = MappingProxyType({**ADDONS_BEFORE_NODES, **ADDONS_AFTER_NODES})

#: Helm charts: repository, chart, version.
NVIDIA_DEVICE_PLUGIN = (
    "https://nvidia.github.io/k8s-device-plugin",
    "nvidia-device-plugin",
    "0.20.0",
)
EFA_DEVICE_PLUGIN = ("https://aws.github.io/eks-charts", "aws-efa-k8s-device-plugin", "v0.5.30")
