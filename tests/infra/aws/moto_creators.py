"""How each type of resource is created on moto: the call of AWS' API that it comes to."""

import json
from collections.abc import Callable
from typing import Any

from infra.plan.fake_outputs import outputs_of

Inputs = dict[str, Any]
Answer = tuple[str, dict[str, Any]]
Call = Callable[..., dict[str, Any]]
"""Service, operation and its parameters in, AWS' answer out."""
Creator = Callable[[Call, str, Inputs], Answer]
"""Pulumi name and inputs in, id and outputs out."""


def _api(value: Any) -> Any:
    """Names as most of AWS' APIs write them: ``vpcId`` is ``VpcId``."""
    if isinstance(value, dict):
        return {key[0].upper() + key[1:]: _api(item) for key, item in value.items()}
    return [_api(item) for item in value] if isinstance(value, list) else value


def _at(response: dict[str, Any], path: str) -> Any:
    for step in path.split("."):
        response = response[int(step)] if step.isdigit() else response[step]  # type: ignore[index]
    return response


def _creator(
    service: str,
    operation: str,
    parameters: Callable[[Inputs], dict[str, Any]],
    identifier: str,
    **outputs: str,
) -> Creator:
    """One call makes it; ``identifier`` and ``outputs`` are paths in the answer, or with ``=``
    in front the name of an input."""

    def create(call: Call, name: str, inputs: Inputs) -> Answer:
        response = call(service, operation, **parameters(inputs))
        if identifier.startswith("="):
            return inputs[identifier[1:]], {}
        return _at(response, identifier), {key: _at(response, at) for key, at in outputs.items()}

    return create


def _all_but(*left_out: str, **added: Callable[[Inputs], Any]) -> Callable[[Inputs], Inputs]:
    """The inputs as the API's parameters, without tags and the named ones, with those given."""

    def parameters(inputs: Inputs) -> Inputs:
        kept = {k: v for k, v in inputs.items() if k not in (*left_out, "tags")}
        return _api(kept) | {key: make(inputs) for key, make in added.items()}

    return parameters


def _bucket_setting(operation: str, parameter: str, value: Callable[[Inputs], Any]) -> Creator:
    return _creator(
        "s3", operation, lambda i: {"Bucket": i["bucket"], parameter: value(i)}, "=bucket"
    )


def _checked(call: Call, policy: str) -> str:
    """A resource's policy, read by moto's grammar of policies, which knows none with principals."""
    text = json.loads(policy)
    for statement in text["Statement"]:
        assert statement.pop("Principal"), "a resource's policy says for whom it is"
    made = call("iam", "create_policy", PolicyName="x", PolicyDocument=json.dumps(text))
    call("iam", "delete_policy", PolicyArn=made["Policy"]["Arn"])
    return policy


def _key(call: Call, name: str, inputs: Inputs) -> Answer:
    made = call(
        "kms", "create_key", Description=inputs["description"],
        Policy=_checked(call, inputs["policy"]),
    )["KeyMetadata"]  # fmt: skip
    return made["KeyId"], {"arn": made["Arn"], "keyId": made["KeyId"]}


def _role(call: Call, name: str, inputs: Inputs) -> Answer:
    trust = inputs["assumeRolePolicy"]
    made = call(
        "iam", "create_role", RoleName=name, Description=inputs["description"],
        AssumeRolePolicyDocument=trust,
    )["Role"]  # fmt: skip
    # moto reads a trust only when it is changed.
    call("iam", "update_assume_role_policy", RoleName=name, PolicyDocument=trust)
    return name, {"arn": made["Arn"], "name": name}


def _log_group(call: Call, name: str, inputs: Inputs) -> Answer:
    group = inputs["name"]
    call("logs", "create_log_group", logGroupName=group, kmsKeyId=inputs["kmsKeyId"])
    days = inputs["retentionInDays"]
    call("logs", "put_retention_policy", logGroupName=group, retentionInDays=days)
    (made,) = call("logs", "describe_log_groups", logGroupNamePrefix=group)["logGroups"]
    return group, {"arn": made["arn"].removesuffix(":*")}


def _internet_gateway(call: Call, name: str, inputs: Inputs) -> Answer:
    made = call("ec2", "create_internet_gateway")["InternetGateway"]["InternetGatewayId"]
    call("ec2", "attach_internet_gateway", InternetGatewayId=made, VpcId=inputs["vpcId"])
    return made, {}


def _security_group(call: Call, name: str, inputs: Inputs) -> Answer:
    made = call(
        "ec2", "create_security_group", GroupName=name,
        Description=inputs["description"], VpcId=inputs["vpcId"],
    )["GroupId"]  # fmt: skip
    _close(call, made)
    return made, {}


