"""The stack on a real cluster, deployed once by the real engine, with its store on S3."""

import os
import time
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import pytest
import yaml

from cluster import s3
from cluster.engine import STAND_IN, Engine
from cluster.places import PROJECT
from tests.e2e import kube, recovery
from tests.e2e.runs import Runs, instead_of

#: Kanister's chart: a folder; ``upstream``: its own repository's; by default the stand-in for it.
CHART = os.environ.get("E2E_KANISTER_CHART") or str(STAND_IN)


def settings(
    size: str = "1Gi",
    workload: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The stack `local` with a small volume, backups in the cluster's S3 server, and no schedule
    that would come between.

    Args:
        size: of the volume.
        workload: settings of the training `gpt`; its `env` is added to.
        more: further settings, also further workloads.
    """
    config = yaml.safe_load((PROJECT / "Pulumi.local.yaml").read_text())["config"]
    config["holdfast:kanister"] = {} if CHART == "upstream" else {"chart": CHART}
    config["holdfast:backup_store"] = {
        "existing": {
            "url": f"s3://{s3.BUCKET}/e2e-{RUN}",
            "region": s3.REGION,
            "endpoint": s3.ENDPOINT,
            "credentials_secret": "store",
        }
    }
    gpt = config["holdfast:workloads"]["gpt"]
    gpt["volume"] |= {"size": size, "path": f"/var/lib/holdfast-node/e2e-{RUN}"}
    gpt["env"] |= {"HOLDFAST_TRAINING_STEPS": "100000"}
    changed = {**SMALL, **(workload or {})}
    gpt |= {**changed, "env": gpt["env"] | changed.pop("env", {})}
    config["holdfast:workloads"] |= (more or {}).get("holdfast:workloads", {})
    return {**(more or {}), **config}


#: What every training of the tests is.
SMALL = {
    "ranks": 1,
    "interval": 10,
    "bundle_size": "64Mi",
    "schedule": "0 3 1 1 *",
    "grace": 3600,
    "resources": {"cpu": "1", "memory": "2Gi"},
}
#: Each run has a store and a directory of its own.
RUN = str(int(time.time()))


class Stack:
    """The deployed stack; `up` with other settings changes it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._changed: dict[str, Any] = {}

    def engine(self, **changed: Any) -> Engine:
        """With the settings that earlier calls changed: a volume that grew does not shrink."""
        self._changed |= changed
        return Engine("e2e", settings(**self._changed), self.lines.append)

    def up(self, **changed: Any) -> Any:
        with_secret = self.engine(**changed)
        try:
            return with_secret.up()
        finally:
            self.give_secret()

    def give_secret(self, namespace: str = kube.NAMESPACE) -> None:
        """The credentials of the store, which no stack declares."""
        keys = s3.credentials(kube.environment())
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "store", "namespace": namespace},
            "stringData": keys,
        }
        kube.apply(secret)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    deployed = Stack()
    deployed.engine().destroy()
    with kube.timed("first `up`: every object of the stack"):
        deployed.up()
    yield deployed
    deployed.engine().destroy()


@pytest.fixture
def training(stack: Stack) -> Stack:
    """The stack with a trainer that has saved a bundle."""
    kube.wait("a trainer that saves", lambda: "saved step" in kube.training_log(), 180)
    return stack


@pytest.fixture
def changing(stack: Stack) -> Iterator[Stack]:
    """The stack, whose training's settings are what they were afterwards."""
    yield stack
    stack.up(workload={})


@pytest.fixture(scope="module")
def runs(stack: Stack) -> Iterator[Runs]:
    """Short trainings in the place of the stack's own, and one that nobody disturbs."""
    with instead_of() as runs:
        runs.calm()
        yield runs


def pytest_report_header() -> str:
    if str(STAND_IN) == CHART:
        return f"Kanister: a stand-in, {STAND_IN.relative_to(PROJECT)} (docs/cluster.md)"
    return f"Kanister: its own chart, {CHART}"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if recovery.ROWS:
        terminalreporter.section("recovery times")
        for row in recovery.ROWS:
            terminalreporter.write_line(str(row))
    if os.environ.get("UPDATE_GOLDEN") == "1":
        recovery.write(recovery.PAGE, recovery.ROWS)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when != "teardown" and report.failed:
        report.sections.append(("the cluster", kube.explanation()))
    return report
