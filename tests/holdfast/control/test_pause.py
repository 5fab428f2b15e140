"""The topmost owner is found, paused, waited for, and becomes what it was before.

The cluster is a test double: it keeps objects, applies merge patches, and lets something happen
each time that somebody asks for pods.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from holdfast.control.kubernetes import KubernetesAPI, KubernetesError
from holdfast.control.pause import PauseUndone, pause, resume
from holdfast.control.run_action import Timeouts
from holdfast.control.topmost import KINDS, Named, NoOwner, require_nothing_above, require_topmost
from holdfast.errors import DeadlineExceeded, UsageError

QUICK = Timeouts(timeout=5, poll=0)
PODS = "/api/v1/namespaces/training/pods"
JOBS = "/apis/batch/v1/namespaces/training/jobs"
JOB = f"{JOBS}/gpt"
LABELLED = "job/team/run=gpt"
JOBSET = "/apis/jobset.x-k8s.io/v1alpha2/namespaces/training/jobsets/gpt"
TRAINJOB = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/training/trainjobs/gpt"
STATEFULSET = "/apis/apps/v1/namespaces/training/statefulsets/gpt"
WORKLOADS = "/apis/kueue.x-k8s.io/v1beta2/namespaces/training/workloads"
ADMITTED = f"{WORKLOADS}/job-gpt-1a2b3"
RESTORE, BEFORE = "holdfast.dev/restore", "holdfast.dev/before"


@dataclass
class Cluster:
    """Objects by path; each time that somebody asks for pods, `happen` takes its next step."""

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    pods: list[dict[str, Any]] = field(default_factory=list)
    forbidden: tuple[str, ...] = ()
    patched: list[str] = field(default_factory=list)
    refusals: int = 0
    """How often a webhook refuses the next patches."""
    blocked_by: str = ""
    """A webhook refuses each patch while this object is there."""
    happen: list[Callable[[], object]] = field(default_factory=list)

    def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        if path.startswith(self.forbidden or ("-",)):
            raise KubernetesError(f"GET {path} answered 403", 403)
        if path == PODS:
            found = copy.deepcopy(self.pods)
            if self.happen:
                self.happen.pop(0)()
            return {"items": found}
        if path == WORKLOADS:
            uid = (query or {})["labelSelector"].partition("=")[2]
            every = [o for where, o in self.objects.items() if where.startswith(WORKLOADS)]
            found = [o for o in every if o["metadata"]["labels"]["kueue.x-k8s.io/job-uid"] == uid]
            return {"items": copy.deepcopy(found)}
        if query is not None:
            label, ours = query["labelSelector"].split(",")
            (key, value), (other, theirs) = label.split("="), ours.split("!=")
            every = [o for where, o in self.objects.items() if where.startswith(f"{path}/")]
            labelled = [o for o in every if o["metadata"]["labels"].get(key) == value]
            found = [o for o in labelled if o["metadata"]["labels"].get(other) != theirs]
            return {"items": copy.deepcopy(found)}
        if path not in self.objects:
            raise KubernetesError(f"GET {path} answered 404", 404)
        return copy.deepcopy(self.objects[path])

    def merge(self, path: str, body: Mapping[str, Any]) -> None:
        if self.refusals or self.blocked_by in self.objects:
            self.refusals = max(0, self.refusals - 1)
            raise KubernetesError(f"PATCH {path} answered 403: still being deleted", 403)
        _merge(self.objects[path], body)
        self.patched.append(path)

    def delete(self, path: str, options: Mapping[str, Any]) -> None:
        if options["preconditions"].items() <= self.objects[path]["metadata"].items():
            del self.objects[path]
        else:
            raise KubernetesError(f"DELETE {path} answered 409", 409)

    def add(
        self,
        path: str,
        spec: Mapping[str, Any],
        owner: str = "",
        uid: str = "u-1",
        **labels: str,
    ) -> None:
        metadata: dict[str, Any] = {"name": path.rpartition("/")[2], "uid": uid, "labels": labels}
        if owner:
            kind, version = owner.split(" ")
            reference = {"kind": kind, "apiVersion": version, "name": "gpt", "controller": True}
            metadata["ownerReferences"] = [{"kind": "Other", "name": "x"}, reference]
        self.objects[path] = {"metadata": metadata, "spec": dict(spec)}

    def queued(self, active: bool | None = True) -> None:
        """The Job gpt in a queue, and Kueue's Workload for it."""
        self.add(JOB, {"suspend": False}, **{"kueue.x-k8s.io/queue-name": "gpus"})
        spec = {} if active is None else {"active": active}
        self.add(ADMITTED, spec, uid="w-1", **{"kueue.x-k8s.io/job-uid": "u-1"})

    def pod(self, name: str, *, read_only: bool = False, phase: str = "Running", **labels: str):
        claim = {"claimName": "checkpoints-pvc", "readOnly": read_only}
        self.pods.append(
            {
                "metadata": {"name": name, "labels": labels},
                "spec": {"volumes": [{"name": "v", "persistentVolumeClaim": claim}]},
                "status": {"phase": phase},
            }
        )

    def labelled(self, name: str, ended: str = "", **spec: Any) -> str:
        """A Job that has the label team/run=gpt."""
        path = f"{JOBS}/{name}"
        self.add(path, {"suspend": False, **spec}, uid=name, **{"team/run": "gpt"})
        if ended:
            conditions = [
                {"type": "Suspended", "status": "False"},
                {"type": ended, "status": "True"},
            ]
            self.objects[path]["status"] = {"conditions": conditions}
        return path

    def named(self, text: str = "job/gpt") -> Named:
        return Named.parse(cast(KubernetesAPI, self), "training", text)

    def marks(self, path: str) -> dict[str, str]:
        return self.objects[path]["metadata"].get("annotations") or {}


