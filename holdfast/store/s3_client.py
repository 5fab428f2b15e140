"""How obstore's client is made from the environment, and what its errors mean.

Over https, and to this machine itself, payloads are not hashed for the signature but carry a
CRC-64/NVME that the server checks. Over plain http to another machine they are signed: nothing
else would show that they were changed on the way.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from holdfast.errors import (
    AlreadyExists,
    PreconditionFailed,
    StoreDenied,
    StoreError,
    StoreUnreachable,
    UsageError,
)

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

CONNECT_SECONDS = 3.0
FORBIDDEN = (PermissionDeniedError, UnauthenticatedError)


def endpoint() -> str:
    """The URL of a service that is not AWS's own; "" if it is."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    return next((value for name in names if (value := os.environ.get(name))), "")


def connect(
    bucket: str, prefix: str, seconds: float, stall: float, retries: int, retry_seconds: float
) -> S3Store:
    """A client made from the environment, with limits in seconds: per request, per pause between
    two pieces of an answer (0: none), and for all tries of a request together."""
    where = endpoint()
    plain = where.startswith("http://")
    if plain and not _loopback(where) and os.environ.get("AWS_ALLOW_HTTP") != "true":
        raise UsageError(
            f"endpoint '{where}' is not encrypted: use https, or set AWS_ALLOW_HTTP=true if the"
            " network is your own"
        )
    client: ClientConfig = {
        "allow_http": plain,
        "connect_timeout": timedelta(seconds=min(CONNECT_SECONDS, seconds)),
        "timeout": timedelta(seconds=seconds),
    }
    if stall:
        client["read_timeout"] = timedelta(seconds=stall)
    if authority := os.environ.get("AWS_CA_BUNDLE"):
        client["root_certificate"] = Path(authority).read_bytes()
    config: S3Config = {}
    if not plain or _loopback(where):
        if "AWS_UNSIGNED_PAYLOAD" not in os.environ:
            config["unsigned_payload"] = True
        if "AWS_CHECKSUM_ALGORITHM" not in os.environ:
            config["checksum_algorithm"] = "crc64nvme"
    retry: RetryConfig = {
        "max_retries": retries,
        "retry_timeout": timedelta(seconds=retry_seconds),
        "backoff": {
            "init_backoff": timedelta(seconds=0.2),
            "max_backoff": timedelta(seconds=10),
            "base": 2,
        },
    }
    return S3Store(
        bucket, prefix=prefix or None, config=config, client_options=client, retry_config=retry
    )


def _loopback(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def translate_error(error: BaseError, url: str, bucket: str, prefix: str, key: str) -> StoreError:
    """An error of obstore as a `StoreError`: one line, with the remedy."""
    text = str(error)
    reason = _reason(text)
    if isinstance(error, AlreadyExistsError):
        return AlreadyExists(f"store {url}: '{key}' already exists")
    if isinstance(error, PreconditionError):
        return PreconditionFailed(f"store {url}: '{key}' was changed by another writer")
    if "/latest/api/token" in text or "security-credentials" in text:
        return StoreDenied(
            f"store {url}: no AWS credentials found: set AWS_ACCESS_KEY_ID and"
            " AWS_SECRET_ACCESS_KEY, or give the pod or machine an identity"
        )
    if "incorrectly configured region" in text:
        return StoreDenied(
            f"store {url}: bucket '{bucket}' is in another region: set AWS_REGION to its own"
        )
    if "NoSuchBucket" in reason:
        return StoreDenied(
            f"store {url}: bucket '{bucket}' does not exist: create it, or correct the URL,"
            " endpoint or region"
        )
    status = re.search(r"status code: (\d{3})", text)
    refused = status and status[1].startswith("4") and status[1] not in ("408", "429")
    if refused or isinstance(error, FORBIDDEN):
        return StoreDenied(
            f"store {url}, '{key}': {reason}: check the credentials, the region and the rights of"
            f" the identity (s3:ListBucket for s3:prefix '{prefix}/*' too: without it S3 forbids"
            " what is not there)"
        )
    return StoreUnreachable(
        f"store {url}, '{key}': {reason}: check the network, the endpoint and the service's state,"
        " then try again"
    )


def _reason(text: str) -> str:
    """One line of an error, without what servers echo (signatures, access keys, host ids)."""
    status = re.search(r"status code: (\d{3} [A-Za-z ]+)", text)
    code = re.search(r"<Code>([A-Za-z0-9]+)</Code>", text)
    if status:
        return f"{status[1].strip()} {code[1] if code else ''}".strip()
    first = text.split("\n")[0].split("<?xml")[0]
    return re.sub(r"https?://\S+", "the endpoint", first).removeprefix("Generic S3 error: ")[:200]
