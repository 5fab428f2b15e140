import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.manifests import MANIFESTS, load, load_all, merge

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


def test_mappings_merge_by_key_and_other_values_are_replaced():
    base = {"metadata": {"name": "a", "labels": {"x": "1"}}, "spec": {"modes": ["one", "two"]}}
    change = {"metadata": {"name": "b", "labels": {"y": "2"}}, "spec": {"modes": ["three"]}}

    assert merge(base, change) == {
        "metadata": {"name": "b", "labels": {"x": "1", "y": "2"}},
        "spec": {"modes": ["three"]},
    }


def test_named_items_merge_by_name_and_new_ones_follow():
    base = [{"name": "a", "image": "x", "args": ["1"]}, {"name": "b", "image": "y"}]
    change = [{"name": "c", "image": "z"}, {"name": "a", "image": "w"}]

    assert merge(base, change) == [
        {"name": "a", "image": "w", "args": ["1"]},
        {"name": "b", "image": "y"},
        {"name": "c", "image": "z"},
    ]


@given(plain, plain)
def test_merging_changes_neither_argument_and_shares_nothing_with_them(base, change):
    before = (repr(base), repr(change))
    merged = merge(base, change)
    _scribble(merged)

    assert (repr(base), repr(change)) == before


def _scribble(value):
    if isinstance(value, dict):
        for inner in list(value.values()):
            _scribble(inner)
        value["scribbled"] = True
    elif isinstance(value, list):
        for inner in value:
            _scribble(inner)
        value.append("scribbled")


@given(plain)
def test_merging_a_value_with_itself_changes_nothing(value):
    assert merge(value, value) == value


#: Helm values are no objects.
OBJECTS = sorted(p for p in MANIFESTS.glob("*.yaml") if not p.stem.endswith("-values"))


@pytest.mark.parametrize("path", OBJECTS, ids=lambda p: p.stem)
def test_a_manifest_is_a_whole_object_that_people_can_apply(path):
    for kind, document in load_all(path.stem).items():
        keys = list(document)
        assert keys[:3] == ["apiVersion", "kind", "metadata"], f"{path.name} {kind}"
        assert document["metadata"]["labels"]["app.kubernetes.io/part-of"] == "holdfast"


def test_values_of_settings_never_become_structure():
    nasty = "x: {y: [1]}\n---\nkind: Secret"
    job = merge(load("training-job"), {"metadata": {"name": nasty}})

    assert job["metadata"]["name"] == nasty
    assert job["kind"] == "Job"