def _merge(into: dict[str, Any], body: Mapping[str, Any]) -> None:
    for key, value in body.items():
        if isinstance(value, Mapping):
            _merge(into.setdefault(key, {}), value)
        elif value is None:
            into.pop(key, None)
        else:
            into[key] = value


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def said() -> list[str]:
    return []


def paused(cluster: Cluster, said: list[str], text: str = "job/gpt") -> str:
    return pause(cluster.named(text), "checkpoints-pvc", "s-1", QUICK, said.append).title


def test_a_job_that_kueue_admits_is_paused_by_its_workload_and_never_itself(
    cluster: Cluster, said: list[str]
) -> None:
    cluster.queued()

    assert paused(cluster, said) == "Workload job-gpt-1a2b3"
    assert cluster.patched == [ADMITTED]
    assert cluster.objects[ADMITTED]["spec"] == {"active": False}
    assert cluster.marks(ADMITTED) == {RESTORE: "s-1", BEFORE: "true"}
    assert resume(cluster.named(), QUICK, said.append)
    assert cluster.objects[ADMITTED]["spec"] == {"active": True}
    assert cluster.marks(ADMITTED) == {}
    assert cluster.objects[JOB]["spec"] == {"suspend": False}


@pytest.mark.parametrize(
    ("text", "path", "running", "stopped"),
    [
        ("job/gpt", JOB, {"suspend": False}, {"suspend": True}),
        ("jobset/gpt", JOBSET, {"suspend": False}, {"suspend": True}),
        ("trainjob/gpt", TRAINJOB, {"suspend": False}, {"suspend": True}),
        ("statefulset/gpt", STATEFULSET, {"replicas": 3}, {"replicas": 0}),
    ],
)
def test_each_kind_is_paused_by_its_own_field_and_resumed_to_what_it_was(
    cluster: Cluster,
    said: list[str],
    text: str,
    path: str,
    running: dict[str, Any],
    stopped: dict[str, Any],
) -> None:
    cluster.add(path, running)

    paused(cluster, said, text)
    assert cluster.objects[path]["spec"] == stopped
    resume(cluster.named(text), QUICK, said.append)
    assert (cluster.objects[path]["spec"], cluster.marks(path)) == (running, {})


def test_the_job_of_a_jobset_of_a_trainjob_is_paused_at_the_trainjob(
    cluster: Cluster, said: list[str]
) -> None:
    cluster.add(JOB, {"suspend": False}, owner="JobSet jobset.x-k8s.io/v1alpha2")
    cluster.add(JOBSET, {"suspend": False}, owner="TrainJob trainer.kubeflow.org/v1alpha1")
    cluster.add(TRAINJOB, {})

    assert paused(cluster, said) == "TrainJob gpt"
    assert cluster.patched == [TRAINJOB]


@pytest.mark.parametrize("before", [True, False, None])
def test_a_workload_is_left_active_or_waiting_as_it_was(
    cluster: Cluster, said: list[str], before: bool | None
) -> None:
    cluster.queued(active=before)

    paused(cluster, said)
    resume(cluster.named(), QUICK, said.append)
    assert cluster.objects[ADMITTED]["spec"]["active"] is (before is not False)


