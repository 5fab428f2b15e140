"""The stores among the test vectors: small directory stores, right and wrong; see `vectors`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.manifest import canonical, sha256
from testkit.vectors import CREATED, Case, Fields, bundle

WORKLOAD, RUN, OWNER = "gpt", "run-a", "project/stack"

Objects = dict[str, bytes]


@dataclass(frozen=True)
class StoreCase:
    """The objects of a store, and what a reader finds in it.

    ``passed_over`` is what is newer than ``latest`` and cannot be used, newest first: IDs, or ten
    digits. ``damaged`` are snapshots, ``bad`` bundles of snapshots that can be read, each with the
    reason, and with what our reader says.
    """

    name: str
    objects: Mapping[str, bytes]
    latest: str | None
    damaged: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    passed_over: tuple[str, ...] = ()
    bad: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    owner: str | None = OWNER
    verified: Mapping[str, bool] = field(default_factory=dict)
    pins: tuple[str, ...] = ()

    def expected(self) -> Fields:
        """What `stores.json` says of it."""
        return {
            "owner": self.owner,
            "latest": self.latest,
            "passed over": list(self.passed_over),
            "damaged": {name: reason for name, (reason, _) in self.damaged.items()},
            "bad": {name: reason for name, (reason, _) in self.bad.items()},
            "verified": dict(self.verified),
            "pins": list(self.pins),
        }


def snapshot_id(number: int) -> str:
    return f"{number:010d}-20260821T093000Z-{number:08x}"


ONE, TWO, THREE = (snapshot_id(number) for number in (1, 2, 3))


def reference(files: Mapping[str, bytes], copy: str = "") -> Fields:
    """A bundle's entry in a snapshot of generation 1."""
    manifest = json.loads(files["MANIFEST.json"])
    labels = manifest["labels"]
    usable = isinstance(labels.get("generation"), int)
    run = labels["run"] if "run" in labels and " " not in labels["run"] else RUN
    made = labels["generation"] if usable else 1
    last = labels.get("upload", manifest["digest"])
    path = f"{WORKLOAD}/{run}/gen-{made:04d}/{manifest['name']}/{last}{copy}"
    return {
        **{name: manifest[name] for name in ("kind", "name", "labels", "digest", "content")},
        "size": sum(entry["size"] for entry in manifest["files"]),
        "manifest": f"manifests/{path}.json",
        "data": f"data/{path}",
    }


def at(ref: Fields, workload: str) -> Fields:
    """The entry of the same bundle, as a copy of another workload."""
    data, manifest = (ref[key].replace("/gpt/", f"/{workload}/", 1) for key in ("data", "manifest"))
    return ref | {"data": data, "manifest": manifest}


def as_model(files: Mapping[str, bytes]) -> tuple[Objects, Fields]:
    """The manifest of a model with the files of a checkpoint, and its entry: none is copied."""
    held = {path: data for path, data in files.items() if path != "MANIFEST.json"}
    content = json.loads(files["MANIFEST.json"])["content"]
    made = bundle(held, kind="model", name=content, labels={"run": "content"})
    ref = at(reference(made), "models") | {"data": reference(files)["data"]}
    return {ref["manifest"]: made["MANIFEST.json"]}, ref


def sealed(**fields: Any) -> bytes:
    """A snapshot with the digest that belongs to its fields."""
    return canonical(fields | {"digest": sha256(canonical(fields))})


def checkpoint(step: int, **labels: Any) -> dict[str, bytes]:
    """The files of a bundle."""
    files = {".metadata": b"plan", "weights": f"weights {step}".encode()}
    marks = {"run": RUN, "generation": 1, "step": step} | labels
    return bundle(files, name=f"step-{step:08d}", labels=marks)


def stored(files: Mapping[str, bytes], copy: str = "") -> Objects:
    """The objects of a bundle's copy in the store."""
    ref = reference(files, copy)
    data = {f"{ref['data']}/{p}": held for p, held in files.items() if p != "MANIFEST.json"}
    return data | {ref["manifest"]: files["MANIFEST.json"]}


def document(number: int, *refs: Fields, **changes: Any) -> Objects:
    """A snapshot and the number that it took; with other fields, under the same key."""
    name = snapshot_id(number)
    fields = {
        "format": 1,
        "id": name,
        "workload": WORKLOAD,
        "run": RUN,
        "generation": 1,
        "sequence": number,
        "created": CREATED,
        "bundles": list(refs),
    } | changes
    return {f"snapshots/{WORKLOAD}/{name}.json": sealed(**fields)} | claim(number)


def claim(number: int) -> Objects:
    data = {"claim": f"{number:032x}", "run": RUN}
    return {f"sequences/{WORKLOAD}/{number:010d}.json": canonical(data)}


