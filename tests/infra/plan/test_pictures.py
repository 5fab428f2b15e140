"""The pictures in the documents are those of the plan."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from infra.plan.graph import Graph
from infra.plan.render_svg import svg
from testkit.eks_factories import EFS, GPU_GROUP, graph
from testkit.factories import of_stack

PICTURES = Path(__file__).parents[3] / "docs/pictures"


@pytest.fixture(params=["local", "dev", "prod", "pipeline", "pipeline-eks"])
def stack(request: pytest.FixtureRequest) -> Graph:
    return of_stack(request.param)


def texts(picture: str) -> list[str]:
    return [text for text in ET.fromstring(picture).itertext() if text.strip()]


def arrows(picture: str) -> int:
    return picture.count('class="a"')


def test_the_picture_of_each_stack_is_current(stack: Graph):
    kept = (PICTURES / f"{stack.stack}.svg").read_text()

    assert kept == svg(stack) + "\n", "the plan has changed: run `make pictures`"


def test_a_picture_needs_nothing_from_elsewhere_and_scales(stack: Graph):
    drawn = ET.fromstring(svg(stack))

    assert drawn.get("viewBox") and drawn.get("width") is None
    assert not any(name.endswith("href") for each in drawn.iter() for name in each.attrib)
    assert "url(http" not in svg(stack) and "@import" not in svg(stack)


def test_a_picture_counts_every_resource_but_the_providers(stack: Graph):
    counts = sum(int(text) for text in texts(svg(stack)) if text.isdigit())
    made = [r for r in stack.resources if r.custom or r.remote]

    assert counts == sum(not r.type.startswith("pulumi:") for r in made)


def test_a_picture_names_what_a_person_looks_for():
    shown = texts(svg(graph(node_groups__training__gpu=GPU_GROUP, workloads__gpt__volume=EFS)))

    for wanted in ("VPC 10.0.0.0/16", "gpu: g5.12xlarge", "no nodes, 0 to 2", "test-backups",
                   "EFS shared, in every zone", "EKS test, Kubernetes 1.35"):  # fmt: skip
        assert wanted in shown


def test_no_name_is_cut_short_in_the_picture_of_a_pipeline():
    for declared in (of_stack("pipeline"), of_stack("pipeline-eks")):
        cut = [text for text in texts(svg(declared)) if "…" in text]
        assert [text.partition(" --")[0] for text in cut] == ["mlflow: mlflow server"]


def test_what_tracking_has_in_aws_is_drawn_there_and_not_in_the_cluster():
    drawn = ET.fromstring(svg(of_stack("pipeline-eks")))
    heights = {each.text: float(each.get("y", 0)) for each in drawn.iter() if each.get("class")}

    assert heights["Files of the tracking"] < heights["Kubernetes in holdfast-pipeline"]
    assert heights["Experiment tracking"] > heights["Kubernetes in holdfast-pipeline"]
    assert "Files of the tracking" not in texts(svg(of_stack("pipeline")))


def test_an_arrow_is_there_only_where_something_waits(local: Graph):
    nothing_waits = Graph(
        local.stack,
        [r for r in local.resources if not r.options.depends_on],
        local.outputs,
    )

    assert arrows(svg(local)) == 3
    assert arrows(svg(nothing_waits)) == 0
