"""A kubectl that plays a cluster: a program on the PATH, over a list of objects in a file."""

import json
import sys
from pathlib import Path
from typing import Any

Manifest = dict[str, Any]

KINDS = {
    "pods": "pod", "jobs": "job", "namespaces": "namespace", "deployments": "deployment",
    "persistentvolumeclaims": "persistentvolumeclaim", "secrets": "secret",
}  # fmt: skip
#: What kubectl adds to the name of a kind that is not in the core group.
GROUPS = {"deployment": ".apps", "job": ".batch"}


class Cluster:
    """The objects of a cluster that `kubectl` on the PATH shows, and what it was asked."""

    def __init__(self, directory: Path) -> None:
        self._state, self._calls = directory / "objects.json", directory / "calls"
        self._refusal, self._unknown = directory / "refusal", directory / "unknown"
        self.set()
        self._calls.touch()
        script = directory / "kubectl"
        script.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -SE "{__file__}" "{directory}" "$@"\n'
        )
        script.chmod(0o755)

    def set(self, *objects: Manifest) -> None:
        """What there is from now on."""
        self._state.write_text(json.dumps(objects))

    def refuse(self, message: str) -> None:
        """Answer everything with an error."""
        self._refusal.write_text(message)

    def does_not_know(self, value: str) -> None:
        """Refuse to create an object in which this value is, as a value that is not supported."""
        self._unknown.write_text(value)

    @property
    def objects(self) -> list[Manifest]:
        return json.loads(self._state.read_text())

    @property
    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines()


def thing(kind: str, name: str, namespace: str | None = None, **fields: Any) -> Manifest:
    """An object as the API server shows it; ``leaving`` for one that is being deleted."""
    metadata: Manifest = {"name": name, "uid": f"uid-of-{name}", "labels": fields.pop("labels", {})}
    if namespace:
        metadata["namespace"] = namespace
    if fields.pop("leaving", False):
        metadata["deletionTimestamp"] = "2026-05-01T12:00:00Z"
    metadata["annotations"] = fields.pop("annotations", {})
    return {"kind": kind, "metadata": metadata, **fields}


def main(directory: Path, arguments: list[str]) -> int:
    with (directory / "calls").open("a") as calls:
        calls.write(" ".join(arguments) + "\n")
    if (directory / "refusal").exists():
        print((directory / "refusal").read_text(), file=sys.stderr)
        return 1
    objects = json.loads((directory / "objects.json").read_text())
    flags = {
        name: value
        for name, _, value in (a.lstrip("-").partition("=") for a in arguments if a[:2] == "--")
    }
    verb, *words = [a for a in arguments if not a.startswith("--")]
    if verb == "create":
        return _create(directory, flags)
    kind, _, name = words[0].partition("/")
    kinds, names = {KINDS.get(k, k) for k in kind.split(",")}, [name] if name else words[1:]
    if names and "selector" in flags:
        print("error: name cannot be provided when a selector is specified", file=sys.stderr)
        return 1
    found = [
        each
        for each in objects
        if each["kind"].lower() in kinds
        and (not names or each["metadata"]["name"] in names)
        and each["metadata"].get("namespace") in (None, flags.get("namespace"))
        and _selected(each, flags.get("selector", ""))
    ]
    if verb == "patch":
        for each in found:
            for step in json.loads(flags["patch"]):
                *path, last = step["path"].strip("/").split("/")
                target = each
                for key in path:
                    target = target[key]
                del target[last]
        (directory / "objects.json").write_text(json.dumps(objects))
    elif flags.get("output") == "name":
        named = [(each["kind"].lower(), each["metadata"]["name"]) for each in found]
        print("\n".join(f"{kind}{GROUPS.get(kind, '')}/{name}" for kind, name in named))
    elif found or not names:
        print(json.dumps({"items": found} if len(names) != 1 else found[0]))
    return 0


def _create(directory: Path, flags: dict[str, str]) -> int:
    assert flags["dry-run"] == "server", "nothing may be created"
    unknown, given = directory / "unknown", sys.stdin.read()
    if unknown.exists() and f'"{unknown.read_text()}"' in given:
        print(f'is invalid: Unsupported value: "{unknown.read_text()}"', file=sys.stderr)
        return 1
    print(f"{json.loads(given)['kind'].lower()}/made")
    return 0


def _selected(manifest: Manifest, selector: str) -> bool:
    labels = manifest["metadata"]["labels"]
    for term in filter(None, selector.split(",")):
        key, sign, value = term.partition("!=") if "!=" in term else term.partition("=")
        if sign == "!=" and labels.get(key) == value:
            return False
        if sign == "=" and labels.get(key) != value:
            return False
        if not sign and key not in labels:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