def _default_group(call: Call, name: str, inputs: Inputs) -> Answer:
    filters = [
        {"Name": "vpc-id", "Values": [inputs["vpcId"]]},
        {"Name": "group-name", "Values": ["default"]},
    ]
    (group,) = call("ec2", "describe_security_groups", Filters=filters)["SecurityGroups"]
    _close(call, group["GroupId"])
    return group["GroupId"], {}


def _close(call: Call, group: str) -> None:
    """Take away the rules that AWS gives each group, as the provider does."""
    (made,) = call("ec2", "describe_security_groups", GroupIds=[group])["SecurityGroups"]
    for operation, rules in (
        ("revoke_security_group_egress", made["IpPermissionsEgress"]),
        ("revoke_security_group_ingress", made["IpPermissions"]),
    ):
        if rules:
            call("ec2", operation, GroupId=group, IpPermissions=rules)


def _rule(direction: str) -> Creator:
    def parameters(inputs: Inputs) -> dict[str, Any]:
        rule = _api({k: inputs[k] for k in ("ipProtocol", "fromPort", "toPort") if k in inputs})
        what = {"Description": inputs["description"]}
        if "cidrIpv4" in inputs:
            rule["IpRanges"] = [{"CidrIp": inputs["cidrIpv4"], **what}]
        else:
            rule["UserIdGroupPairs"] = [{"GroupId": inputs["referencedSecurityGroupId"], **what}]
        return {"GroupId": inputs["securityGroupId"], "IpPermissions": [rule]}

    return _creator(
        "ec2", f"authorize_security_group_{direction}", parameters,
        "SecurityGroupRules.0.SecurityGroupRuleId",
    )  # fmt: skip


def _launch_template(inputs: Inputs) -> dict[str, Any]:
    left_out = ("description", "updateDefaultVersion", "vpcSecurityGroupIds")
    data = _api({k: v for k, v in inputs.items() if k not in left_out})
    for mapping in data["BlockDeviceMappings"]:
        mapping["Ebs"] |= {
            k: mapping["Ebs"][k] == "true" for k in ("Encrypted", "DeleteOnTermination")
        }
    for card in data.get("NetworkInterfaces", []):
        card["Groups"] = card.pop("SecurityGroups")
        card["DeleteOnTermination"] = card["DeleteOnTermination"] == "true"
    for specification in data["TagSpecifications"]:
        tags = specification["Tags"]
        specification["Tags"] = [{"Key": key, "Value": value} for key, value in tags.items()]
    if "vpcSecurityGroupIds" in inputs:
        data["SecurityGroupIds"] = inputs["vpcSecurityGroupIds"]
    return {
        "LaunchTemplateName": inputs["description"].replace(": ", "-").replace(" ", "-"),
        "LaunchTemplateData": data,
    }


def _bucket(call: Call, name: str, inputs: Inputs) -> Answer:
    bucket = inputs["bucket"]
    locked = inputs.get("objectLockEnabled", False)
    call("s3", "create_bucket", Bucket=bucket, ObjectLockEnabledForBucket=locked)
    return bucket, {"arn": f"arn:aws:s3:::{bucket}"}


def _bucket_policy(call: Call, name: str, inputs: Inputs) -> Answer:
    policy = _checked(call, inputs["policy"])
    call("s3", "put_bucket_policy", Bucket=inputs["bucket"], Policy=policy)
    return inputs["bucket"], {}


def _lifecycle_rule(rule: Inputs) -> Inputs:
    renamed = {"id": "ID"}
    return {renamed.get(key, key[0].upper() + key[1:]): _api(item) for key, item in rule.items()}


def _encryption(inputs: Inputs) -> Inputs:
    (rule,) = inputs["rules"]
    default = rule["applyServerSideEncryptionByDefault"]
    return {
        "Rules": [
            {
                "ApplyServerSideEncryptionByDefault": {
                    "SSEAlgorithm": default["sseAlgorithm"],
                    **({"KMSMasterKeyID": default["kmsMasterKeyId"]} if len(default) > 1 else {}),
                },
                "BucketKeyEnabled": rule["bucketKeyEnabled"],
            }
        ]
    }


