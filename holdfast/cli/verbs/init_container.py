"""Print what a pod template of someone else's needs to refill its volume."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli import options
from holdfast.cli.output import emit, result, say
from holdfast.errors import UsageError


def init_container(
    claim: options.Claim = None,
    namespace: options.Namespace = None,
    api: options.Api = None,
    image: Annotated[
        str | None,
        typer.Option(
            "--image",
            envvar="HOLDFAST_TOOLS_IMAGE",
            help="The tools image. With it the container is made from these options, and no cluster"
            " is asked.",
            metavar="IMAGE",
        ),
    ] = None,
    volume: options.Volume = Path("/var/ml_model"),
    run: options.Run = None,
    store: options.Store = None,
    owner: options.Owner = None,
    workload: options.Workload = None,
    pause: options.Paused = None,
    secret: Annotated[
        str | None,
        typer.Option(
            "--secret",
            envvar="HOLDFAST_STORE_SECRET",
            help="A Secret in the pods' namespace with the store's credentials, AWS_ACCESS_KEY_ID"
            " and AWS_SECRET_ACCESS_KEY, and where needed AWS_REGION and AWS_ENDPOINT_URL. Default:"
            " the pods' own identity.",
            metavar="NAME",
        ),
    ] = None,
    run_as: Annotated[
        int,
        typer.Option(
            "--run-as",
            envvar="HOLDFAST_RUN_AS",
            min=1,
            max=2**31 - 1,
            help="User and group id of the pods: what is on the volume belongs to it.",
            metavar="ID",
        ),
    ] = 1000,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Print the part of a pod template that refills an empty volume before user code starts.

    Merge it into the template of your own Job, JobSet, Deployment or StatefulSet: the label by
    which backups find the pod's node, the pods' user, the init container, and what it mounts. It is
    the container that the stack's own trainings have. Without --image it is read from the ConfigMap
    that the stack made for a workload of kind protected; with it, it is made from the options.
    --pause says what owns the pods: those of a Deployment or a StatefulSet start again anyway.

    Example: holdfast init-container --namespace team-a --claim llama-checkpoints
    --api http://127.0.0.1:8001
    """
    held = options.required(claim, "claim")
    if image is None:
        from holdfast.control.kubernetes import KubernetesAPI
        from holdfast.control.pod_part import read

        where = options.required(namespace, "namespace")
        part = read(KubernetesAPI(api), where, held)
        say(f"pod template for claim {where}/{held}, as the stack declares it")
    else:
        part = _from_options(
            held, image, volume, run, store, owner, workload, pause, secret, run_as
        )
        say(f"pod template for claim {held}: merge it into yours")
    if output is options.Format.JSON:
        emit(part)
        return
    from holdfast.recovery.init_container import as_yaml

    for line in as_yaml(part).splitlines():
        result(line)


def _from_options(
    claim: str,
    image: str,
    volume: Path | None,
    run: str | None,
    store: str | None,
    owner: str | None,
    workload: str | None,
    pause: str | None,
    secret: str | None,
    run_as: int,
) -> dict[str, Any]:
    from holdfast.control.topmost import KINDS
    from holdfast.recovery.init_container import pod_part

    where = options.required(store, "store")
    if not where.startswith("s3://"):
        raise UsageError(
            f"store {where} is a directory, which other pods would not see: use s3://…, or the"
            " stack's ConfigMap (without --image), which mounts a store on a volume"
        )
    environment = {
        "HOLDFAST_STORE": where,
        "HOLDFAST_OWNER": options.required(owner, "owner"),
        "HOLDFAST_WORKLOAD": options.required(workload, "workload"),
        "HOLDFAST_RUN": options.required(run, "run"),
    }
    kind = KINDS.get("job" if pause is None else pause.partition("/")[0].lower())
    if kind is None:
        raise UsageError(
            f"invalid owner '{pause}': expected KIND/NAME, KIND one of {', '.join(KINDS)}"
        )
    return pod_part(
        claim,
        image,
        str(volume),
        environment,
        run_as=run_as,
        secret=secret,
        of_a_job=kind.field == "suspend",
    )