OLD, NEW = checkpoint(100), checkpoint(200)
STREAMED = checkpoint(300, upload="5" * 64)
OWNED = {"OWNER.json": canonical({"format": 1, "project": "project", "stack": "stack"})}
DATA = OWNED | stored(OLD) | stored(NEW)
WHOLE = DATA | document(1, reference(OLD)) | document(2, reference(NEW))
NEWEST = f"snapshots/{WORKLOAD}/{TWO}.json"


def stores() -> Iterator[StoreCase]:
    yield StoreCase("two-snapshots", WHOLE, TWO)
    yield StoreCase("empty", OWNED, None)
    yield StoreCase("without-owner", {k: v for k, v in WHOLE.items() if k != "OWNER.json"}, TWO)
    yield StoreCase("owner-damaged", WHOLE | {"OWNER.json": b"{}"}, TWO, owner=None)
    both = document(1, reference(OLD), reference(NEW))
    yield StoreCase("two-bundles-in-one", DATA | both, ONE)
    copy = (
        DATA | stored(NEW, "-1") | document(1, reference(OLD)) | document(2, reference(NEW, "-1"))
    )
    yield StoreCase("a-later-copy", copy, TWO)
    foreign = {
        f"snapshots/{WORKLOAD}/README": b"",
        f"snapshots/{WORKLOAD}/.nfs000001": b"x",
        f"snapshots/{WORKLOAD}/latest.json": b"{}",
        f"snapshots/{WORKLOAD}/{TWO}": b"",
        f"snapshots/{WORKLOAD}/{snapshot_id(9_000_000_001)}.json": b"{}",
        f"snapshots/{WORKLOAD}/{snapshot_id(0)}.json": b"{}",
        f"snapshots/{WORKLOAD}/old/{TWO}.json": b"{}",
        f"sequences/{WORKLOAD}/.DS_Store": b"",
        f"sequences/{WORKLOAD}/3.json": b"{}",
        f"sequences/{WORKLOAD}/9000000001.json": b"{}",
        f"sequences/{WORKLOAD}/0000000000.json": b"{}",
        f"pins/{WORKLOAD}/README": b"",
        f"verified/{WORKLOAD}/README": b"",
        "data/README": b"",
        "README": b"",
    }
    yield StoreCase("foreign-objects", WHOLE | foreign, TWO)
    yield StoreCase("pinned", WHOLE | {f"pins/{WORKLOAD}/{ONE}": b""}, TWO, pins=(ONE,))
    other = {f"snapshots/other/{name.rpartition('/')[2]}": data
             for name, data in document(7, reference(NEW), workload="other").items()}  # fmt: skip
    yield StoreCase("another-workload-beside-it", WHOLE | other, TWO)
    theirs = at(reference(NEW), "other")
    named = {key.replace("/gpt/", "/other/", 1): data for key, data in stored(NEW).items()}
    kept = canonical({"format": 1, "bundle": theirs["data"].removeprefix("data/"), "snapshot": TWO})
    reason = {f"references/{WORKLOAD}/{TWO}/{theirs['data'].removeprefix('data/')}.json": kept}
    yield StoreCase("names-a-bundle-of-another-workload", DATA | named | reason
                    | document(1, reference(OLD)) | document(2, theirs), TWO)  # fmt: skip
    made, shared = as_model(OLD)
    path = shared["manifest"].removeprefix("manifests/")
    kept = canonical({"format": 1, "bundle": path.removesuffix(".json"), "snapshot": TWO})
    yield StoreCase("names-a-model-with-the-files-of-a-checkpoint", DATA | made
                    | {f"references/{WORKLOAD}/{TWO}/{path}": kept}
                    | document(1, reference(NEW)) | document(2, shared), TWO)  # fmt: skip
    yield StoreCase("streamed-bundle", DATA | stored(STREAMED) | document(1, reference(STREAMED)),
                    ONE)  # fmt: skip

    # Labels
    odd = checkpoint(200, generation="seven", run="OTHER RUN")
    yield StoreCase("labels-that-no-path-can-hold", DATA | stored(odd) | document(1, reference(OLD))
                    | document(2, reference(odd)), TWO)  # fmt: skip
    restored = checkpoint(200, run="run-b", generation=7)
    yield StoreCase("a-bundle-of-another-run-and-generation", DATA | stored(restored)
                    | document(1, reference(OLD)) | document(2, reference(restored)),
                    TWO)  # fmt: skip

    # Newer ones that cannot be used
    yield StoreCase("missing-newest", WHOLE | claim(3), TWO, passed_over=("0000000003",))
    withdrawn = WHOLE | claim(3) | {f"sequences/{WORKLOAD}/0000000003-withdrawn.json": b"{}"}
    yield StoreCase("withdrawn-newest", withdrawn, TWO)
    first_version = WHOLE | {
        f"sequences/{WORKLOAD}/0000000002.json": canonical({"claim": "0" * 32})
    }
    yield StoreCase("claim-of-the-first-version", first_version, TWO)
    cut = {NEWEST: WHOLE[NEWEST][:100]}
    yield StoreCase("damaged-newest", WHOLE | cut, ONE, {TWO: ("not JSON", "not JSON")}, (TWO,))
    only = DATA | document(1, reference(OLD)) | {f"snapshots/{WORKLOAD}/{ONE}.json": b""}
    yield StoreCase("only-a-damaged-one", only, None, {ONE: ("not JSON", "not JSON")}, (ONE,))

    ref = reference(NEW)
    # Entries that differ from the manifest, found when it is read
    for name, change in {
        "size": {"size": 2**50}, "labels": {"labels": ref["labels"] | {"note": "x"}},
        "kind": {"kind": "dataset"}, "content": {"content": "0" * 64},
    }.items():  # fmt: skip
        yield _bad(f"entry-lies-about-{name}", {NEWEST: _changed(bundles=[ref | change])},
                   f"a `{name}` that is not the manifest's", name)  # fmt: skip
    yield _bad("missing-file", {f"{ref['data']}/weights": None}, "a file is missing", "missing")
    yield _bad("file-of-another-size", {f"{ref['data']}/weights": b"w"}, "a wrong size", "bytes")
    yield _bad("file-with-a-flipped-bit", {f"{ref['data']}/weights": b"weights 201"},
               "other bytes", "other bytes")  # fmt: skip
    yield _bad("missing-manifest", {ref["manifest"]: None}, "no manifest", "missing")
    yield _bad("manifest-of-another-bundle", {ref["manifest"]: OLD["MANIFEST.json"]},
               "another bundle's manifest", "")  # fmt: skip

    # Records of verifications
    record = {"format": 1, "snapshot": TWO, "at": CREATED, "kind": "full", "ok": True, "bytes": 15,
              "problems": [], "bad": []}  # fmt: skip
    place = f"verified/{WORKLOAD}/{TWO}.json"
    yield StoreCase("verified", WHOLE | {place: canonical(record)}, TWO, verified={TWO: True})
    path = ref["data"].removeprefix("data/")
    failed = record | {"ok": False, "problems": ["weights: is missing"], "bad": [path]}
    yield StoreCase("verified-and-bad", WHOLE | {place: canonical(failed)}, TWO,
                    verified={TWO: False})  # fmt: skip
    foreign_path = path.replace("gpt/", "other/")
    for name, data in {
        "of-another-snapshot": canonical(record | {"snapshot": ONE}),
        "not-canonical": canonical(record) + b"\n",
        "of-another-workload": canonical(failed | {"bad": [foreign_path]}),
        "empty": b"",
    }.items():
        yield StoreCase(f"verification-{name}", WHOLE | {place: data}, TWO)