def _cluster(call: Call, name: str, inputs: Inputs) -> Answer:
    """What pulumi-eks makes of its inputs."""
    role = call("iam", "get_role", RoleName=inputs["serviceRole"])["Role"]
    public = inputs.get("publicAccessCidrs")
    call(
        "eks", "create_cluster", name=inputs["name"], version=inputs["version"],
        roleArn=role["Arn"],
        resourcesVpcConfig={
            "subnetIds": inputs["subnetIds"],
            "securityGroupIds": [inputs["clusterSecurityGroup"]],
            "endpointPrivateAccess": inputs["endpointPrivateAccess"],
            "endpointPublicAccess": inputs["endpointPublicAccess"],
            **({"publicAccessCidrs": public} if public else {}),
        },
        kubernetesNetworkConfig={"serviceIpv4Cidr": inputs["kubernetesServiceIpAddressRange"]},
        encryptionConfig=[
            {"resources": ["secrets"], "provider": {"keyArn": inputs["encryptionConfigKeyArn"]}}
        ],
        logging={"clusterLogging": [{"types": inputs["enabledClusterLogTypes"], "enabled": True}]},
        accessConfig={"authenticationMode": inputs["authenticationMode"]},
        upgradePolicy=inputs["upgradePolicy"],
        deletionProtection=inputs["deletionProtection"],
        bootstrapSelfManagedAddons=inputs["bootstrapSelfManagedAddons"],
    )  # fmt: skip
    return inputs["name"], outputs_of("eks:index:Cluster", name, inputs)


def _node_group(call: Call, name: str, inputs: Inputs) -> Answer:
    renamed = {"nodeRoleArn": "nodeRole", "subnetIds": "subnets"}
    parameters = {renamed.get(key, key): value for key, value in inputs.items()}
    made = call("eks", "create_nodegroup", nodegroupName=name, **parameters)["nodegroup"]
    return f"{inputs['clusterName']}:{name}", {"arn": made["nodegroupArn"]}


def _repository(inputs: Inputs) -> Inputs:
    (encryption,) = inputs["encryptionConfigurations"]
    return {
        "repositoryName": inputs["name"],
        "imageTagMutability": inputs["imageTagMutability"],
        "imageScanningConfiguration": inputs["imageScanningConfiguration"],
        "encryptionConfiguration": encryption,
    }


def _lustre(inputs: Inputs) -> Inputs:
    of_system = ("kmsKeyId", "securityGroupIds", "storageCapacity", "storageType",
                 "fileSystemTypeVersion")  # fmt: skip
    of_lustre = ("automaticBackupRetentionDays", "copyTagsToBackups", "dataCompressionType",
                 "deploymentType", "perUnitStorageThroughput")  # fmt: skip
    return {
        "FileSystemType": "LUSTRE",
        "SubnetIds": [inputs["subnetIds"]],
        "LustreConfiguration": _api({key: inputs[key] for key in of_lustre}),
        **_api({key: inputs[key] for key in of_system}),
    }


def _lustre_file_system(call: Call, name: str, inputs: Inputs) -> Answer:
    made = call("fsx", "create_file_system", **_lustre(inputs))["FileSystem"]
    # moto says where it is, and not under which name it is mounted.
    return made["FileSystemId"], {"dnsName": made["DNSName"], "mountName": "fsx"}


def _file_system_policy(call: Call, name: str, inputs: Inputs) -> Answer:
    policy = _checked(call, inputs["policy"])
    system = inputs["fileSystemId"]
    call("efs", "put_file_system_policy", FileSystemId=system, Policy=policy)
    return system, {}


def _flow_log(inputs: Inputs) -> Inputs:
    return {
        "ResourceType": "VPC",
        "ResourceIds": [inputs["vpcId"]],
        "DeliverLogsPermissionArn": inputs["iamRoleArn"],
        **_all_but("vpcId", "iamRoleArn")(inputs),
    }


