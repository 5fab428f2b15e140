"""Made-up outputs of AWS resources, for a graph that is collected with no cloud.

They have the form of the real ones: a resource that refers to another's ARN or zone gets one that
looks real and names the resource that it belongs to.
"""

import json
from typing import Any

ACCOUNT, REGION = "123456789012", "us-east-1"


def outputs_of(kind: str, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """The outputs of one resource of AWS that are not among its inputs.

    Args:
        kind: the type token, ``aws:kms/key:Key``.
        name: the resource's Pulumi name.
        inputs: as declared.
    """
    if kind == "eks:index:Cluster":
        return _cluster(inputs)
    if kind == "random:index/randomPassword:RandomPassword":
        return {"result": f"{name}-made-by-pulumi"}
    package, _, rest = kind.partition(":")
    if package != "aws":
        return {}
    service, _, what = rest.rpartition(":")[0].partition("/")
    arn = f"arn:aws:{service}:{REGION}:{ACCOUNT}:{what}/{name}"
    match kind:
        case "aws:iam/role:Role":
            return {"arn": f"arn:aws:iam::{ACCOUNT}:role/{name}", "name": name}
        case "aws:kms/key:Key":
            return {"arn": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{name}", "keyId": name}
        case "aws:cloudwatch/logGroup:LogGroup":
            return {"arn": f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{inputs['name']}"}
        case "aws:s3/bucket:Bucket":
            return {"arn": f"arn:aws:s3:::{inputs['bucket']}"}
        case "aws:sqs/queue:Queue":
            return {"arn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}", "name": name, "url": name}
        case "aws:cloudwatch/eventRule:EventRule" | "aws:iam/instanceProfile:InstanceProfile":
            return {"arn": arn, "name": name}
        case "aws:ec2/subnet:Subnet":
            return {"arn": arn, "availabilityZone": f"zone-{inputs['availabilityZoneId']}"}
        case "aws:ec2/launchTemplate:LaunchTemplate":
            return {"arn": arn, "latestVersion": 1}
        case "aws:ecr/repository:Repository":
            url = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{inputs['name']}"
            return {"arn": arn, "repositoryUrl": url}
        case "aws:fsx/lustreFileSystem:LustreFileSystem":
            host = f"{name}-id.fsx.{REGION}.amazonaws.com"
            return {"arn": arn, "dnsName": host, "mountName": "fsx"}
        case "aws:ec2/placementGroup:PlacementGroup":
            return {"arn": arn, "name": name}
    return {"arn": arn}


def answer_to(token: str, args: dict[str, Any]) -> dict[str, Any]:
    """What AWS answers to a look-up of something that is there: what was asked for, and more.

    Raises:
        LookupError: for a call that no program of ours makes.
    """
    match token:
        case "aws:ec2/getVpc:getVpc":
            return {**args, "enableDnsHostnames": True, "enableDnsSupport": True}
        case "aws:ec2/getSubnet:getSubnet":
            return {**args, "availabilityZone": f"zone-{args['availabilityZoneId']}"}
        case "aws:ec2/getVpcEndpoint:getVpcEndpoint":
            return {**args, "id": f"vpce-{args['serviceName']}"}
    raise LookupError(f"the program calls {token}, which the graph has no answer for")


def _cluster(inputs: dict[str, Any]) -> dict[str, Any]:
    name = inputs["name"]
    server = {"server": f"https://{name}.eks.{REGION}.amazonaws.com"}
    token = {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": "aws",
             "args": ["eks", "get-token", "--cluster-name", name]}  # fmt: skip
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "aws",
        "clusters": [{"name": "kubernetes", "cluster": server}],
        "contexts": [{"name": "aws", "context": {"cluster": "kubernetes", "user": "aws"}}],
        "users": [{"name": "aws", "user": {"exec": token}}],
    }
    return {
        "kubeconfig": kubeconfig,
        "kubeconfigJson": json.dumps(kubeconfig),
        "clusterSecurityGroupId": f"{name}-made-by-eks-id",
    }
