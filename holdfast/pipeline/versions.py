"""What a snapshot of a pipeline records about versions and keys, and whether it fits a target."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import secrets
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from holdfast.labels import Labels
from holdfast.pipeline.contents import Contents

#: MLflow encrypts its table of secrets with it; without it, with a key that everybody knows
KEY = "MLFLOW_CRYPTO_KEK_PASSPHRASE"
#: which MLflow runs, where it is not installed beside this program
MLFLOW = "HOLDFAST_MLFLOW_VERSION"
_PUBLIC = "public"
_REVISION = re.compile(r'^revision = "([0-9a-z]+)"', re.MULTILINE)
_NUMBERS = re.compile(r"\d+")


def labels(contents: Contents, missing: int, environment: Mapping[str, str] = os.environ) -> Labels:
    """The labels of a snapshot: versions of the dump, and what there is to know of the key."""
    found: dict[str, str | int] = {"key": fingerprint(environment.get(KEY, ""))}
    found["missing"] = missing
    found["secrets"] = contents.secrets
    if contents.postgresql:
        found["postgresql"] = contents.postgresql
    if contents.pg_dump:
        found["pg_dump"] = contents.pg_dump
    if version := mlflow_version(environment):
        found["mlflow"] = version
    if contents.schema:
        found["schema"] = contents.schema
    if contents.auth_schema:
        found["auth_schema"] = contents.auth_schema
    return found


def client_for(recorded: Labels) -> int:
    """The oldest major version of PostgreSQL's client that can read the dump."""
    return max(
        (value for key in ("postgresql", "pg_dump") if isinstance(value := recorded.get(key), int)),
        default=0,
    )


def fingerprint(passphrase: str, salt: str = "") -> str:
    """What is recorded of a key: enough to compare, too little to find it. A salt of its own for
    each snapshot, and scrypt, so that guessing one passphrase costs a tenth of a second."""
    if not passphrase:
        return _PUBLIC
    salt = salt or secrets.token_hex(8)
    digest = hashlib.scrypt(
        passphrase.encode(), salt=salt.encode(), n=2**15, r=8, p=1, maxmem=2**26, dklen=16
    )
    return f"scrypt-{salt}-{digest.hex()}"


def same_key(recorded: str, passphrase: str) -> bool:
    """Whether this is the key whose fingerprint was recorded."""
    salt = recorded.split("-")[1] if recorded.count("-") == 2 else ""
    return secrets.compare_digest(fingerprint(passphrase, salt), recorded)


def mlflow_version(environment: Mapping[str, str] = os.environ) -> str:
    """The version of the tracking server; "" where nobody knows."""
    if told := environment.get(MLFLOW):
        return told
    for name in ("mlflow", "mlflow-skinny"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


def known_schemas() -> set[str]:
    """The versions of the schema that the installed MLflow knows; empty if it is not installed.

    Reads its migrations as text: importing MLflow takes seconds.
    """
    spec = importlib.util.find_spec("mlflow")
    found: set[str] = set()
    for place in (spec.submodule_search_locations if spec else None) or ():
        for path in Path(place, "store/db_migrations/versions").glob("*.py"):
            found.update(_REVISION.findall(path.read_text(errors="replace")))
    return found


def misfits(
    recorded: Labels, server_major: int, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Why a snapshot should not be restored here, by what does not fit: ``postgresql`` (never
    possible), ``mlflow``, ``key``."""
    found = {}
    major = recorded.get("postgresql")
    if isinstance(major, int) and major > server_major:
        found["postgresql"] = (
            f"its dump is of PostgreSQL {major} and the server is {server_major}: restore into a"
            f" server of version {major} or newer"
        )
    mlflow, schema = str(recorded.get("mlflow", "")), str(recorded.get("schema", ""))
    here, known = mlflow_version(environment), known_schemas()
    if known and schema and schema not in known:
        found["mlflow"] = (
            f"its schema {schema} (MLflow {mlflow or 'unknown'}) is not known to MLflow"
            f" {here}, which would refuse to start: use MLflow {mlflow or 'of that time'} or newer"
        )
    elif here and mlflow and _numbers(mlflow) > _numbers(here):
        found["mlflow"] = (
            f"it was made with MLflow {mlflow}, and here is {here}: use MLflow {mlflow} or newer"
        )
    key = str(recorded.get("key", ""))
    if key and recorded.get("secrets", 0) and not same_key(key, environment.get(KEY, "")):
        whose = "MLflow's public key" if key == _PUBLIC else "another key"
        found["key"] = (
            f"its {recorded['secrets']} secrets are encrypted with {whose} than {KEY} has here:"
            f" set {KEY} to the key of that time, or the secrets cannot be read any more"
        )
    return found


def _numbers(version: str) -> list[int]:
    return [int(number) for number in _NUMBERS.findall(version)[:3]]
