"""The store's region is lost in the middle of a push: a new stack goes on from the copy.

Two S3 servers. What S3 does between them, object by object and in no order, a test does here: for
each object of the first it puts the bytes into the second, at any moment that the test chooses.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from holdfast.bundle import Bundle
from holdfast.volume import Volume
from testkit.s3 import S3Server, serve

#: Kills, generated input or whole stores: minutes in all.
pytestmark = pytest.mark.slow

BUCKET, PREFIX = "backups", "holdfast/prod"
Write = Callable[..., Bundle]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[S3Server, S3Server, ExitStack]]:
    """Two servers with a bucket each, and what stops the first."""
    with ExitStack() as second, ExitStack() as first:
        folders = [tmp_path / name for name in ("first", "second")]
        for folder in folders:
            folder.mkdir()
        here = first.enter_context(serve(folders[0]))
        there = second.enter_context(serve(folders[1]))
        for server in (here, there):
            server.client().create_bucket(Bucket=BUCKET)
        yield here, there, first


def replicate(here: S3Server, there: S3Server) -> None:
    """Copy every object, in the reverse order of keys."""
    listed = here.client().list_objects_v2(Bucket=BUCKET).get("Contents", [])
    for key in sorted((each["Key"] for each in listed), reverse=True):
        body = here.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
        there.client().put_object(Bucket=BUCKET, Key=key, Body=body)


def holdfast(
    server: S3Server, volume: Path, *arguments: str, failpoint: str = ""
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        **server.environment(),
        "HOLDFAST_STORE": f"s3://{BUCKET}/{PREFIX}",
        "HOLDFAST_OWNER": PREFIX,
        "HOLDFAST_WORKLOAD": "gpt",
        "HOLDFAST_VOLUME": str(volume),
        "HOLDFAST_RUN": "run-a",
        **({"HOLDFAST_FAILPOINT": failpoint} if failpoint else {}),
    }
    return subprocess.run(
        [sys.executable, "-m", "holdfast", *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("point", ["push.file-uploaded", "push.before-snapshot"])
def test_a_new_stack_goes_on_from_the_copy_when_the_store_is_lost_in_the_middle_of_a_push(
    servers: tuple[S3Server, S3Server, ExitStack], write_bundle: Write, tmp_path: Path, point: str
):
    here, there, first = servers
    old, new = tmp_path / "old", tmp_path / "new"
    write_bundle(Volume(old, "run-a").generation_path(1), step=100)
    assert holdfast(here, old, "push").returncode == 0
    replicate(here, there)
    write_bundle(
        Volume(old, "run-a").generation_path(1), step=200, files={"weights": b"later" * 99}
    )
    killed = holdfast(here, old, "push", failpoint=f"{point}=kill")
    assert killed.returncode < 0
    replicate(here, there)
    first.close()

    new.mkdir()
    pulled = holdfast(there, new, "pull", "--if-empty")

    assert pulled.returncode == 0, pulled.stderr
    volume = Volume(new, "run-a")
    number = volume.present()
    assert number is not None
    present = volume.generation_path(number)
    assert [bundle.name for bundle in present.glob("step-*")] == ["step-00000100"]
    write_bundle(present, step=300, labels={"generation": number})
    again = holdfast(there, new, "push")
    assert again.returncode == 0, again.stderr
    verified = holdfast(there, new, "verify", "--side", "store")
    assert verified.returncode == 0, verified.stderr + verified.stdout
    assert "step-00000300" in holdfast(there, new, "list", "--side", "store").stdout
