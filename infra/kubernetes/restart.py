"""What the kubelet starts again in the pod of a trainer that failed."""

from infra.manifests import Manifest
from infra.settings import Workload

#: The action of a restart rule by which all containers of the pod run again, init containers too.
RESTART_ALL = "RestartAllContainers"

#: A Job that is never created; it is valid where all containers of a pod can restart.
RESTARTING_JOB: Manifest = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"generateName": "holdfast-asks-", "namespace": "default"},
    "spec": {
        "template": {
            "spec": {
                "restartPolicy": "Never",
                "containers": [
                    {
                        "name": "asks",
                        "image": "none",
                        "restartPolicy": "Never",
                        "restartPolicyRules": [
                            {"action": RESTART_ALL, "exitCodes": {"operator": "In", "values": [1]}}
                        ],
                    }
                ],
            }
        }
    },
}


def restart_rules(base: Manifest, workload: Workload) -> list[Manifest]:
    """What a trainer that failed makes the kubelet start again: the rules of the manifest, with the
    action that the setting names.

    With ``all-containers`` the init container `recover` runs before the trainer, in the same pod on
    the same node: it refills a lost volume, and voids what a restore has staged. The volumes stay,
    scratch and /tmp as well. From the kubelet's source (1.35.4 and 1.36.3), what else differs from
    ``container``: the old containers are removed, and since none is left that has ended, there is
    no back-off between two restarts. Seen: the kubelet of 1.36.3 starts the new ones 0.1 s later,
    that of 1.35.4 waits for 82 s.

    Several nodes: each pod is on its own. Only the pod whose trainer failed starts again; in the
    others the ranks stop and wait for it at the rendezvous, as they do for a node that was lost.
    Its `recover` then runs beside trainers that have the volume open, as that of a new pod does.
    """
    (trainer,) = base["spec"]["template"]["spec"]["containers"]
    rules: list[Manifest] = trainer["restartPolicyRules"]
    if workload.restart == "container":
        return rules
    return [{**rule, "action": RESTART_ALL} for rule in rules]
