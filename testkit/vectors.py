"""The test vectors of bundles and volumes: good and bad ones, each with the rule that it breaks.

`testkit.vector_stores` has those of stores, `testkit.write_vectors` writes all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.manifest import MAX_INTEGER, canonical, sha256

CREATED = "2026-08-21T09:30:00Z"

Fields = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A file or a directory of files, whether it is valid, why not, and what our reader says."""

    name: str
    content: Mapping[str, bytes]
    reason: str = ""
    says: str = ""

    @property
    def valid(self) -> bool:
        return not self.reason


# --- manifests -----------------------------------------------------------------------------------


def entry(path: str, data: bytes = b"") -> Fields:
    return {"path": path, "sha256": sha256(data), "size": len(data)}


def seal(fields: Fields) -> Fields:
    """The fields with the content hash and the digest that belong to them."""
    fields["content"] = sha256(canonical(fields["files"]))
    rest = {name: value for name, value in fields.items() if name not in ("digest", "signature")}
    return fields | {"digest": sha256(canonical(rest))}


def manifest(**changes: Any) -> Fields:
    """The fields of a valid manifest with some of them changed, before it is sealed."""
    return {
        "format": 1,
        "kind": "checkpoint",
        "name": "step-00000100",
        "created": CREATED,
        "labels": {"run": "gpt-small", "generation": 1, "step": 100},
        "files": [entry(".metadata", b"plan"), entry("rng/0.bin", b"\x00\x01")],
        "signature": None,
    } | changes


def sealed(**changes: Any) -> bytes:
    return canonical(seal(manifest(**changes)))


def of_files(*paths: str) -> bytes:
    """A manifest of empty files, sorted as the format wants it."""
    ordered = sorted(paths, key=lambda path: path.encode("utf-8", "surrogatepass"))
    return sealed(files=[entry(path) for path in ordered])


