"""The container that refills a volume before user code starts, in every pod that has one.

What does not depend on the settings stands beside `holdfast` itself, which prints the same
container for a pod template of someone else's (`holdfast init-container`).
"""

from infra.kubernetes.environment import recover_environment
from infra.kubernetes.pods import PodSettings, env, user, with_store
from infra.manifests import RECOVERY, Manifest, load, merge
from infra.names import CLAIM_LABEL, OF_JOBS, config_map_name
from infra.settings import AnyWorkload, ForeignPods


def recover_container(
    workload: AnyWorkload, pods: PodSettings, *, of_a_job: bool = True
) -> Manifest:
    """The container ``recover``, without access to the store.

    Args:
        workload: whose volume it refills.
        pods: the image.
        of_a_job: whether the pod is not started again by what owns it.
    """
    base = load("init-container", RECOVERY)
    source = [{"configMapRef": {"name": config_map_name(workload.volume.claim)}}]
    of_workload = {
        "image": pods.images.tools,
        "envFrom": source,
        "env": env(recover_environment(workload)),
        "volumeMounts": [{"name": "volume", "mountPath": workload.mount_path}],
    }
    left_out = () if of_a_job else base["only-of-a-job"]
    container = {key: value for key, value in base["container"].items() if key not in left_out}
    return merge(container, of_workload)


def pod_of_others(workload: ForeignPods, pods: PodSettings) -> Manifest:
    """What a pod template of someone else's gets, as `holdfast init-container` prints it: the label
    by which tasks find the pod's node, its user, the container and what that mounts."""
    claim = {"claimName": workload.volume.claim}
    account = workload.service_account
    recover = recover_container(workload, pods, of_a_job=workload.owner.kind in OF_JOBS)
    spec = {
        **user(pods.run_as),
        **({"serviceAccountName": account} if account is not None else {}),
        "initContainers": [recover],
        "volumes": merge(
            load("init-container", RECOVERY)["volumes"],
            [{"name": "volume", "persistentVolumeClaim": claim}],
        ),
    }
    return {
        "metadata": {"labels": {CLAIM_LABEL: workload.volume.claim}},
        "spec": with_store(spec, pods.store, {"recover": True}),
    }