CREATORS: dict[str, Creator] = {
    "aws:cloudwatch/logGroup:LogGroup": _log_group,
    "aws:ebs/volume:Volume": _creator(
        "ec2", "create_volume",
        _all_but("type", VolumeType=lambda i: i["type"]),
        "VolumeId",
    ),
    "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup": _default_group,
    "aws:ec2/eip:Eip": _creator("ec2", "allocate_address", _all_but(), "AllocationId"),
    "aws:ec2/flowLog:FlowLog": _creator("ec2", "create_flow_logs", _flow_log, "FlowLogIds.0"),
    "aws:ec2/internetGateway:InternetGateway": _internet_gateway,
    "aws:ec2/launchTemplate:LaunchTemplate": _creator(
        "ec2", "create_launch_template", _launch_template,
        "LaunchTemplate.LaunchTemplateId",
        latestVersion="LaunchTemplate.LatestVersionNumber",
    ),
    "aws:ec2/natGateway:NatGateway": _creator(
        "ec2", "create_nat_gateway", _all_but(), "NatGateway.NatGatewayId"
    ),
    "aws:ec2/route:Route": _creator("ec2", "create_route", _all_but(), "=routeTableId"),
    "aws:ec2/routeTable:RouteTable": _creator(
        "ec2", "create_route_table", _all_but(), "RouteTable.RouteTableId"
    ),
    "aws:ec2/routeTableAssociation:RouteTableAssociation": _creator(
        "ec2", "associate_route_table", _all_but(), "AssociationId"
    ),
    "aws:ec2/securityGroup:SecurityGroup": _security_group,
    "aws:ec2/subnet:Subnet": _creator(
        "ec2", "create_subnet", _all_but("mapPublicIpOnLaunch"), "Subnet.SubnetId",
        availabilityZone="Subnet.AvailabilityZone", arn="Subnet.SubnetArn",
    ),
    "aws:ec2/vpc:Vpc": _creator(
        "ec2", "create_vpc", _all_but("enableDnsHostnames", "enableDnsSupport"), "Vpc.VpcId"
    ),
    "aws:ec2/vpcEndpoint:VpcEndpoint": _creator(
        "ec2", "create_vpc_endpoint", _all_but(), "VpcEndpoint.VpcEndpointId"
    ),
    "aws:ecr/lifecyclePolicy:LifecyclePolicy": _creator(
        "ecr", "put_lifecycle_policy",
        lambda i: {"repositoryName": i["repository"], "lifecyclePolicyText": i["policy"]},
        "repositoryName",
    ),
    "aws:ecr/repository:Repository": _creator(
        "ecr", "create_repository", _repository, "repository.repositoryName",
        arn="repository.repositoryArn", repositoryUrl="repository.repositoryUri",
    ),
    "aws:efs/accessPoint:AccessPoint": _creator(
        "efs", "create_access_point", _all_but(), "AccessPointId", arn="AccessPointArn"
    ),
    "aws:efs/fileSystem:FileSystem": _creator(
        "efs", "create_file_system", _all_but(), "FileSystemId", arn="FileSystemArn"
    ),
    "aws:efs/fileSystemPolicy:FileSystemPolicy": _file_system_policy,
    "aws:efs/mountTarget:MountTarget": _creator(
        "efs", "create_mount_target", _all_but(), "MountTargetId"
    ),
    "aws:eks/nodeGroup:NodeGroup": _node_group,
    "aws:fsx/lustreFileSystem:LustreFileSystem": _lustre_file_system,
    "aws:iam/role:Role": _role,
    "aws:iam/rolePolicy:RolePolicy": _creator(
        "iam", "put_role_policy",
        lambda i: {"RoleName": i["role"], "PolicyName": "own", "PolicyDocument": i["policy"]},
        "=role",
    ),
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment": _creator(
        "iam", "attach_role_policy",
        lambda i: {"RoleName": i["role"], "PolicyArn": i["policyArn"]},
        "=role",
    ),
    "aws:kms/alias:Alias": _creator(
        "kms", "create_alias",
        lambda i: {"AliasName": i["name"], "TargetKeyId": i["targetKeyId"]},
        "=name",
    ),
    "aws:kms/key:Key": _key,
    "aws:s3/bucket:Bucket": _bucket,
    "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": _bucket_setting(
        "put_bucket_lifecycle_configuration", "LifecycleConfiguration",
        lambda i: {"Rules": [_lifecycle_rule(rule) for rule in i["rules"]]},
    ),
    "aws:s3/bucketLogging:BucketLogging": _bucket_setting(
        "put_bucket_logging", "BucketLoggingStatus",
        lambda i: {"LoggingEnabled": _all_but("bucket")(i)},
    ),
    "aws:s3/bucketObjectLockConfiguration:BucketObjectLockConfiguration": _bucket_setting(
        "put_object_lock_configuration", "ObjectLockConfiguration",
        lambda i: {"ObjectLockEnabled": "Enabled", "Rule": _api(i["rule"])},
    ),
    "aws:s3/bucketOwnershipControls:BucketOwnershipControls": _bucket_setting(
        "put_bucket_ownership_controls", "OwnershipControls",
        lambda i: {"Rules": [_api(i["rule"])]},
    ),
    "aws:s3/bucketPolicy:BucketPolicy": _bucket_policy,
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": _bucket_setting(
        "put_public_access_block", "PublicAccessBlockConfiguration", _all_but("bucket")
    ),
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration":
        _bucket_setting(
            "put_bucket_encryption", "ServerSideEncryptionConfiguration", _encryption
        ),
    "aws:s3/bucketVersioning:BucketVersioning": _bucket_setting(
        "put_bucket_versioning", "VersioningConfiguration",
        lambda i: _api(i["versioningConfiguration"]),
    ),
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule": _rule("egress"),
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": _rule("ingress"),
    "eks:index:Cluster": _cluster,
}  # fmt: skip
"""Type token -> what makes it."""
