"""Kanister's messages, made in the form in which its 0.119.0 writes them."""

import json
from typing import Any

import pytest

from holdfast.control.kanister_error import BEGINNING, END, readable

SAID = "holdfast: the store s3://bucket/team does not answer: start it, or correct the address"
STATUS = (
    "&PodStatus{{Phase:Failed,Conditions:[]PodCondition{{PodCondition{{Type:Ready,Status:False,"
    "Message:,}},}},Message:{message},Reason:{reason},HostIP:10.0.0.1,PodIP:10.1.0.7,"
    "ContainerStatuses:[]ContainerStatus{{ContainerStatus{{Name:container,State:ContainerState{{"
    "Waiting:nil,Running:nil,Terminated:&ContainerStateTerminated{{ExitCode:{code},Signal:0,"
    "Reason:{why},Message:,StartedAt:2026-11-27,}},}},Ready:false,}},}},}}"
)


def of_a_task(*log: str, code: int = 1, why: str = "Error", message: str = "", reason: str = ""):
    """The message about a task that printed these lines, and how its pod ended."""
    status = STATUS.format(code=code, why=why, message=message, reason=reason)
    place = {"function": "pkg/kube.WaitForPodCompletion", "linenumber": 524, "file": "pod.go"}
    killed = {"message": "Pod failed", **place, "details": {"podName": "p", "status": status}}
    told = {"message": "\r\n".join(log), **place, "cause": killed}
    sentence = "Pod failed or did not transition into complete state"
    error: dict[str, Any] = {"message": sentence, **place, "cause": told}
    return (
        '{"pod":"kanister-job-x7b2c"}: Failed while waiting for Pod to complete: '
        f"Pod failed to complete in time: {json.dumps(error)}"
    )


def test_the_reason_is_there_however_much_the_task_has_said_before() -> None:
    lines = [f"pushed {n}0 % of bundle step-00000100, at 140 MiB a second" for n in range(9)]
    message = of_a_task(*lines, SAID)
    assert SAID not in message[: BEGINNING + END]  # why the message is not simply cut

    told = readable(message)

    assert SAID in told
    assert len(told) <= BEGINNING + END + len(" … ")
    assert told.startswith("Failed while waiting for Pod to complete")


def test_nothing_of_its_source_and_no_json_is_told() -> None:
    told = readable(of_a_task("one", SAID))

    assert told == (
        "Failed while waiting for Pod to complete: Pod failed to complete in time: "
        "Pod failed or did not transition into complete state: "
        f"one {SAID}: Pod failed: exit code 1, Error"
    )


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        ({"code": 137, "why": "OOMKilled"}, "Pod failed: exit code 137, OOMKilled"),
        (
            {"code": 137, "message": "Pod was active too long", "reason": "DeadlineExceeded"},
            "Pod failed: DeadlineExceeded: Pod was active too long, exit code 137, Error",
        ),
    ],
)
def test_of_a_task_that_was_killed_it_tells_why(ended: dict[str, Any], told: str) -> None:
    assert readable(of_a_task("pushing", **ended)).endswith(told)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("push: exit code 1\nbucket is\tmissing", "push: exit code 1 bucket is missing"),
        ("null: Failed to create pod: forbidden", "Failed to create pod: forbidden"),
        ('{"a": 1}: no pod', "no pod"),
        ('webhook said {"code": 403} and {oops', 'webhook said {"code": 403} and {oops'),
        ("", ""),
        ('x {"message": 7, "cause": ["y"]} z', "x: 7: z"),
        ("{" * 5000, f"{'{' * BEGINNING} … {'{' * END}"),
        ('{"a":' * 100_000, None),
    ],
    ids=["plain", "no details", "details", "other json", "empty", "other types", "braces", "deep"],
)
def test_whatever_else_it_says_is_kept_on_one_line(message: str, told: str | None) -> None:
    found = readable(message)
    assert "\n" not in found
    assert told is None or found == told
