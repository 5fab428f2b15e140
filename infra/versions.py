"""What an EKS stack pins, by minor version of Kubernetes: an upgrade is a change of settings, and a
new version is a change of this file and of nothing else.

Add-on versions and the node image belong to one minor version. Those here are what AWS offered for
it in July and August 2026, by public files, since no one has asked AWS itself yet:

- 1.35. vpc-cni, coredns: the EKS user guide's tables of the latest version for each minor version;
  kube-proxy, eks-pod-identity-agent, EBS, EFS, snapshot-controller, eks-node-monitoring-agent:
  settings of a cluster of 1.35 that a script writes from ``aws eks describe-addon-versions``
  (devopscoop/aws-eks-template); the FSx driver: public Terraform for 1.35;
- 1.36. vpc-cni, kube-proxy, coredns: what a cluster of 1.36 got in a public record of its tests;
  the others do not differ from one minor version to the next;
- node images: awslabs/amazon-eks-ami, releases v20260728 (1.35) and v20260714 (1.36): one release
  version for all kinds of AL2023 images, NVIDIA's among them;
- kubectl: the version of the node image, within one minor version of the control plane;
- the end of support: the EKS user guide and endoflife.date/amazon-eks.

To each other: kube-proxy has the control plane's minor version; the EBS driver is new enough for
AmazonEBSCSIDriverPolicyV2 (1.58); every driver's add-on takes Pod Identity. `make versions` says
what is newer and what runs out; docs/upgrade.md how to go on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType


@dataclass(frozen=True)
class Minor:
    """What belongs to one minor version of Kubernetes on EKS."""

    supported_until: date
    """The last day of standard support; then AWS upgrades the control plane by itself."""
    node_release: str
    """The release of every AL2023 node image. Nodes are replaced when this changes, never
    otherwise."""
    kubectl: str
    """The kubectl to use with it."""
    addons: Mapping[str, str]
    """EKS add-ons, by name."""


#: When these pins were last compared with what there is.
CHECKED = date(2026, 8, 21)

#: Add-ons that do not differ from one minor version to the next.
_ADDONS = {
    "vpc-cni": "v1.22.4-eksbuild.3",
    "eks-pod-identity-agent": "v1.4.0-eksbuild.1",
    "snapshot-controller": "v8.6.0-eksbuild.4",
    "aws-ebs-csi-driver": "v1.63.1-eksbuild.1",
    "aws-efs-csi-driver": "v3.4.1-eksbuild.1",
    "aws-fsx-csi-driver": "v1.9.0-eksbuild.1",
    "eks-node-monitoring-agent": "v1.7.0-eksbuild.1",
}

#: From the oldest to the newest.
MINORS: Mapping[str, Minor] = MappingProxyType(
    {
        "1.35": Minor(
            supported_until=date(2027, 3, 27),
            node_release="1.35.6-20260728",
            kubectl="1.35.6",
            addons=_ADDONS | {"kube-proxy": "v1.35.3-eksbuild.18", "coredns": "v1.14.3-eksbuild.3"},
        ),
        "1.36": Minor(
            supported_until=date(2027, 8, 2),
            node_release="1.36.2-20260714",
            kubectl="1.36.2",
            addons=_ADDONS
            | {"kube-proxy": "v1.36.0-eksbuild.21", "coredns": "v1.14.3-eksbuild.16"},
        ),
    }
)

#: What a stack has that names no version.
KUBERNETES = "1.35"

#: From when on a pod can restart all its containers in place: the feature gates
#: RestartAllContainersOnContainerExits and NodeDeclaredFeatures are on by default
#: (pkg/features/kube_features.go of Kubernetes 1.36.2; in 1.35 both are alpha, and off).
RESTARTS_ALL_CONTAINERS = "1.36"

#: Needed by nodes while they join, so installed before there is one.
ADDONS_BEFORE_NODES = ("vpc-cni", "kube-proxy", "eks-pod-identity-agent")
#: Deployments among these wait for nodes: installed before, CoreDNS is DEGRADED for 20 minutes.
ADDONS_AFTER_NODES = (
    "coredns",
    "snapshot-controller",
    "aws-ebs-csi-driver",
    "aws-efs-csi-driver",
    "aws-fsx-csi-driver",
    "eks-node-monitoring-agent",
)
ADDONS = ADDONS_BEFORE_NODES + ADDONS_AFTER_NODES

#: Helm charts: repository, chart, version. Kanister's version is also the chart's.
KANISTER = ("https://charts.kanister.io", "kanister-operator", "0.119.0")
NVIDIA_DEVICE_PLUGIN = (
    "https://nvidia.github.io/k8s-device-plugin",
    "nvidia-device-plugin",
    "0.20.0",
)
EFA_DEVICE_PLUGIN = ("https://aws.github.io/eks-charts", "aws-efa-k8s-device-plugin", "v0.5.30")
#: Karpenter and its kinds (charts/karpenter/Chart.yaml of aws/karpenter-provider-aws, 2026-08-21).
KARPENTER = ("oci://public.ecr.aws/karpenter/karpenter", "1.14.1")
KARPENTER_KINDS = ("oci://public.ecr.aws/karpenter/karpenter-crd", "1.14.1")