def manifests() -> Iterator[Case]:
    """What one MANIFEST.json may hold; whether its files exist does not matter here."""

    def good(name: str, data: bytes) -> Case:
        return Case(name, {"": data})

    def bad(name: str, data: bytes, reason: str, says: str) -> Case:
        return Case(name, {"": data}, reason, says)

    yield good("example", sealed())
    yield good("no-labels", sealed(labels={}))
    yield good("other-kind", sealed(kind="x-9", name="0", labels={}))
    yield good("longest-kind-and-name", sealed(kind="k" * 63, name="n" * 128))
    yield good("name-with-all-characters", sealed(name="9a._-z"))
    yield good(
        "labels-of-every-type",
        sealed(
            labels={
                "a": MAX_INTEGER, "b": -MAX_INTEGER, "c": 0, "d": "", "e": "é ß 𐀀",
                "f": '"\\/\b\f\n\r\t\x00\x1f\x7f', "g": "\u2028 </script>", "h-1_x.y": "-0",
                "k" * 128: 1,
            }
        ),
    )  # fmt: skip
    yield good(
        "labels-that-mean-nothing-to-a-reader",
        sealed(labels={"generation": "seven", "run": "OTHER RUN", "step": -1, "healthy": 2}),
    )
    yield good("path-in-utf-8-order", of_files("a/b", "a-b", "～", "𐀀"))
    yield good("path-of-512-bytes", of_files("/".join(["d" * 127] * 3 + ["d" * 128])))
    yield good("path-with-a-part-of-255-bytes", of_files("p" * 255))
    yield good("path-with-spaces-and-dots", of_files(" a", "..a", "a..", "a ", "~", ".hidden"))
    yield good("path-manifest-deeper-down", of_files("d/MANIFEST.json"))
    yield good("path-nfc", of_files("modèle.pt", "größe"))
    yield good("path-that-only-looks-alike", of_files("a", "а", "a\u200b"))  # Latin, Cyrillic

    # the bytes
    text = sealed()
    for name, data in {
        "newline-at-the-end": text + b"\n",
        "white-space": text.replace(b":", b": ", 1),
        "members-in-another-order": json.dumps(
            dict(reversed(json.loads(text).items())), separators=(",", ":")
        ).encode(),
        "escape-that-is-not-needed": text.replace(b"plan", b"plan").replace(b"gpt-", b"\\u0067pt-"),
        "escape-in-upper-case": sealed(labels={"a": "\x1f"}).replace(b"\\u001f", b"\\u001F"),
        "escape-of-a-slash": text.replace(b"rng/0", b"rng\\/0"),
        "number-minus-zero": text.replace(b'"step":100', b'"step":-0'),
        "member-twice": text.replace(b'"format":1', b'"format":1,"format":1'),
    }.items():
        yield bad(name, data, "not in canonical form", "canonical form")
    yield bad("byte-order-mark", b"\xef\xbb\xbf" + text, "not JSON", "manifest: ")
    yield bad("empty", b"", "not JSON", "manifest: ")
    yield bad("cut-short", text[:-1], "not JSON", "manifest: ")
    yield bad("two-documents", text + text, "not JSON", "manifest: ")
    yield bad("deeply-nested", b"[" * 20_000, "not JSON that a reader has to bear", "manifest: ")
    yield bad("not-utf-8", text.replace(b"gpt-small", b"gpt-sm\xe4ll"), "not UTF-8", "manifest: ")
    yield bad("null", b"null", "not an object", "manifest: ")
    yield bad("array", b"[" + text + b"]", "not an object", "manifest: ")
    yield bad("number-as-float", text.replace(b'"size":4', b'"size":4.0'), "a float", "size")
    yield bad("number-with-exponent", text.replace(b'"size":4', b'"size":4e0'), "a float", "size")
    yield bad("number-as-text", text.replace(b'"size":4', b'"size":"4"'), "a string", "size")
    big = str(MAX_INTEGER + 1).encode()
    yield bad("label-too-large", text.replace(b'"step":100', b'"step":' + big),
              "an integer beyond 2^53-1", "labels.step")  # fmt: skip
    yield bad("size-too-large", text.replace(b'"size":4', b'"size":' + big),
              "an integer beyond 2^53-1", "size")  # fmt: skip
    yield bad("size-negative", text.replace(b'"size":4', b'"size":-4'), "a negative size", "size")
    lone = text.replace(b".metadata", b"\\ud800metadata")
    yield bad("lone-surrogate-in-a-path", lone, "a string that UTF-8 cannot hold", "")
    lone = text.replace(b"gpt-small", b"\\ud800")
    yield bad("lone-surrogate-in-a-label", lone, "a string that UTF-8 cannot hold", "")

    # the fields
    for name in manifest() | {"content": "", "digest": ""}:
        fields = seal(manifest())
        del fields[name]
        says = "" if name in ("format", "signature") else name
        yield bad(f"without-{name}", canonical(fields), f"no member `{name}`", says)
    yield bad("unknown-member", sealed(more=1), "an unknown member", "more")
    yield bad(
        "format-true", sealed(format=True), "a value of `format` that is not the number 1", ""
    )
    first = entry(".metadata", b"plan")
    yield bad("unknown-member-of-a-file", sealed(files=[first | {"mode": 7}]), "an unknown member",
              "mode")  # fmt: skip
    wrong = {"content": "0" * 64, "digest": "0" * 64}
    for name, value in wrong.items():
        yield bad(f"wrong-{name}", canonical(seal(manifest()) | {name: value}),
                  f"a `{name}` that does not match", name)  # fmt: skip
    swapped = seal(manifest()) | {"labels": {"run": "gpt-small", "generation": 1, "step": 101}}
    yield bad("changed-label", canonical(swapped), "a `digest` that does not match", "digest")
    for name, changes, says in (
        ("format-2", {"format": 2}, "format"),
        ("format-as-text", {"format": "1"}, "format"),
        ("kind-in-upper-case", {"kind": "Checkpoint"}, "kind"),
        ("kind-too-long", {"kind": "k" * 64}, "kind"),
        ("kind-empty", {"kind": ""}, "kind"),
        ("name-in-upper-case", {"name": "Step-1"}, "name"),
        ("name-hidden", {"name": ".step-1"}, "name"),
        ("name-with-a-slash", {"name": "a/b"}, "name"),
        ("name-too-long", {"name": "n" * 129}, "name"),
        ("name-with-a-newline", {"name": "a\n"}, "name"),
        ("created-with-an-offset", {"created": "2026-08-21T09:30:00+00:00"}, "created"),
        ("created-with-a-fraction", {"created": "2026-08-21T09:30:00.5Z"}, "created"),
        ("created-without-a-zone", {"created": "2026-08-21T09:30:00"}, "created"),
        ("created-on-no-day", {"created": "2026-02-30T09:30:00Z"}, "created"),
        ("label-key-in-upper-case", {"labels": {"Run": "a"}}, "labels"),
        ("label-key-too-long", {"labels": {"k" * 129: "a"}}, "labels"),
        ("label-null", {"labels": {"a": None}}, "labels"),
        ("label-true", {"labels": {"a": True}}, "labels"),
        ("label-list", {"labels": {"a": []}}, "labels"),
        ("no-files", {"files": []}, "files"),
        ("hash-in-upper-case", {"files": [first | {"sha256": "A" * 64}]}, "sha256"),
        ("hash-too-short", {"files": [first | {"sha256": "a" * 63}]}, "sha256"),
        ("signature-text", {"signature": "me"}, "signature"),
    ):  # fmt: skip
        yield bad(
            name, sealed(**changes), f"a value of `{says}` that the format does not allow", says
        )

    # the paths
    for name, path, reason, says in (
        ("empty", "", "an empty path", "is empty"),
        ("absolute", "/a", "an absolute path", "is absolute"),
        ("parent", "../a", "a part `..`", "a part '..'"),
        ("parent-inside", "a/../b", "a part `..`", "a part '..'"),
        ("dot", "./a", "a part `.`", "a part '.'"),
        ("empty-part", "a//b", "an empty part", "empty part"),
        ("slash-at-the-end", "a/", "an empty part", "empty part"),
        ("backslash", "a\\b", "a backslash", "backslash"),
        ("newline", "a\nb", "a control character", "control"),
        ("null-byte", "a\x00b", "a control character", "control"),
        ("c1-control", "a\x85b", "a control character", "control"),
        ("nfd", "e\u0301", "not in Unicode form NFC", "NFC"),
        ("compatibility", "\u212b", "not in Unicode form NFC (the Angstrom sign)", "NFC"),
        ("part-of-256-bytes", "p" * 256, "a part longer than 255 bytes", "255"),
        ("of-513-bytes", "/".join(["d" * 127] * 3 + ["d" * 129]), "longer than 512 bytes", "512"),
        ("part-of-256-bytes-in-128-letters", "é" * 128, "a part longer than 255 bytes", "255"),
        ("manifest", "MANIFEST.json", "the name of the manifest itself", "reserved"),
        ("manifest-in-lower-case", "manifest.json", "the manifest's name in another case", "case"),
        ("manifest-as-directory", "Manifest.JSON/a", "the manifest's name in another case", "case"),
    ):  # fmt: skip
        yield bad(f"path-{name}", of_files(path), reason, says)
    yield bad("path-twice", sealed(files=[first, first]), "a path that is listed twice", "twice")
    unsorted = [entry("b"), entry("a")]
    yield bad("paths-not-sorted", sealed(files=unsorted), "not sorted by UTF-8 bytes", "sorted")
    in_utf16_order = [entry("𐀀"), entry("～")]
    yield bad("paths-in-utf-16-order", sealed(files=in_utf16_order), "not sorted by UTF-8 bytes",
              "sorted")  # fmt: skip
    yield bad(
        "path-file-and-directory", of_files("a", "a/b"), "a file that is a directory too", "both"
    )
    for name, paths in {
        "ascii": ("A", "a"),
        "directories": ("D/x", "d/y"),
        "directory-and-file": ("D/x", "d"),
        "sharp-s": ("STRASSE", "straße"),
        "ligature": ("fi", "\ufb01"),
        "final-sigma": ("ΟΔΟΣ", "οδος"),
        "accent": ("É", "é"),
        "iota-subscript": ("\u1fb3", "\u03b1\u03b9"),
        "dotted-i": ("\u0130", "i\u0307"),
        "kelvin": ("\u017f", "s"),
    }.items():
        yield bad(f"path-case-{name}", of_files(*paths), "paths that are equal after case folding",
                  "only in case")  # fmt: skip