def test_what_a_person_paused_or_nobody_stays_as_it_is(cluster: Cluster, said: list[str]) -> None:
    cluster.add(JOB, {"suspend": True})

    assert not resume(cluster.named(), QUICK, said.append)
    assert cluster.patched == []
    assert said == ["Job gpt was not paused by a restore: it stays as it is"]


def test_a_restore_after_one_that_was_cut_off_remembers_what_was_before_both(
    cluster: Cluster, said: list[str]
) -> None:
    cluster.add(STATEFULSET, {"replicas": 3})
    paused(cluster, said, "statefulset/gpt")

    paused(cluster, said, "statefulset/gpt")
    resume(cluster.named("statefulset/gpt"), QUICK, said.append)
    assert cluster.objects[STATEFULSET]["spec"] == {"replicas": 3}


def test_it_waits_for_pods_that_may_write_and_for_no_others(
    cluster: Cluster, said: list[str]
) -> None:
    cluster.add(JOB, {})
    cluster.pod("a-reader", read_only=True)
    cluster.pod("ended", phase="Succeeded")
    cluster.pod("a-task", createdBy="kanister")
    cluster.pod("gpt-x7")
    cluster.happen = [lambda: None, lambda: cluster.pods.pop()]

    paused(cluster, said)
    assert [line for line in said if "waiting" in line] == ["waiting for gpt-x7 to end"]
    assert not cluster.happen


def test_a_pause_that_is_undone_ends_at_once_and_not_in_a_wait(
    cluster: Cluster, said: list[str]
) -> None:
    """As a controller does that nobody knows of: the pod only restarts, and never goes."""
    cluster.add(JOB, {"suspend": False})
    cluster.pod("gpt-x7")
    cluster.happen = [lambda: cluster.objects[JOB]["spec"].update(suspend=False)]

    with pytest.raises(PauseUndone, match="Job gpt was paused and goes on again"):
        paused(cluster, said)
    resume(cluster.named(), QUICK, said.append)  # as the Blueprint does
    assert cluster.marks(JOB) == {}


def test_pods_that_do_not_end_are_named(cluster: Cluster, said: list[str]) -> None:
    cluster.add(JOB, {})
    cluster.pod("gpt-x7")

    with pytest.raises(DeadlineExceeded, match="pods still have claim checkpoints-pvc: gpt-x7"):
        pause(cluster.named(), "checkpoints-pvc", "s", Timeouts(timeout=0, poll=0), said.append)


@pytest.mark.parametrize(("policy", "said_so"), [("OrderedReady", True), ("Parallel", False)])
def test_what_to_do_about_pods_that_end_in_order_only_is_said(
    cluster: Cluster, said: list[str], policy: str, said_so: bool
) -> None:
    cluster.add(STATEFULSET, {"replicas": 2, "podManagementPolicy": policy})
    cluster.pod("gpt-0")
    cluster.pod("gpt-1")
    at_once = Timeouts(timeout=0, poll=0)

    with pytest.raises(DeadlineExceeded) as error:
        pause(cluster.named("statefulset/gpt"), "checkpoints-pvc", "s", at_once, said.append)
    assert ("delete these pods" in str(error.value)) is said_so


def test_without_its_owner_nothing_is_changed(cluster: Cluster, said: list[str]) -> None:
    with pytest.raises(NoOwner, match="Job training/gpt does not exist"):
        paused(cluster, said)
    cluster.add(JOB, {})
    cluster.objects[JOB]["metadata"]["deletionTimestamp"] = "2026-05-01T13:00:00Z"
    with pytest.raises(NoOwner, match="is being deleted"):
        paused(cluster, said)
    with pytest.raises(NoOwner, match="is being deleted"):
        require_topmost(cluster.named(), QUICK, said.append)
    assert cluster.patched == []


def test_an_owner_of_an_unknown_kind_is_named_and_not_paused_beneath(
    cluster: Cluster, said: list[str]
) -> None:
    cluster.add(JOB, {}, owner="RayCluster ray.io/v1")

    with pytest.raises(NoOwner, match=r"owned by RayCluster gpt \(ray.io/v1\)"):
        paused(cluster, said)


