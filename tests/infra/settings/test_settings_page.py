"""docs/settings.md is written from the models, so that it cannot fall behind them."""

import re
from collections.abc import Iterator
from typing import Any

from infra.settings import PROJECT_DIRECTORY, EksStack, KubernetesStack
from tests.golden import compare

PAGE = PROJECT_DIRECTORY / "docs" / "settings.md"
START = "<!-- written by tests/infra/settings/test_settings_page.py -->\n"


def test_the_settings_page_is_what_the_models_say():
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else START
    compare(PAGE, text.partition(START)[0] + START + "\n".join(_page()))


def _page() -> Iterator[str]:
    models: dict[str, Any] = {}
    for target in (KubernetesStack, EksStack):
        schema = target.model_json_schema()
        models |= {target.__name__: schema, **schema["$defs"]}
    used = [
        n for root in (KubernetesStack, EksStack) for n in _in_order_of_use(models, root.__name__)
    ]
    for name in dict.fromkeys(used):
        model = models[name]
        required = set(model.get("required", ()))
        yield f"\n## {_heading(name)}\n"
        yield _text(model.get("description", "")) + "\n"
        yield "| key | type | default | |\n| --- | --- | --- | --- |"
        for key, field in model["properties"].items():
            default = "**required**" if key in required else _default(field)
            yield f"| `{key}` | {_type(field)} | {default} | {_text(field['description'])} |"
    yield ""


def _in_order_of_use(models: dict[str, Any], name: str) -> list[str]:
    found = [name]
    for other in re.findall(r"#/\$defs/(\w+)", str(models[name]["properties"])):
        found += [item for item in _in_order_of_use(models, other) if item not in found]
    return list(dict.fromkeys(found))


def _heading(name: str) -> str:
    return {
        "KubernetesStack": "A stack with target kubernetes",
        "EksStack": "A stack with target eks",
        "AwsSettings": "aws",
        "NetworkSettings": "network",
        "ExistingNetwork": "network.existing",
        "ClusterSettings": "cluster",
        "ApiAccess": "cluster.api_access",
        "AccessEntry": "cluster.access.<name>",
        "NodeGroups": "node_groups",
        "SystemGroup": "node_groups.system",
        "TrainingGroup": "node_groups.training.<name>",
        "Elastic": "node_groups.training.<name>.elastic",
        "Scaling": "node_groups.….scaling",
        "RepairRule": "node_groups.training.<name>.repair",
        "Registry": "registry",
        "CreatedStore": "backup_store.create, pipeline.tracking.artifacts.create",
        "Replica": "backup_store.create.replica",
        "ObjectLock": "backup_store.create.object_lock",
        "NfsVolume": "volume of kind nfs",
        "IscsiVolume": "volume of kind iscsi",
        "EbsVolume": "volume of kind ebs",
        "EfsVolume": "volume of kind efs",
        "FsxLustreVolume": "volume of kind fsx-lustre",
        "KubernetesSettings": "kubernetes",
        "Images": "images",
        "KanisterSettings": "kanister",
        "BackupStore": "backup_store",
        "ExistingStore": "backup_store.existing, pipeline.tracking.artifacts.existing, "
        "pipeline.existing.artifacts.bucket",
        "HostPathVolume": "volume of kind host-path",
        "ExistingClaim": "volume of kind existing-claim",
        "Pipeline": "pipeline",
        "Tracking": "pipeline.tracking",
        "PipelineBackup": "pipeline.backup",
        "PostgresServer": "pipeline.tracking.database of kind postgresql",
        "ExistingDatabase": "pipeline.tracking.database of kind existing",
        "Artifacts": "pipeline.tracking.artifacts",
        "ExistingServer": "pipeline.existing",
        "ProtectedDatabase": "pipeline.existing.database",
        "ProtectedArtifacts": "pipeline.existing.artifacts",
        "SecretKey": "pipeline.existing.encryption",
        "TrackingResources": "pipeline.tracking.….resources",
        "Workload": "workloads.<name>",
        "Application": "workloads.<name> of kind deployment",
        "ForeignPods": "workloads.<name> of kind protected",
        "Owner": "workloads.<name>.owner, of kind protected",
        "Retention": "workloads.<name>.retention, pipeline.backup.retention",
        "Resources": "workloads.<name>.resources",
    }[name]


def _text(text: str) -> str:
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return "mapping"
    if "const" in field or "enum" in field:
        return " or ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if "anyOf" in field or "oneOf" in field:
        options = field.get("anyOf", field.get("oneOf"))
        return " or ".join(dict.fromkeys(_type(o) for o in options if o != {"type": "null"}))
    words = {"string": "text", "integer": "number", "array": "list", "object": "mapping",
             "boolean": "true or false"}  # fmt: skip
    limits = {"minimum": "≥ {}", "maximum": "≤ {}"}
    rules = [text.format(field[key]) for key, text in limits.items() if key in field]
    return ", ".join([words[field["type"]], *rules])


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    if value is None:
        return "–"
    if isinstance(value, dict):
        return "see below" if value else "none"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "one rule"
    return f"`{' '.join(value)}`" if isinstance(value, list) else f"`{value}`"
