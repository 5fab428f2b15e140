"""``python -m infra.newer_versions``: what is newer than the pins, and what runs out when.

Charts are looked up in their repositories, add-ons with the AWS CLI where it has credentials. What
cannot be asked is said, and how to ask it; nothing is changed.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from urllib.request import urlopen

import yaml

from infra import versions

#: Days before the end of support in which an upgrade is due.
DUE = 90
#: Seconds for one answer.
PATIENCE = 20
CHARTS = (versions.KANISTER, versions.NVIDIA_DEVICE_PLUGIN, versions.EFA_DEVICE_PLUGIN)

#: Chart repository and chart -> its versions. Raises OSError where it does not answer.
ChartVersions = Callable[[str, str], list[str]]
#: Minor version of Kubernetes and add-on -> its versions. Raises OSError likewise.
AddonVersions = Callable[[str, str], list[str]]


def published_charts(repository: str, chart: str) -> list[str]:
    """The versions of a chart, from its repository's index."""
    with urlopen(f"{repository}/index.yaml", timeout=PATIENCE) as answer:
        index = yaml.load(answer.read(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return [str(entry["version"]) for entry in index["entries"].get(chart, [])]


def offered_addons(minor: str, addon: str) -> list[str]:
    """The versions of an add-on that EKS offers for a minor version, by the AWS CLI."""
    if shutil.which("aws") is None:
        raise OSError("the AWS CLI is not on PATH")
    query = "addons[0].addonVersions[].addonVersion"
    command = ["aws", "eks", "describe-addon-versions", "--kubernetes-version", minor]
    command += ["--addon-name", addon, "--query", query, "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode:
        raise OSError(" ".join(done.stderr.split()) or "the AWS CLI failed")
    return json.loads(done.stdout) or []


def order(version: str) -> tuple[int, ...]:
    """A version as numbers, to compare: ``v1.22.4-eksbuild.3`` is 1, 22, 4, 3."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def report(today: date, charts: ChartVersions, addons: AddonVersions) -> Iterator[str]:
    """One line for each pin and each end of support."""
    yield f"pins last compared on {versions.CHECKED} ({(today - versions.CHECKED).days} days ago)"
    for name, minor in versions.MINORS.items():
        left = (minor.supported_until - today).days
        what = "upgrade now" if left < DUE else "no hurry"
        ends = f"standard support ends on {minor.supported_until}"
        yield f"Kubernetes {name}: {ends}, in {left} days: {what}"
        yield f"  node image {minor.node_release}, kubectl {minor.kubectl}: see docs/upgrade.md"
        for addon, pinned in minor.addons.items():
            yield f"  {addon} {_compared(pinned, lambda a=addon, n=name: addons(n, a))}"
    for repository, chart, pinned in CHARTS:
        yield f"{chart} {_compared(pinned, lambda r=repository, c=chart: charts(r, c))}"
    for chart in (versions.KARPENTER, versions.KARPENTER_KINDS):
        yield f"{chart[0]} {chart[1]}: ask with `helm show chart {chart[0]}`"


def _compared(pinned: str, ask: Callable[[], list[str]]) -> str:
    try:
        # A version with a word in it, such as 1.0.0-rc.1, is not one to pin.
        known = [v for v in ask() if re.fullmatch(r"v?[\d.]+(-eksbuild\.\d+)?", v)]
    except (OSError, subprocess.TimeoutExpired, yaml.YAMLError, ValueError) as error:
        return f"{pinned}: not asked ({' '.join(str(error).split())[:100]})"
    if not known:
        return f"{pinned}: not offered any more"
    newest = max(known, key=order)
    return f"{pinned}: {newest} is newer" if order(newest) > order(pinned) else f"{pinned}: newest"


def main() -> int:
    for line in report(datetime.now(UTC).date(), published_charts, offered_addons):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
