"""The pack as the engine runs it: its own process and environment, spoken to over gRPC."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2, json_format, struct_pb2
from pulumi.runtime.proto import analyzer_pb2 as messages
from pulumi.runtime.proto import analyzer_pb2_grpc
from pulumi.runtime.rpc import UNKNOWN as UNKNOWN_ON_THE_WIRE

from infra.manifests import PROJECT_DIRECTORY
from policy.model import RULES
from policy.rules import load_rules
from testkit.factories import of_stack

PACK = PROJECT_DIRECTORY / "policy"
PYTHON = PACK / ".venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="no policy/.venv: `make setup` makes it"
)
load_rules()


@pytest.fixture(scope="module")
def pack() -> Iterator[analyzer_pb2_grpc.AnalyzerStub]:
    """The engine starts `python -u -m pulumi.policy <engine> <directory>` in the directory."""
    command = [str(PYTHON), "-u", "-m", "pulumi.policy", "127.0.0.1:1", str(PACK)]
    with subprocess.Popen(command, cwd=PACK, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield analyzer_pb2_grpc.AnalyzerStub(channel)
        process.kill()


def analyze(pack: analyzer_pb2_grpc.AnalyzerStub, type_: str, **inputs: Any) -> dict[str, Any]:
    """What the pack says of one resource: rule -> diagnostic."""
    request = messages.AnalyzeRequest(
        type=type_,
        urn=f"urn:pulumi:dev::holdfast::{type_}::it",
        name="it",
        properties=json_format.ParseDict(inputs, struct_pb2.Struct()),
    )
    return {found.policyName: found for found in pack.Analyze(request).diagnostics}


def test_the_engine_is_told_of_every_rule(pack: analyzer_pb2_grpc.AnalyzerStub) -> None:
    info = pack.GetAnalyzerInfo(empty_pb2.Empty())

    levels = {
        policy.name: messages.EnforcementLevel.Name(policy.enforcementLevel).lower()
        for policy in info.policies
    }
    assert levels == {rule.name: rule.level.value for rule in RULES}
    schemas = {policy.name: set(policy.configSchema.properties) for policy in info.policies}
    assert schemas == {rule.name: set(rule.config) for rule in RULES}


def test_a_violation_stops_the_engine_and_says_what_to_do(
    pack: analyzer_pb2_grpc.AnalyzerStub,
) -> None:
    found = analyze(pack, "aws:ebs/volume:Volume", encrypted=False)["ebs-volumes-are-encrypted"]

    assert found.enforcementLevel == messages.MANDATORY
    assert "set encrypted to true" in found.message
    assert found.urn == "urn:pulumi:dev::holdfast::aws:ebs/volume:Volume::it"


def test_numbers_and_nested_lists_arrive_as_the_rules_expect(
    pack: analyzer_pb2_grpc.AnalyzerStub,
) -> None:
    options = {"httpTokens": "required", "httpPutResponseHopLimit": 1}
    disk = {"deviceName": "/dev/xvda", "ebs": {"encrypted": "true"}}
    template = "aws:ec2/launchTemplate:LaunchTemplate"

    sound = analyze(pack, template, metadataOptions=options, blockDeviceMappings=[disk])
    hops = analyze(pack, template, metadataOptions={**options, "httpPutResponseHopLimit": 2})

    assert set(sound) == {"resources-are-tagged", "nodes-are-tagged"}
    assert {"nodes-use-imdsv2", "node-disks-are-encrypted"} <= set(hops)


def test_an_unknown_value_hides_only_itself(pack: analyzer_pb2_grpc.AnalyzerStub) -> None:
    open_rule = {"cidrBlocks": ["0.0.0.0/0"], "fromPort": 22, "toPort": 22}
    unknown_rule = {"cidrBlocks": UNKNOWN_ON_THE_WIRE}
    group = "aws:ec2/securityGroup:SecurityGroup"

    found = analyze(pack, group, vpcId=UNKNOWN_ON_THE_WIRE, ingress=[unknown_rule, open_rule])

    assert found["security-groups-name-their-peers"].enforcementLevel == messages.MANDATORY
    assert not analyze(pack, "aws:ebs/volume:Volume", encrypted=True, kmsKeyId=UNKNOWN_ON_THE_WIRE,
                       tags=UNKNOWN_ON_THE_WIRE)  # fmt: skip


def test_a_configured_value_replaces_the_rules_own(pack: analyzer_pb2_grpc.AnalyzerStub) -> None:
    bucket = "aws:s3/bucket:Bucket"
    assert "stores-are-protected" not in analyze(pack, bucket)
    config = messages.PolicyConfig(
        enforcementLevel=messages.ADVISORY,
        properties=json_format.ParseDict({"stacks": ["dev"]}, struct_pb2.Struct()),
    )

    pack.Configure(messages.ConfigureAnalyzerRequest(policyConfig={"stores-are-protected": config}))

    assert analyze(pack, bucket)["stores-are-protected"].enforcementLevel == messages.ADVISORY


def test_the_local_stack_passes_in_the_engines_form(pack: analyzer_pb2_grpc.AnalyzerStub) -> None:
    graph = of_stack("local")
    resources = [
        messages.AnalyzerResource(
            type=resource.type,
            urn=resource.urn,
            name=resource.name,
            properties=json_format.ParseDict(resource.inputs, struct_pb2.Struct()),
            dependencies=resource.options.depends_on,
        )
        for resource in graph.resources
    ]

    answers = [
        pack.AnalyzeStack(messages.AnalyzeStackRequest(resources=resources)),
        *(pack.Analyze(_alone(r)) for r in resources if r.name in ("gpt-job", "kanister-release")),
    ]

    assert [found.message for answer in answers for found in answer.diagnostics] == []


def _alone(resource: messages.AnalyzerResource) -> messages.AnalyzeRequest:
    return messages.AnalyzeRequest(
        type=resource.type, urn=resource.urn, name=resource.name, properties=resource.properties
    )
