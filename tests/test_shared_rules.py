"""Rules that rooms share without importing each other: the stack installs nothing of `holdfast`."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from holdfast import defaults
from holdfast.errors import ExitCode
from holdfast.recovery.recover import Start
from infra import versions
from infra.settings.stack import RESERVED_WORKLOADS
from infra.settings.workload import Workload
from testkit.factories import of_stack

ROOT = Path(__file__).parents[1]
#: What a container runtime says of a container that was gone when its node booted.
GONE = 255
JOB: dict[str, Any] = yaml.safe_load((ROOT / "manifests/training-job.yaml").read_text())


def choices(field: str) -> list[str]:
    return list(get_args(Workload.model_fields[field].annotation))


def test_a_workload_knows_the_same_starts_as_the_data_plane() -> None:
    assert choices("start") == list(Start)


def test_a_workload_knows_the_same_selections_as_a_push() -> None:
    assert choices("push") == list(defaults.Select)


def test_a_workload_and_the_command_line_wait_equally_long_before_they_delete() -> None:
    assert Workload.model_fields["grace"].default == defaults.GRACE.total_seconds()


def test_no_workload_of_a_stack_has_a_name_that_the_data_plane_keeps_for_itself() -> None:
    assert defaults.RESERVED == RESERVED_WORKLOADS


def test_the_job_gives_up_where_no_retry_helps_and_counts_no_orderly_stop() -> None:
    decided = {
        (rule["action"], rule["onExitCodes"].get("containerName")): rule["onExitCodes"]["values"]
        for rule in JOB["spec"]["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    }

    assert decided["FailJob", None] == [ExitCode.REFUSED]
    assert decided["FailJob", "recover"] == [ExitCode.MISUSE]
    assert ExitCode.STOPPED in decided["Ignore", None]


@pytest.mark.parametrize(
    ("containers", "ends"),
    [
        ("initContainers", [ExitCode.DONE, ExitCode.MISUSE, ExitCode.REFUSED, GONE]),
        ("containers", [ExitCode.DONE, ExitCode.RECOVER, ExitCode.STOPPED, ExitCode.REFUSED, GONE]),
    ],
)
def test_a_container_is_restarted_in_place_unless_its_end_is_final(
    containers: str, ends: list[int]
) -> None:
    job = of_stack("local").find("kubernetes:batch/v1:Job", "gpt-job")
    (container,) = job[0].inputs["spec"]["template"]["spec"][containers]

    (rule,) = container["restartPolicyRules"]

    assert rule["exitCodes"] == {"operator": "NotIn", "values": ends}


def test_namespaces_enforce_the_pod_security_of_the_pinned_kubernetes() -> None:
    found = [
        version
        for file in (ROOT / "manifests").glob("*namespace.yaml")
        for version in re.findall(r"-version: v(\S+)", file.read_text())
    ]

    assert set(found) == {versions.KUBERNETES}


def test_the_command_answers_without_importing_what_is_heavy() -> None:
    code = (
        "import sys, holdfast.cli, holdfast.defaults, holdfast.recovery.recover;"
        "print(*{'obstore', 'pydantic', 'asyncio'} & set(sys.modules))"
    )

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.split() == []