def test_a_job_in_a_queue_that_kueue_has_not_seen_is_not_paused(
    cluster: Cluster, said: list[str]
) -> None:
    cluster.add(JOB, {"suspend": True}, **{"kueue.x-k8s.io/queue-name": "gpus"})

    with pytest.raises(NoOwner, match="is Kueue running"):
        paused(cluster, said)


def test_without_a_right_on_workloads_only_what_is_in_no_queue_is_paused(
    cluster: Cluster, said: list[str]
) -> None:
    cluster.forbidden = (WORKLOADS,)
    cluster.add(JOB, {})
    assert paused(cluster, said) == "Job gpt"
    cluster.queued()
    with pytest.raises(KubernetesError):
        paused(cluster, said)


def test_a_restore_of_a_job_that_is_not_topmost_says_how_to_name_it(cluster: Cluster) -> None:
    cluster.add(JOB, {})
    job = Named(cast(KubernetesAPI, cluster), "training", KINDS["job"], "gpt")
    require_nothing_above(job, QUICK)
    cluster.queued()

    with pytest.raises(
        NoOwner, match=r"Workload job-gpt-1a2b3 would undo its pause.*--pause job/g"
    ):
        require_nothing_above(job, QUICK)


def test_a_job_that_says_that_something_is_above_it_is_refused_where_that_may_not_be_seen(
    cluster: Cluster,
) -> None:
    cluster.forbidden = (WORKLOADS, JOBSET)
    job = Named(cast(KubernetesAPI, cluster), "training", KINDS["job"], "gpt")

    cluster.add(JOB, {}, owner="JobSet jobset.x-k8s.io/v1alpha2")
    with pytest.raises(NoOwner, match="JobSet gpt would undo its pause"):
        require_nothing_above(job, QUICK)
    cluster.queued()
    with pytest.raises(NoOwner, match=r"Kueue \(queue gpus\) would undo its pause"):
        require_nothing_above(job, QUICK)
    cluster.add(JOB, {})
    require_nothing_above(job, QUICK)  # nothing says so: Kanister pauses it as ever


@pytest.mark.parametrize("ended", ["Complete", "Completed", "Failed"])
def test_by_a_label_the_one_that_has_not_ended_is_paused(
    cluster: Cluster, said: list[str], ended: str
) -> None:
    running = cluster.labelled("gpt-2")
    cluster.labelled("gpt-1", ended)
    cluster.add(JOB, {}, **{"team/run": "other"})

    assert paused(cluster, said, LABELLED) == "Job gpt-2"
    assert cluster.patched == [running]
    assert resume(cluster.named(LABELLED), QUICK, said.append)
    assert (cluster.objects[running]["spec"], cluster.marks(running)) == ({"suspend": False}, {})


def test_by_a_label_what_is_above_is_paused_too(cluster: Cluster, said: list[str]) -> None:
    cluster.labelled("gpt-2")
    cluster.objects[f"{JOBS}/gpt-2"]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "gpus"
    cluster.add(ADMITTED, {"active": True}, **{"kueue.x-k8s.io/job-uid": "gpt-2"})

    assert paused(cluster, said, LABELLED) == "Workload job-gpt-1a2b3"


def test_the_job_of_the_schedule_which_has_the_label_too_is_none_of_them(
    cluster: Cluster, said: list[str]
) -> None:
    schedule = cluster.labelled("gpt-backup-1")
    labels = cluster.objects[schedule]["metadata"]["labels"]
    labels["app.kubernetes.io/part-of"] = "holdfast"
    cluster.labelled("gpt-2")

    assert paused(cluster, said, LABELLED) == "Job gpt-2"


def test_of_two_that_have_the_label_none_is_paused(cluster: Cluster, said: list[str]) -> None:
    cluster.labelled("gpt-1")
    cluster.labelled("gpt-2")

    with pytest.raises(
        NoOwner, match=r"2 objects of kind Job .* gpt-1, gpt-2; nothing was changed"
    ):
        paused(cluster, said, LABELLED)
    with pytest.raises(NoOwner, match="leave the label on one"):
        require_topmost(cluster.named(LABELLED), QUICK, said.append)
    assert cluster.patched == []


def test_where_none_has_the_label_or_all_have_ended_nothing_is_paused(
    cluster: Cluster, said: list[str]
) -> None:
    with pytest.raises(NoOwner, match=r"no Job in training has label team/run=gpt; nothing"):
        paused(cluster, said, LABELLED)
    cluster.labelled("gpt-1", "Failed")
    with pytest.raises(NoOwner, match=r"and has not ended \(1 with it have\)"):
        paused(cluster, said, LABELLED)
    assert cluster.patched == []


