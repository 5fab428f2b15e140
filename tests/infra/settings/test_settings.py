import json
from pathlib import Path

import pulumi
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from infra.plan.__main__ import main
from infra.plan.graph import collect
from infra.settings import (
    PROJECT_DIRECTORY,
    TARGETS,
    SettingsError,
    from_config,
    load,
    parse,
    with_values,
)
from infra.settings.fields import size_bytes, size_text
from testkit import eks_factories
from testkit.factories import BUCKET, HOST_PATH, REMOVED, STORE, WORKLOAD, problems, valid

W = "workloads__gpt__"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"workload": {}}, "workload: unknown key: did you mean 'workloads'?"),
        ({f"{W}retention__dayly": 3}, "workloads.gpt.retention.dayly: unknown key: "
         "did you mean 'daily'?"),
        ({f"{W}volume__siz": "1Gi"}, "workloads.gpt.volume.siz: unknown key: did you mean 'size'?"),
        ({f"{W}nodes": "2"}, "workloads.gpt.nodes: '2' is text: write a whole number"),
        ({f"{W}command": "python"}, "workloads.gpt.command: 'python' is text: write a list"),
        ({f"{W}volume__size": "-10Gi"}, "workloads.gpt.volume.size: -10Gi is negative: "
         "use a positive size, such as 10Gi"),
        ({f"{W}volume__size": "10GB"}, "workloads.gpt.volume.size: '10GB' is not a size: "
         "write a whole number and a unit, such as 10Gi"),
        ({f"{W}volume__size": -1}, "workloads.gpt.volume.size: -1 is a number: "
         "write text in quotes, '-1'"),
        ({"workloads": {"models": WORKLOAD}}, "workloads: models is a place of its own in the "
         "backup store (datasets, models, pipeline are): use another name, such as churn"),
        ({f"{W}min_nodes": 2}, "workloads.gpt: min_nodes 2 is more than nodes 1: "
                               "use 1 at most"),
        ({f"{W}nodes": 2}, "workloads.gpt: volume 'host-path' cannot be shared by 2 nodes: "
         "use existing-claim, nfs, efs, fsx-lustre with access mode ReadWriteMany, or nodes: 1"),
        ({f"{W}nodes": 0}, "workloads.gpt.nodes: 0 is too small: use at least 1"),
        ({"target": "docker"}, "target: 'docker' is not known: use one of eks, kubernetes"),
        ({"target": REMOVED}, "target: missing: give one of eks, kubernetes"),
        ({f"{W}start": "maybe"}, "workloads.gpt.start: 'maybe' is not known: "
         "use one of auto, fresh, require"),
        ({f"{W}volume__kind": "cephfs"}, "workloads.gpt.volume.kind: 'cephfs' is not known: "
         "use one of host-path, existing-claim, nfs, iscsi, ebs, efs, fsx-lustre"),
        ({f"{W}volume__kind": REMOVED}, "workloads.gpt.volume.kind: missing: "
         "give one of ebs, efs, existing-claim, fsx-lustre, host-path, iscsi, nfs"),
        ({f"{W}volume__node": REMOVED}, "workloads.gpt.volume.node: missing: give node (the "
         "node's 'kubernetes.io/hostname' label: pods run there, as nowhere else has the data)"),
        ({"backup_store": {"existing": {"url": "file:///var/backups"}}},
         "backup_store.existing.url: file:///var/backups would be the disk of one pod, lost with "
         "the pod: use backup_store.volume, which every pod mounts"),
        ({"backup_store": {**BUCKET, "volume": STORE}}, "backup_store: existing and volume are "
         "given: give exactly one of create, existing and volume"),
        ({"backup_store": {}}, "backup_store: nothing is given: "
         "give exactly one of create, existing and volume"),
        ({"backup_store": {"existing": {"url": "https://x"}}}, "backup_store.existing.url: "
         "'https://x' is not a store: write s3://bucket or s3://bucket/prefix"),
        ({"backup_store": {"existing": {"url": "s3://backups", "region": "Ireland"}}},
         "backup_store.existing: 'Ireland' is not an AWS region: write one such as us-east-1"),
        ({"backup_store__volume__name": "checkpoints"}, "backup_store.volume.name: "
         "'checkpoints' is the name of workloads.gpt.volume too: "
         "give each volume a name of its own"),
        ({"backup_store__volume__path": "/data/checkpoints/store"}, "backup_store.volume.path: "
         "/data/checkpoints/store overlaps the directory of workloads.gpt.volume: "
         "give each volume a directory of its own"),
        ({f"{W}termination_grace_seconds": 60}, "workloads.gpt: termination_grace_seconds 60 is "
         "less than save_seconds + upload_seconds: use at least 120"),
        ({f"{W}grace": 600}, "workloads.gpt: grace 600 would delete what a backup of 3600 s still "
         "names: use at least twice backup_timeout, 7200"),
        ({f"{W}bundle_size": "3Gi"}, "workloads.gpt: volume of 10Gi cannot hold 5 bundles of 3Gi "
         "(keep 3, pinned 0, one saving, one staged): use at least 15Gi, or keep fewer"),
        ({f"{W}schedule": "61 * * * *"}, "workloads.gpt.schedule: '61 * * * *' is not a schedule "
         "(Bad minute): write five fields, such as '*/15 * * * *' (minute hour day month weekday)"),
        ({f"{W}schedule": "* * * * * *"}, "workloads.gpt.schedule: '* * * * * *' is not a "
         "schedule: write five fields, such as '*/15 * * * *' (minute hour day month weekday)"),
        ({f"{W}schedule": "0 0 31 4,6 *"}, "workloads.gpt.schedule: '0 0 31 4,6 *' is not a "
         "schedule (Bad day-of-month): write five fields, such as '*/15 * * * *' "
         "(minute hour day month weekday)"),
        ({f"{W}schedule": "0 0 * * 5,7"}, "workloads.gpt.schedule: '0 0 * * 5,7' has weekday 7, "
         "which Kubernetes refuses: write 0 for Sunday"),
        ({"workloads": {"GPT_1": WORKLOAD}}, "workloads.GPT_1.(key): 'GPT_1' is not a name: use at "
         "most 40 lower-case letters, digits and inner hyphens, a letter first"),
        ({f"{W}run": "../other"}, "workloads.gpt.run: '../other' is not a run name: use at most "
         "63 letters, digits, '.', '_' and '-', a letter or digit first"),
        ({f"{W}image": "trainer"}, "workloads.gpt.image: 'trainer' has no version, so it can "
         "change at any time: add a version tag or a digest"),
        ({"images__tools": "tools:latest"}, "images.tools: 'tools:latest' has no version, so "
         "it can change at any time: add a version tag or a digest"),
        ({f"{W}mount_path": "/tmp/model"}, "workloads.gpt: mount_path /tmp/model overlaps /tmp, "
         "which Holdfast uses: use another, such as /var/ml_model"),
        ({f"{W}mount_path": "model"}, "workloads.gpt.mount_path: 'model' is not an absolute path "
         "below the root: write one such as /var/ml_model"),
        ({f"{W}namespace": "kube-system"}, "workloads: gpt is in namespace kube-system, which "
         "belongs to the cluster or to Holdfast: use another, such as training"),
        ({f"{W}namespace": "kanister"}, "workloads.gpt.namespace: kanister belongs to Kanister: "
         "use another, so that no workload can reach the operator"),
        ({f"{W}env": {"HOLDFAST_STORE": "x"}}, "workloads.gpt: env HOLDFAST_STORE is set by "
         "Holdfast: use the setting that it comes from"),
        ({f"{W}shared_memory": "8Gi"}, "workloads.gpt: shared_memory 8Gi uses all of the 4Gi of "
         "memory: raise resources.memory"),
        ({f"{W}resources": {"cpu": "0"}}, "workloads.gpt.resources.cpu: '0' is not an amount of "
         "CPU: write cores ('2') or thousandths of a core ('500m')"),
        ({f"{W}retention__keep_last": 0}, "workloads.gpt.retention.keep_last: 0 is too small: "
         "use at least 1"),
        ({"run_as": 0}, "run_as: 0 is too small: use at least 1"),
        ({"workloads": {}},
         "workloads: is empty: give workloads (trainings, applications and pods of others by "
         "name)"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_line_with_what_the_rule_and_the_remedy(changes, line):
    assert problems(**changes) == [line]


@pytest.mark.parametrize("word", ["null", "None", "none", "~", ""])
@pytest.mark.parametrize(
    "place", ["kanister.repository", "kubernetes.context", "workloads.gpt.run",
              "workloads.gpt.namespace", "workloads.gpt.volume.node", "cluster_identifier",
              "backup_store.prefix", "workloads.gpt.bundle_size"],
)  # fmt: skip
def test_a_text_that_means_no_value_is_no_value_of_a_setting(place: str, word: str):
    """`pulumi config set … null` stores the text."""
    (line,) = problems(**{place: word})

    assert line.startswith(f"{place}: ")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"kanister__repository": "null"}, "kanister.repository: 'null' is a text that stands for "
         "no value: leave it out for the default"),
        ({f"{W}run": 2024},
         "workloads.gpt.run: 2024 is a number: write text in quotes, '2024'"),
        ({"kanister": {"chart": "./chart", "repository": "https://charts.example"}}, "kanister: "
         "repository https://charts.example is not used for chart ./chart: leave it out, or name "
         "a chart in it, such as kanister-operator"),
        ({"kanister": {"values": {"bpValidatingWebhook": {"enabled": True}}}},
         "kanister.values: bpValidatingWebhook is enabled, and Kanister's webhook would refuse the "
         "Blueprints: it takes `{{ .PVC.Name }}` in a label for the label itself. Leave it out"),
    ],
)  # fmt: skip
def test_what_the_command_line_made_of_a_value_is_said_with_the_remedy(changes, line):
    assert problems(**changes) == [line]