# --- bundles -------------------------------------------------------------------------------------

FILES = {".metadata": b"plan", "rng/0.bin": b"\x00\x01", "empty": b""}


def bundle(files: Mapping[str, bytes] = FILES, **changes: Any) -> dict[str, bytes]:
    """The files of a valid bundle, with their manifest."""
    ordered = sorted(files, key=str.encode)
    made = sealed(files=[entry(path, files[path]) for path in ordered], **changes)
    return {**files, "MANIFEST.json": made}


def bundles() -> Iterator[Case]:
    """Directories: `<case>/<name of the bundle>/…`."""
    name = "step-00000100"

    def case(
        title: str, files: Mapping[str, bytes | None], reason: str = "", says: str = ""
    ) -> Case:
        present = {f"{name}/{path}": data for path, data in files.items() if data is not None}
        return Case(title, present, reason, says)

    yield case("whole", bundle())
    yield case("one-empty-file", bundle({"a": b""}))
    yield case("manifest-deeper-down", bundle({"a": b"1", "d/MANIFEST.json": b"{}"}))
    yield case("names-beyond-ascii", bundle({"modèle.pt": b"1", "größe/～": b"2", "größe/𐀀": b"3"}))
    yield case("missing-file", bundle() | {".metadata": None}, "a file is missing", "is missing")
    yield case("file-of-another-size", bundle() | {".metadata": b"plan!"}, "a wrong size",
               "has 5 bytes instead of 4")  # fmt: skip
    yield case("file-with-a-flipped-bit", bundle() | {".metadata": b"plao"}, "other bytes",
               "other bytes")  # fmt: skip
    files = {".metadata": b"plan", "rng/0.bin": b"nalp"}
    swapped = bundle(files) | {".metadata": b"nalp", "rng/0.bin": b"plan"}
    yield case("two-files-swapped", swapped, "other bytes", "other bytes")
    for extra in ("more", ".hidden", "rng/1.bin", ".nfs000001"):
        label = extra.replace("/", "-").strip(".")
        yield case(f"extra-file-{label}", bundle() | {extra: b""}, "a file that is not listed",
                   "is not in the manifest")  # fmt: skip
    yield case("without-manifest", bundle() | {"MANIFEST.json": None}, "no manifest",
               "MANIFEST.json: is missing")  # fmt: skip
    yield case("manifest-in-lower-case", {**FILES, "manifest.json": sealed()}, "no manifest",
               "MANIFEST.json: is missing")  # fmt: skip
    yield case("of-another-name", bundle(name="step-00000200"),
               "a name that is not that of the directory", "step-00000200")  # fmt: skip
    yield case("damaged-manifest", bundle() | {"MANIFEST.json": sealed()[:-1]},
               "an invalid manifest", "MANIFEST.json: ")  # fmt: skip


