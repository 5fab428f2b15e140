import pytest

from sandbox.cluster.templates import BLUEPRINT_FUNCTIONS, WAIT_FUNCTIONS, Template, TemplateError
from sandbox.errors import Unsupported

GONE = (
    '{{ if exists . "status" "active" }}false{{ else if exists . "status" "terminating" }}'
    "{{ eq .status.terminating 0 }}{{ else }}true{{ end }}"
)


def render(text: str, **data: object) -> str:
    return Template(text, BLUEPRINT_FUNCTIONS).render(data)


def test_a_field_path_is_replaced_inside_its_text() -> None:
    assert render("s3://{{ .PVC.Name }}/x", PVC={"Name": "data"}) == "s3://data/x"


def test_an_absent_field_is_an_error_that_names_it() -> None:
    with pytest.raises(TemplateError, match=r"snapshot.*\.Options\.snapshot"):
        render("{{ .Options.snapshot }}", Options={})


def test_index_of_an_absent_key_is_empty() -> None:
    assert render('[{{ index .Options "job" }}]', Options={}) == "[]"


def test_branches_nest_and_end_where_they_should() -> None:
    text = "{{ if .a }}A{{ if .b }}B{{ end }}{{ else }}-{{ end }}."
    assert render(text, a=1, b=1) == "AB."
    assert render(text, a=1, b="") == "A."
    assert render(text, a=0, b=1) == "-."


@pytest.mark.parametrize(
    ("status", "gone"),
    [
        ({"active": 1, "terminating": 0}, "false"),
        ({"terminating": 1}, "false"),
        ({"terminating": 0}, "true"),
        ({"terminating": 0, "conditions": []}, "true"),
        ({}, "true"),
        ({"active": 1}, "false"),
    ],
)
def test_the_wait_for_a_job_without_pods_reads_every_shape_of_status(
    status: dict[str, int], gone: str
) -> None:
    assert Template(GONE, WAIT_FUNCTIONS).render({"status": status}) == gone


def test_comparing_different_types_is_an_error_as_in_go() -> None:
    with pytest.raises(TemplateError, match="incompatible types"):
        render('{{ eq .n "0" }}', n=0)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{{ .x | quote }}", r"'\|'"),
        ("{{ range .x }}{{ end }}", "'range'"),
        ("{{ with .x }}{{ end }}", "'with'"),
        ("{{ toYaml .x }}", "'toYaml'"),
        ("{{ $x }}", r"'\$x'"),
        ("{{- .x -}}", "'-'"),
        ('{{ eq (index .x "y") "z" }}', "'\\(index'"),
        ('{{ exists . "x" }}', "'exists'"),  # only the conditions of WaitV2 have it
    ],
)
def test_anything_outside_the_subset_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(Unsupported, match=named):
        Template(text, BLUEPRINT_FUNCTIONS)


@pytest.mark.parametrize("text", ["{{ if .x }}a", "a{{ end }}", "{{ if .x }}{{ else }}b"])
def test_a_template_that_does_not_close_its_blocks_is_an_error(text: str) -> None:
    with pytest.raises(TemplateError):
        Template(text, BLUEPRINT_FUNCTIONS)
