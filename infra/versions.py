"""What a stack pins, in one place: an upgrade is a change of this file and of nothing else.

Add-on versions and the node image belong to one Kubernetes minor version. Those here are what AWS
offered for it in July and August 2026, by public files, since no one has asked AWS itself yet:

- vpc-cni, coredns: the EKS user guide's tables of the latest version for each minor version;
- kube-proxy, eks-pod-identity-agent, EBS, EFS, snapshot-controller, eks-node-monitoring-agent:
  settings of a cluster of 1.35 that a script writes from ``aws eks describe-addon-versions``
  (devopscoop/aws-eks-template); the FSx driver: public Terraform for 1.35;
- the node image: awslabs/amazon-eks-ami, release v20260728: one release version for all kinds of
  AL2023 images, NVIDIA's among them;
- the end of support: the EKS user guide and endoflife.date/amazon-eks.

To each other: kube-proxy has the control plane's minor version; the EBS driver is new enough for
AmazonEBSCSIDriverPolicyV2 (1.58); every driver's add-on takes Pod Identity. docs/eks.md says how to
ask AWS for the present ones.
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