# --- names, labels, order ------------------------------------------------------------------------

NAMES: dict[str, dict[str, list[str]]] = {
    "workload or run": {
        "valid": ["a", "0", "gpt-small", "a--b", "x" * 63],
        "invalid": ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "..", "x" * 64, "a\n", "é"],
    },
    "bundle": {
        "valid": ["a", "0", "step-00000100", "a..b", "a_", "a-", "x" * 128],
        "invalid": ["", ".a", "-a", "_a", "A", "a/b", "a b", "..", "x" * 129, "a\n", "é"],
    },
    "generation": {
        "valid": ["gen-0001", "gen-0999", "gen-1000", "gen-10000", f"gen-{MAX_INTEGER}"],
        "invalid": ["gen-0000", "gen-1", "gen-00001", "gen-010000", "gen-", "gen-x", "Gen-0001",
                    f"gen-{MAX_INTEGER + 1}", "gen-" + "9" * 200, "gen-٠٠٠١"],
    },
}  # fmt: skip

LABELS: dict[str, list[Fields]] = {
    "accepted": [
        {},
        {"run": "a", "generation": 1, "step": 0, "world_size": 1, "healthy": 0},
        {"run": "x" * 63, "generation": MAX_INTEGER, "step": MAX_INTEGER, "healthy": 1},
        {"world_size": MAX_INTEGER, "code": -1, "dataset": "Any Text", "epoch": "seven"},
    ],
    "refused": [
        *[{"run": value} for value in ("", "OTHER RUN", "a/b", "-a", "x" * 64, 7)],
        *[{"generation": value} for value in (0, -1, "1", "seven", MAX_INTEGER + 1)],
        *[{"step": value} for value in (-1, "100", "", MAX_INTEGER + 1)],
        *[{"world_size": value} for value in (0, -1, "all")],
        *[{"healthy": value} for value in (-1, 2, "yes")],
        *[{"upload": value} for value in ("0" * 64, "7", 7)],
    ],
}

#: bundles of one generation as (name, labels), the newest first
ORDERS: dict[str, list[tuple[str, Fields]]] = {
    "steps are numbers": [
        ("step-100000000", {"step": 100_000_000}),
        ("step-99999999", {"step": 99_999_999}),
        ("step-00000000", {"step": 0}),
    ],
    "the label decides, not the name": [("a", {"step": 2}), ("z", {"step": 1})],
    "a name of step and digits is a step": [
        ("step-00000100", {}),
        ("x", {"step": 99}),
        ("step-7", {}),
    ],
    "a label that is no step does not count": [
        ("step-00000002", {"step": "nine"}),
        ("step-00000001", {"step": 1}),
        ("z", {"step": -5}),
    ],
    "without a step is older than any step": [("a", {"step": 0}), ("z-9", {}), ("final", {})],
    "digits in names are numbers": [
        ("epoch-10", {}),
        ("epoch-9", {}),
        ("epoch-9-a-10", {}),
        ("epoch-9-a-9", {}),
    ][:2],
    "from left to right": [("v1.10.2", {}), ("v1.9.30", {}), ("v1.9.4", {})],
    "text by its bytes": [("b-1", {}), ("a_2", {}), ("a-2", {})],
    "equal numbers, then the bytes of the names": [("e-1", {}), ("e-01", {}), ("e-001", {})],
    "equal steps, then names": [("b-10", {"step": 5}), ("b-9", {"step": 5}), ("a", {"step": 5})],
}