def test_an_environment_variable_may_be_empty_or_none():
    assert problems(workloads__gpt__env={"A": "none", "B": ""}) == []


def test_every_wrong_setting_of_a_file_is_reported_at_once():
    found = problems(workloads__gpt__nodes="2", workloads__gpt__keep=0, runas=1)

    assert len(found) == 3
    assert all("\n" not in line and line.count(": ") >= 2 for line in found)


def test_two_workloads_cannot_share_one_volume():
    other = {"run": "other", "volume": HOST_PATH}

    assert problems(workloads={"a": WORKLOAD, "b": other}) == [
        "workloads.b.volume.name: 'checkpoints' is the name of workloads.a.volume too: "
        "give each volume a name of its own"
    ]


def test_a_claim_of_the_same_name_in_another_namespace_is_another_volume():
    claim = {"kind": "existing-claim", "name": "shared", "size": "1Ti"}
    workloads = {
        name: {"run": "x", "namespace": name, "volume": claim} for name in ("team-a", "team-b")
    }

    assert problems(workloads=workloads) == []


def test_wrong_settings_stop_the_program_before_its_first_resource():
    with pytest.raises(SettingsError):
        collect(parse(valid(workloads__gpt__keep=0)), "test")


def test_the_command_line_prints_problems_without_a_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("infra.plan.__main__.load", lambda stack: load(stack, tmp_path))
    config = {f"holdfast:{key}": value for key, value in valid(run_as=0, targett="x").items()}
    (tmp_path / "Pulumi.bad.yaml").write_text(yaml.safe_dump({"config": config}))

    assert main(["plan", "--stack", "bad"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "run_as: 0 is too small: use at least 1",
        "targett: unknown key: did you mean 'target'?",
    ]
    assert main(["plan", "--stack", "none"]) == 2
    assert capsys.readouterr().err == (
        "stack 'none': there is no Pulumi.none.yaml: use one of bad\n"
    )  # fmt: skip


def test_a_file_that_is_not_yaml_is_one_line(tmp_path):
    (tmp_path / "Pulumi.bad.yaml").write_text("config: [")

    with pytest.raises(
        SettingsError, match=r"^Pulumi.bad.yaml: is not valid YAML \(.*\): correct it$"
    ):
        load("bad", tmp_path)


def test_the_engine_and_the_file_give_the_same_settings():
    document = yaml.safe_load((PROJECT_DIRECTORY / "Pulumi.local.yaml").read_text())
    handed_over = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in document["config"].items()
    }
    pulumi.runtime.set_all_config({**handed_over, "aws:region": "eu-central-1"})
    try:
        assert from_config(pulumi.Config("holdfast")) == load("local")
    finally:
        pulumi.runtime.set_all_config({})


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [("run_as", "2000", 2000), ("cluster_identifier", "2024", "2024"),
     ("kubernetes", '{"context": "kind"}', {"context": "kind"})],
)  # fmt: skip
def test_a_value_stored_as_text_means_the_same_to_the_engine_and_from_the_file(
    tmp_path: Path, key: str, text: str, value: object
):
    """`pulumi config set holdfast:run_as 2000` writes "2000" into the file."""
    config = {f"holdfast:{name}": given for name, given in valid().items()}
    stored = {**config, f"holdfast:{key}": text}
    (tmp_path / "Pulumi.one.yaml").write_text(yaml.safe_dump({"config": stored}))
    pulumi.runtime.set_all_config(
        {name: v if isinstance(v, str) else json.dumps(v) for name, v in stored.items()}
    )
    try:
        expected = parse(valid(**{key: value}))
        assert from_config(pulumi.Config("holdfast")) == load("one", tmp_path) == expected
    finally:
        pulumi.runtime.set_all_config({})


