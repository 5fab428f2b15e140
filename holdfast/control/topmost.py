"""The topmost owner of a workload's pods: what a restore pauses, and no other.

A controller keeps what it owns as it wants it. It undoes the pause of anything beneath it within
milliseconds: Kueue that of a Job that it admitted, Kubeflow's Trainer that of the JobSet of a
TrainJob. So the search begins at the object that was named, by its name or by a label, and goes up:
by owner references, then to the Workload of Kueue that admits the object, if there is one.

A label is looked up anew each time. Of all that have it one alone may not have ended: with two, or
none, nothing is paused. What a restore has paused is known by its mark, not by being the only one,
so that it goes on also if another was started meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from holdfast.control.kubernetes import KubernetesAPI, KubernetesError
from holdfast.control.owner import RESTORE_ANNOTATION, Seen
from holdfast.control.run_action import Say, Timeouts, when_available
from holdfast.errors import HoldfastError, UsageError

#: what the owner was before a restore paused it, as JSON: written and removed with the other one
BEFORE_ANNOTATION = "holdfast.dev/before"
KUEUE = "kueue.x-k8s.io/"
JOB_UID, QUEUE = f"{KUEUE}job-uid", f"{KUEUE}queue-name"


class NoOwner(HoldfastError):
    """There is no such object, or it cannot be paused. Nothing was changed."""


@dataclass(frozen=True)
class Kind:
    """How objects of one kind are paused: by the value of one field of their spec."""

    title: str
    api: str
    """Group and version."""
    resource: str
    field: str
    paused: Any
    running: Any
    """The value where the field is absent."""
    done: str
    """What a restore does to it, for messages."""


KINDS = {
    "job": Kind("Job", "batch/v1", "jobs", "suspend", True, False, "suspended"),
    "deployment": Kind("Deployment", "apps/v1", "deployments", "replicas", 0, 1, "scaled to zero"),
    "statefulset": Kind(
        "StatefulSet", "apps/v1", "statefulsets", "replicas", 0, 1, "scaled to zero"
    ),
    "jobset": Kind(
        "JobSet", "jobset.x-k8s.io/v1alpha2", "jobsets", "suspend", True, False, "suspended"
    ),
    "trainjob": Kind(
        "TrainJob", "trainer.kubeflow.org/v1alpha1", "trainjobs", "suspend", True, False,
        "suspended",
    ),
}  # fmt: skip
#: Kueue's own object for what it admits: never named by a user, always the topmost
WORKLOAD = Kind(
    "Workload", "kueue.x-k8s.io/v1beta2", "workloads", "active", False, True, "deactivated"
)
#: Conditions of a Job, a JobSet or a TrainJob that has ended.
_ENDED = ("Complete", "Completed", "Failed")
#: The Jobs of a workload's schedule have its label too.
_NOT_OURS = "app.kubernetes.io/part-of!=holdfast"
_LABEL = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9][\w.-]*=[A-Za-z0-9][\w.-]*")
#: The field of what Kueue admits as a whole.
_ADMITTED = "suspend"
_BY_TITLE = {kind.title: kind for kind in KINDS.values()}


@dataclass(frozen=True)
class Target:
    """An object of the cluster that can be paused, as it was when it was looked at."""

    kind: Kind
    namespace: str
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.manifest["metadata"]["name"]

    @property
    def title(self) -> str:
        """Kind and name, for messages."""
        return f"{self.kind.title} {self.name}"

    @property
    def path(self) -> str:
        return _path(self.kind, self.namespace, self.name)

    @property
    def value(self) -> Any:
        """Of the field that pauses it."""
        found = (self.manifest.get("spec") or {}).get(self.kind.field)
        return self.kind.running if found is None else found

    @property
    def is_paused(self) -> bool:
        return self.value == self.kind.paused

    @property
    def restoring(self) -> str:
        """The snapshot for which a restore paused it; empty when none did."""
        return self._annotations.get(RESTORE_ANNOTATION, "")

    @property
    def before(self) -> str:
        """What the field was before that restore, as JSON; empty when none paused it."""
        return self._annotations.get(BEFORE_ANNOTATION, "") if self.restoring else ""

    @property
    def ended(self) -> bool:
        """Whether its pods are gone for good."""
        conditions = (self.manifest.get("status") or {}).get("conditions") or []
        return any(
            each.get("type") in _ENDED and each.get("status") == "True" for each in conditions
        )

    @property
    def deleting(self) -> bool:
        return bool(self.manifest["metadata"].get("deletionTimestamp"))

    @property
    def _annotations(self) -> Mapping[str, str]:
        return self.manifest["metadata"].get("annotations") or {}


@dataclass(frozen=True)
class Named:
    """What the user named: one object, which something else may own."""

    api: KubernetesAPI
    namespace: str
    kind: Kind
    name: str
    """Or a label that it has, ``KEY=VALUE``."""

    @classmethod
    def parse(cls, api: KubernetesAPI, namespace: str, text: str) -> Named:
        """From ``KIND/NAME`` or ``KIND/LABEL=VALUE``. Raises UsageError for another form, or an
        unknown kind."""
        kind, slash, name = text.partition("/")
        if not slash or not name or kind.lower() not in KINDS:
            known = ", ".join(KINDS)
            raise UsageError(
                f"invalid owner '{text}': expected KIND/NAME or KIND/LABEL=VALUE, KIND one of"
                f" {known}"
            )
        if "=" in name and _LABEL.fullmatch(name) is None:
            raise UsageError(f"invalid label '{name}': expected KEY=VALUE, such as team/run=gpt")
        return cls(api, namespace, KINDS[kind.lower()], name)

    @property
    def by_label(self) -> bool:
        return "=" in self.name

    @property
    def title(self) -> str:
        word = "with label " if self.by_label else ""
        return f"{self.kind.title} {word}{self.name}"

    @property
    def paused(self) -> str:
        return "paused"

    def look(self) -> Seen | None:
        """For a resume: see `holdfast.control.owner.Owner`. The Blueprint's action needs no
        options."""
        try:
            found = self.to_resume() if self.by_label else [self.topmost()]
        except NoOwner:
            return None
        return next((Seen(each.restoring, each.deleting, {}) for each in found), None)

    def topmost(self) -> Target:
        """The topmost owner.

        Raises:
            NoOwner: the named object is not there, or not the only one that has the label, or
                something of an unknown kind owns it.
            KubernetesError: an object on the way up may not be seen (403).
        """
        return self._above(self._only() if self.by_label else self._get(self.kind, self.name))

    def to_resume(self) -> list[Target]:
        """The topmost owners that a restore has paused, of all that are named.

        Raises:
            NoOwner: what is named by its name is not there, or is owned by something unknown.
        """
        if not self.by_label:
            return [owner for owner in [self.topmost()] if owner.restoring]
        found = []
        for each in self._labelled():
            with suppress(NoOwner):  # Kueue forgets what has ended
                found.append(self._above(each))
        return [owner for owner in found if owner.restoring]

    def _only(self) -> Target:
        """The one object with the label that has not ended."""
        every = self._labelled()
        found = [each for each in every if not (each.ended or each.deleting)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(sorted(each.name for each in found))
            raise NoOwner(
                f"{len(found)} objects of kind {self.kind.title} have label {self.name} and have"
                f" not ended: {names}; nothing was changed: leave the label on one of them"
            )
        ended = f" and has not ended ({len(every)} with it have)" if every else ""
        raise NoOwner(
            f"no {self.kind.title} in {self.namespace} has label {self.name}{ended}; nothing was"
            " changed: give the label to the one whose pods have the claim; it may be suspended"
        )

    def _labelled(self) -> list[Target]:
        selector = {"labelSelector": f"{self.name},{_NOT_OURS}"}
        listed = self.api.get(_path(self.kind, self.namespace), selector)
        return [Target(self.kind, self.namespace, each) for each in listed.get("items") or []]

    def _above(self, found: Target) -> Target:
        """The topmost owner of an object."""
        while (above := _controller(found.manifest)) is not None:
            kind = _BY_TITLE.get(str(above.get("kind")))
            if kind is None or not str(above.get("apiVersion")).startswith(kind.api.split("/")[0]):
                raise NoOwner(
                    f"{found.title} is owned by {above.get('kind')} {above.get('name')}"
                    f" ({above.get('apiVersion')}), which is of no kind that a restore can pause:"
                    " nothing was changed; stop it yourself, then use `holdfast stage` and `switch`"
                )
            found = self._get(kind, str(above.get("name")))
        return self._admitted(found) or found

    def above(self) -> str:
        """What the object itself says of what is above it; empty if it names nothing."""
        manifest = self._get(self.kind, self.name).manifest
        if (owner := _controller(manifest)) is not None:
            return f"{owner.get('kind')} {owner.get('name')}"
        queue = (manifest["metadata"].get("labels") or {}).get(QUEUE)
        return f"Kueue (queue {queue})" if queue else ""

    def _get(self, kind: Kind, name: str) -> Target:
        try:
            manifest = self.api.get(_path(kind, self.namespace, name))
        except KubernetesError as error:
            if error.status != 404:
                raise
            raise NoOwner(
                f"{kind.title} {self.namespace}/{name} does not exist, and nothing was changed:"
                " create it, or name the right one with --pause"
            ) from None
        return Target(kind, self.namespace, manifest)

    def _admitted(self, found: Target) -> Target | None:
        """The Workload of Kueue for this object; None where Kueue has nothing to do with it, or
        only with its pods, as with those of a Deployment."""
        if found.kind.field != _ADMITTED:
            return None
        queued = QUEUE in (found.manifest["metadata"].get("labels") or {})
        try:
            listed = workloads_of(self.api, found)
        except KubernetesError as error:
            if queued or error.status not in (403, 404):
                raise
            return None
        for workload in listed:
            if not workload.deleting:
                return workload
        if queued:
            raise NoOwner(
                f"{found.title} is in a queue, and Kueue has no Workload for it: nothing was"
                " changed; is Kueue running? Try again when it has seen the object"
            )
        return None


def workloads_of(api: KubernetesAPI, found: Target) -> list[Target]:
    """Kueue's Workloads of an object. A Deployment has none: each of its pods has one."""
    selector = {"labelSelector": f"{JOB_UID}={found.manifest['metadata'].get('uid', '')}"}
    listed = api.get(_path(WORKLOAD, found.namespace), selector)
    return [Target(WORKLOAD, found.namespace, each) for each in listed.get("items") or []]


