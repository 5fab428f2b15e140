"""The limits of texts are those of AWS' own models."""

import re

import botocore.session
import pytest

from policy.texts import AUTO_NAMED, TAG_KEY_LENGTH, TAG_VALUE_LENGTH, TEXTS, Text, tag_problem

MODELLED = {
    (kind, name): text
    for kind, texts in TEXTS.items()
    for name, text in texts.items()
    if text.call is not None
}


@pytest.mark.parametrize(("where", "text"), MODELLED.items(), ids=map(str, MODELLED))
def test_a_limit_is_the_one_in_aws_model_of_the_call(where: tuple[str, str], text: Text):
    service, operation, member = text.call or ("", "", "")
    model = botocore.session.get_session().get_service_model(service)
    shape = model.operation_model(operation).input_shape
    assert shape is not None
    limits = shape.members[member].metadata

    assert text.longest == limits["max"]
    assert text.shortest == limits.get("min", 0)
    assert text.characters == limits.get("pattern", "")


def test_each_text_names_its_source_and_has_an_expression_that_python_reads():
    for texts in TEXTS.values():
        for text in texts.values():
            assert text.call or text.source
            assert re.compile(text.characters)


def test_what_pulumi_names_has_its_limits():
    assert {kind for kind, key in AUTO_NAMED.items() if key not in TEXTS[kind]} == set()


@pytest.mark.parametrize("service", ["iam", "efs", "fsx", "logs"])
def test_tags_are_as_strict_as_the_strictest_service(service: str):
    model = botocore.session.get_session().get_service_model(service)
    key, value = {"iam": ("tagKeyType", "tagValueType")}.get(service, ("TagKey", "TagValue"))

    assert model.shape_for(key).metadata["max"] == TAG_KEY_LENGTH
    assert model.shape_for(value).metadata["max"] == TAG_VALUE_LENGTH
    assert r"_.:/=+\-@" in model.shape_for(value).metadata["pattern"]
    assert tag_problem("a_.:/=+-@ b", "Zuständig 1") is None
    assert tag_problem("a", "b;c") is not None