def test_the_project_declares_each_setting_with_its_type_and_default():
    """`pulumi config set` and the engine check types; a default there must be the model's."""
    declared = yaml.safe_load((PROJECT_DIRECTORY / "Pulumi.yaml").read_text())["config"]
    known = {name: [m.model_fields.get(name) for m in TARGETS.values()]
             for model in TARGETS.values() for name in model.model_fields}  # fmt: skip

    assert declared.keys() == known.keys()
    for name, entry in declared.items():
        # The engine demands what has no default, whatever the target: only what all demand.
        everywhere = all(field is not None and field.is_required() for field in known[name])
        assert ("default" not in entry) == everywhere, name
    defaults = {key: entry["default"] for key, entry in declared.items() if "default" in entry}
    for data in (valid(), eks_factories.valid()):
        assert parse(with_values({**defaults, **data})) == parse(data)


def test_every_setting_is_described():
    models = {}
    for target in TARGETS.values():
        schema = target.model_json_schema()
        models |= {target.__name__: schema, **schema["$defs"]}

    bare = [
        f"{model}.{name}"
        for model, definition in models.items()
        for name, field in definition["properties"].items()
        if not field.get("description")
    ]
    assert bare == []


@given(st.integers(min_value=1, max_value=2**60))
def test_a_size_in_text_means_the_same_bytes(count):
    assert size_bytes(size_text(count)) == count


def test_settings_cannot_change_once_read():
    settings = parse(valid())

    with pytest.raises(ValueError, match="frozen"):
        settings.run_as = 5  # type: ignore[misc]


def test_no_setting_is_read_from_outside_the_project(tmp_path: Path):
    config = {f"holdfast:{key}": value for key, value in valid().items()} | {"aws:region": "x"}
    (tmp_path / "Pulumi.one.yaml").write_text(yaml.safe_dump({"config": config}))

    assert load("one", tmp_path) == parse(valid())