def test_what_a_restore_paused_goes_on_also_if_another_got_the_label_meanwhile(
    cluster: Cluster, said: list[str]
) -> None:
    first = cluster.labelled("gpt-1")
    paused(cluster, said, LABELLED)
    cluster.labelled("gpt-2", suspend=True)

    seen = cluster.named(LABELLED).look()
    assert seen is not None
    assert seen.restoring == "s-1"
    assert resume(cluster.named(LABELLED), QUICK, said.append)
    assert cluster.objects[first]["spec"] == {"suspend": False}
    assert cluster.objects[f"{JOBS}/gpt-2"]["spec"] == {"suspend": True}
    assert cluster.named(LABELLED).look() is None


def test_what_only_has_pods_in_a_queue_is_scaled_and_needs_no_right_on_workloads(
    cluster: Cluster, said: list[str]
) -> None:
    cluster.forbidden = (WORKLOADS,)
    cluster.add(STATEFULSET, {"replicas": 3}, **{"kueue.x-k8s.io/queue-name": "gpus"})

    assert paused(cluster, said, "statefulset/gpt") == "StatefulSet gpt"


def test_a_statefulset_that_kueue_lets_scale_up_only_later_is_resumed_then(
    cluster: Cluster, said: list[str]
) -> None:
    cluster.add(STATEFULSET, {"replicas": 3})
    paused(cluster, said, "statefulset/gpt")
    cluster.refusals = 3

    assert resume(cluster.named("statefulset/gpt"), QUICK, said.append)
    assert cluster.objects[STATEFULSET]["spec"] == {"replicas": 3}


def test_a_workload_that_kueue_keeps_without_an_owner_is_deleted_since_it_blocks_a_statefulset(
    cluster: Cluster, said: list[str]
) -> None:
    """As Kueue 0.17.0 leaves it behind, seen on a real cluster: nothing ever deletes it."""
    cluster.add(STATEFULSET, {"replicas": 2})
    paused(cluster, said, "statefulset/gpt")
    label = {"kueue.x-k8s.io/job-uid": "u-1"}
    cluster.add(ADMITTED, {"active": True}, uid="w-1", **label)
    cluster.objects[ADMITTED]["metadata"]["resourceVersion"] = "7"
    cluster.blocked_by = ADMITTED

    assert resume(cluster.named("statefulset/gpt"), QUICK, said.append)
    assert cluster.objects[STATEFULSET]["spec"] == {"replicas": 2}
    assert ADMITTED not in cluster.objects


@pytest.mark.parametrize("forbidden", [(), (WORKLOADS,)])
def test_a_workload_that_has_an_owner_is_waited_for(
    cluster: Cluster, said: list[str], forbidden: tuple[str, ...]
) -> None:
    cluster.add(STATEFULSET, {"replicas": 2})
    paused(cluster, said, "statefulset/gpt")
    label = {"kueue.x-k8s.io/job-uid": "u-1"}
    cluster.add(ADMITTED, {"active": True}, "Pod v1", uid="w-1", **label)
    cluster.blocked_by, cluster.forbidden = ADMITTED, forbidden

    with pytest.raises(KubernetesError, match="403"):
        resume(cluster.named("statefulset/gpt"), Timeouts(timeout=0, poll=0), said.append)
    assert ADMITTED in cluster.objects


def test_a_right_that_is_missing_is_said_at_once_where_no_webhook_decides(
    cluster: Cluster, said: list[str]
) -> None:
    cluster.add(JOB, {})
    paused(cluster, said)
    cluster.refusals = 1

    with pytest.raises(KubernetesError, match="403"):
        resume(cluster.named(), QUICK, said.append)


@pytest.mark.parametrize("text", ["job/team=", "job/=gpt", "job/a=b,c=d", "job/a!=b", "job/a=b c"])
def test_a_label_is_one_key_and_its_value(cluster: Cluster, text: str) -> None:
    with pytest.raises(UsageError, match="expected KEY=VALUE"):
        cluster.named(text)


@pytest.mark.parametrize("text", ["gpt", "job/", "pod/gpt", ""])
def test_an_owner_is_a_kind_and_a_name(cluster: Cluster, text: str) -> None:
    with pytest.raises(UsageError, match="expected KIND/NAME or KIND/LABEL=VALUE"):
        cluster.named(text)
