"""An AWS account inside the test: resources are created on moto by boto3, as a provider would.

botocore refuses parameters that AWS' API does not have, moto ranges, references and documents that
AWS would refuse. The identifiers and ARNs that moto gives go back into the program. Moto looks up
few of the references that it is given: so each that an input or a policy names is looked up first.
"""

import functools
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import boto3
from moto import mock_aws
from moto.iam import models

from infra.plan.fake_outputs import REGION, outputs_of
from tests.infra.aws.moto_creators import CREATORS, Answer, Inputs

SERVICES = ("ec2", "ecr", "efs", "eks", "fsx", "iam", "kms", "logs", "s3")


@dataclass
class Account:
    """One account: what exists in it is what the program asked for, and AWS' own policies."""

    clients: dict[str, Any]
    created: set[str] = field(default_factory=set)
    """Types that moto has created."""
    unknown: set[str] = field(default_factory=set)
    """Types that moto does not know."""
    _found: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """One call of AWS' API; raises botocore's ClientError or ParamValidationError."""
        return getattr(self.clients[service], operation)(**parameters)

    def create(self, kind: str, name: str, inputs: Inputs) -> Answer:
        """Create one resource: its id, and what AWS says of it."""
        with self._lock:
            if not kind.startswith(("aws:", "eks:")):
                return f"{name}-id", outputs_of(kind, name, inputs)
            self._look_up(inputs)
            if kind not in CREATORS:
                self.unknown.add(kind)
                return f"{name}-id", outputs_of(kind, name, inputs)
            self.created.add(kind)
            return CREATORS[kind](self.call, name, inputs)

    def _look_up(self, inputs: Inputs) -> None:
        for text in set(_texts(inputs)) - self._found:
            for pattern, service, operation, parameter in REFERENCES:
                if found := re.fullmatch(pattern, text):
                    value = found[found.lastindex or 0]
                    many = parameter.endswith("s")
                    self.call(service, operation, **{parameter: [value] if many else value})
                    self._found.add(text)


@contextmanager
def account() -> Iterator[Account]:
    """A fresh account, gone at the end."""
    with (
        patch.object(models, "aws_managed_policies_data", managed_policies()),
        mock_aws(config={"iam": {"load_aws_managed_policies": True}}),
    ):
        yield Account({name: boto3.client(name, region_name=REGION) for name in SERVICES})


@functools.cache
def managed_policies() -> str:
    """What moto has read from AWS of the policies for EKS, ECR, EBS and EFS. It has all 1500, and
    takes seconds to read them in."""
    known = json.loads(models.aws_managed_policies_data)
    return json.dumps({name: known[name] for name in known if name.startswith("AmazonE")})


#: What a reference looks like, and the call that fails when there is no such thing.
REFERENCES = (
    (r"vpc-[0-9a-f]+", "ec2", "describe_vpcs", "VpcIds"),
    (r"subnet-[0-9a-f]+", "ec2", "describe_subnets", "SubnetIds"),
    (r"sg-[0-9a-f]+", "ec2", "describe_security_groups", "GroupIds"),
    (r"rtb-[0-9a-f]+", "ec2", "describe_route_tables", "RouteTableIds"),
    (r"igw-[0-9a-f]+", "ec2", "describe_internet_gateways", "InternetGatewayIds"),
    (r"nat-[0-9a-f]+", "ec2", "describe_nat_gateways", "NatGatewayIds"),
    (r"eipalloc-[0-9a-f]+", "ec2", "describe_addresses", "AllocationIds"),
    (r"lt-[0-9a-f]+", "ec2", "describe_launch_templates", "LaunchTemplateIds"),
    (r"arn:aws:kms:[\w-]+:\d+:key/.+", "kms", "describe_key", "KeyId"),
    (r"arn:aws:iam::\d+:role/(?:.+/)?([^/]+)", "iam", "get_role", "RoleName"),
    (r"arn:aws:iam::aws:policy/.+", "iam", "get_policy", "PolicyArn"),
)  # fmt: skip


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value, and in the policies that are in it as JSON. What a policy's conditions
    compare with need not exist."""
    if isinstance(value, str):
        yield from _texts(json.loads(value)) if value.startswith("{") else (value,)
    elif isinstance(value, dict):
        yield from _texts([item for key, item in value.items() if key != "Condition"])
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