def require_topmost(named: Named, timeouts: Timeouts, say: Say) -> bool:
    """Refuse a restore whose owner is not there; returns whether it can be seen at all.

    Where it cannot, the Blueprint's task, which can, refuses before it pauses anything.

    Raises:
        NoOwner: there is none, or it is being deleted. Nothing was changed.
    """
    try:
        owner = when_available(named.topmost, timeouts, 10)
    except KubernetesError as error:
        if error.status != 403:
            raise
        say(f"what is above {named.title} may not be seen from here: not checked")
        return False
    if owner.deleting:
        raise NoOwner(f"{owner.title} is being deleted, and nothing was changed: create it anew")
    say(f"the topmost owner of the pods of {named.title} is {owner.title}")
    return True


def require_nothing_above(job: Named, timeouts: Timeouts) -> None:
    """Refuse a restore that would pause a Job which something above starts again.

    Where what is above may not be seen, the Job itself still says that there is something.

    Raises:
        NoOwner: a JobSet, a TrainJob or Kueue is above it. Nothing was changed.
    """
    try:
        owner = when_available(job.topmost, timeouts, 10)
    except KubernetesError as error:
        if error.status != 403:
            raise
        above = when_available(job.above, timeouts, 10)
    else:
        above = "" if owner.kind is job.kind else owner.title
    if above:
        raise NoOwner(
            f"{job.title} is not the topmost owner of its pods: {above} would undo its pause."
            f" Nothing was changed: restore with --pause job/{job.name}"
        )


def _controller(manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for reference in manifest["metadata"].get("ownerReferences") or []:
        if reference.get("controller"):
            return reference
    return None


def _path(kind: Kind, namespace: str, name: str = "") -> str:
    path = f"/apis/{kind.api}/namespaces/{namespace}/{kind.resource}"
    return f"{path}/{name}" if name else path