def documents() -> Iterator[Case]:
    """What may lie at the key `NEWEST`, as far as the document itself can tell."""
    yield Case("right", {"": WHOLE[NEWEST]})
    yield Case("right-later-copy", {"": document(2, reference(NEW, "-12"))[NEWEST]})
    both = document(2, reference(OLD), reference(NEW))[NEWEST]
    yield Case("right-two-bundles", {"": both})
    odd = checkpoint(200, generation="seven", run="OTHER RUN")
    yield Case("right-labels-that-no-path-can-hold", {"": document(2, reference(odd))[NEWEST]})
    yield Case("right-labels", {"": _changed(labels={"missing": 0, "version": "3"})})
    foreign = at(reference(NEW), "other")
    yield Case("right-bundle-of-another-workload", {"": _changed(bundles=[foreign])})
    apart = [reference(OLD), at(reference(OLD), "other"), at(reference(OLD), "third")]
    yield Case("right-equal-names-of-several-workloads", {"": _changed(bundles=apart)})
    yield Case("right-streamed-bundle", {"": document(2, reference(STREAMED))[NEWEST]})
    _, shared = as_model(NEW)
    yield Case("right-model-with-the-files-of-a-checkpoint", {"": _changed(bundles=[shared])})
    at_model = shared["manifest"].replace("manifests/", "data/", 1).removesuffix(".json")
    uses = reference(NEW) | {"data": at_model}
    yield Case("right-checkpoint-with-the-files-of-a-model", {"": _changed(bundles=[uses])})
    cut = WHOLE[NEWEST][:100]
    yield _wrong("cut-short", cut, "not JSON", "not JSON")
    yield _wrong("empty", b"", "not JSON", "not JSON")
    yield _wrong("newline-at-the-end", WHOLE[NEWEST] + b"\n", "not in canonical form",
                   "digest")  # fmt: skip
    wrong = json.loads(WHOLE[NEWEST]) | {"digest": "0" * 64}
    yield _wrong("wrong-digest", canonical(wrong), "a `digest` that does not match",
                   "digest")  # fmt: skip
    ref = reference(NEW)
    for name, changes, reason, says in (
        ("of-another-workload", {"workload": "other"}, "another workload", "belongs at"),
        ("workload-in-upper-case", {"workload": "Gpt"}, "no valid name", "workload"),
        ("run-with-a-slash", {"run": "a/b"}, "no valid name", "run"),
        ("of-another-id", {"id": THREE}, "an `id` that is not its object's", "belongs at"),
        ("another-sequence", {"sequence": 3}, "an `id` of another sequence", "its id"),
        ("another-time", {"created": "2026-08-21T09:31:00Z"}, "an `id` of another time", "its id"),
        ("generation-0", {"generation": 0}, "a generation out of bounds", "generation"),
        ("without-bundles", {"bundles": []}, "no bundle", "bundles"),
        ("bundle-twice", {"bundles": [ref, ref]}, "a bundle that is in it twice", "2 times"),
        ("foreign-bundle-twice", {"bundles": [foreign, foreign]},
         "a bundle that is in it twice", "2 times"),
        ("labels-empty", {"labels": {}}, "empty `labels`, which are left out", "digest"),
        ("label-true", {"labels": {"a": True}}, "a label of another type", "labels"),
        ("format-2", {"format": 2}, "another format", "format"),
        ("unknown-member", {"more": 1}, "an unknown member", "more"),
        ("bundle-without-size", {"bundles": [{k: v for k, v in ref.items() if k != "size"}]},
         "no member `size`", "size"),
    ):  # fmt: skip
        yield _wrong(name, _changed(**changes), reason, says)
    for name, path in {
        "no-workload": ref["data"].replace("data/gpt/", "data/Gpt/"),
        "another-run": ref["data"].replace("/run-a/", "/run-b/"),
        "another-generation": ref["data"].replace("gen-0001", "gen-0002"),
        "another-name": ref["data"].replace("step-00000200", "step-00000100"),
        "another-digest": ref["data"][:-1] + ("0" if ref["data"][-1] != "0" else "1"),
        "copy-0": ref["data"] + "-0",
        "copy-01": ref["data"] + "-01",
        "dots": ref["data"].replace("data/gpt/", "data/../data/gpt/"),
        "slash-at-the-end": ref["data"] + "/",
    }.items():
        moved = ref | {"data": path, "manifest": f"manifests/{path.removeprefix('data/')}.json"}
        yield _wrong(f"bundle-at-{name}", _changed(bundles=[moved]),
                       "a bundle at a place that is not its own", "cannot lie at")  # fmt: skip
    large = WHOLE[NEWEST].replace(b'"generation":1,"id"', b'"generation":%d,"id"' % (2**53))
    yield _wrong("generation-too-large", large, "a generation out of bounds",
                   "generation")  # fmt: skip
    apart = ref | {"manifest": ref["manifest"].replace(".json", "-1.json")}
    yield _wrong("manifest-of-another-copy", _changed(bundles=[apart]),
                   "a manifest and data at different places", "cannot lie at")  # fmt: skip
    for name, path in {
        "of-another-checkpoint": reference(OLD)["data"],
        "of-no-bundle": "data/models",
        "of-a-run-in-upper-case": at_model.replace("/content/gen", "/Content/gen"),
        "with-dots": at_model.replace("data/models/", "data/../data/models/"),
        "with-a-slash-at-the-end": at_model + "/",
    }.items():
        yield _wrong(f"files-{name}", _changed(bundles=[ref | {"data": path}]),
                       "files where they cannot be", "cannot lie at")  # fmt: skip


def _changed(**changes: Any) -> bytes:
    """The newest snapshot with other fields, sealed."""
    return document(2, reference(NEW), **changes)[NEWEST]


def _wrong(name: str, data: bytes, reason: str, says: str) -> Case:
    return Case(name, {"": data}, reason, says)


def _without_none(objects: Mapping[str, bytes | None]) -> Objects:
    return {key: data for key, data in objects.items() if data is not None}


def _bad(name: str, changes: Mapping[str, bytes | None], reason: str, says: str) -> StoreCase:
    return StoreCase(
        f"bad-{name}", _without_none({**WHOLE, **changes}), TWO, bad={TWO: (reason, says)}
    )
