"""Versions are pinned, so that what runs changes only by a reviewed change."""

import re
from collections.abc import Iterator
from typing import Any

from policy.clusters import cluster_value, is_cluster
from policy.model import UNKNOWN, Config, Level, Resource, at, is_true, rule, unset
from policy.workloads import containers, pods

_EXACT = re.compile(r"v?\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]+)?")
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")


@rule(
    "cluster-version-is-pinned",
    "Name the Kubernetes version of a cluster, and stay within standard support.",
)
def cluster(resource: Resource, _: Config) -> Iterator[str]:
    if not is_cluster(resource):
        return
    if unset(cluster_value(resource, "version")):
        yield "takes the newest Kubernetes of the day: set version"
    if cluster_value(resource, "support") not in ("STANDARD", UNKNOWN):
        yield "goes into extended support at six times the price: set upgradePolicy to STANDARD"


@rule("addons-are-pinned", "Name the version of every EKS add-on.")
def addons(resource: Resource, _: Config) -> Iterator[str]:
    if resource.type == "aws:eks/addon:Addon" and unset(at(resource.inputs, "addonVersion")):
        yield f"{at(resource.inputs, 'addonName')} takes the version of the day: set addonVersion"


@rule(
    "node-images-are-pinned",
    "Name the release of a node group's image: otherwise nodes roll when AWS publishes one.",
)
def node_images(resource: Resource, _: Config) -> Iterator[str]:
    if resource.type == "aws:eks/nodeGroup:NodeGroup":
        ami = at(resource.inputs, "amiType")
        if ami not in ("CUSTOM", UNKNOWN) and unset(at(resource.inputs, "releaseVersion")):
            yield "takes the image of the day: set releaseVersion"


@rule("charts-are-pinned", "Name the exact version of every Helm chart from a repository.")
def charts(resource: Resource, _: Config) -> Iterator[str]:
    if resource.type not in ("kubernetes:helm.sh/v3:Release", "kubernetes:helm.sh/v4:Chart"):
        return
    chart, version = at(resource.inputs, "chart"), at(resource.inputs, "version")
    if UNKNOWN in (chart, version) or str(chart).startswith((".", "/")):
        return
    if not isinstance(version, str) or not _EXACT.fullmatch(version):
        yield f"chart {chart} at version {version or 'none'}: name one version, such as 1.2.3"


@rule(
    "images-are-pinned",
    "Name every container image by digest or by a tag that is not latest.",
    digests_only=False,
)
def images(resource: Resource, config: Config) -> Iterator[str]:
    for pod in pods(resource):
        for container in containers(pod):
            image = at(container, "image")
            if problem := _image_problem(image, config["digests_only"]):
                yield f"{pod.what} container {at(container, 'name')}: {problem}"


def _image_problem(image: Any, digests_only: bool) -> str | None:
    if image is UNKNOWN or (isinstance(image, str) and ("{{" in image or _DIGEST.search(image))):
        return None
    if not image:
        return "has no image: name one with its digest"
    tag = image.rpartition("/")[2].partition(":")[2]
    if tag in ("", "latest"):
        return f"{image} may be another image tomorrow: add a version tag or a digest"
    return f"{image} is a tag, which can move: name its digest" if digests_only else None


@rule(
    "node-groups-repair-themselves",
    "Let EKS replace a node that is broken: a dead GPU otherwise waits for a person.",
    Level.ADVISORY,
)
def repair(resource: Resource, _: Config) -> Iterator[str]:
    repaired = is_true(at(resource.inputs, "nodeRepairConfig", "enabled"))
    if resource.type == "aws:eks/nodeGroup:NodeGroup" and not repaired:
        yield "keeps broken nodes: set nodeRepairConfig.enabled to true"


@rule(
    "registries-keep-tags",
    "Let no image tag be overwritten in a registry, and scan images when they are pushed.",
)
def registries(resource: Resource, _: Config) -> Iterator[str]:
    if resource.type != "aws:ecr/repository:Repository":
        return
    mutability = at(resource.inputs, "imageTagMutability")
    if mutability is not UNKNOWN and not str(mutability or "").startswith("IMMUTABLE"):
        yield "lets a tag be overwritten: set imageTagMutability to IMMUTABLE"
    if at(resource.inputs, "imageScanningConfiguration", "scanOnPush") not in (True, UNKNOWN):
        yield "does not scan images: set imageScanningConfiguration.scanOnPush to true"
