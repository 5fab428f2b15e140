"""How obstore's client is made from the environment, and what its errors mean.

Over https, and to this machine itself, payloads are not hashed for the signature but carry a
CRC-64/NVME that the server checks. Over plain http to another machine they are signed: nothing
else would show that they were changed on the way.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import TYPE_CHECKING

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
from holdfast.printable import without_secrets
from holdfast.store.s3_settings import (
    allows_http,
    authorities,
    blamed,
    check_environment,
    endpoint,
    is_loopback,
    proxy,
    wants_checksum,
)

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

CONNECT_SECONDS = 3.0
#: what lies at the bottom of an error that obstore quotes at length
_CAUSE = re.compile(
    r"""InvalidCertificate\(\s*(?P<certificate>\w+)|(?P<tls>InvalidContentType)"""
    r"""|(?:message|error): "(?P<system>[^"]+)"|kind: (?P<timed_out>TimedOut|Timeout)"""
)
_NO_CHECKSUM = re.compile(r"<Code>NotImplemented|<Message>[^<]*(checksum|crc64)", re.IGNORECASE)
FORBIDDEN = (PermissionDeniedError, UnauthenticatedError)


def connect(
    bucket: str, prefix: str, seconds: float, stall: float, retries: int, retry_seconds: float
) -> S3Store:
    """A client made from the environment, with limits in seconds: per request, per pause between
    two pieces of an answer (0: none), and for all tries of a request together."""
    check_environment()
    where = endpoint()
    plain = where.startswith("http://")
    if not allows_http() and plain and not is_loopback(where):
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
    if certificates := authorities():
        client["root_certificate"] = certificates
    config: S3Config = {}
    if where:
        config["endpoint"] = where
    if (not plain or is_loopback(where)) and wants_checksum():
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
    try:
        return S3Store(
            bucket, prefix=prefix or None, config=config, client_options=client, retry_config=retry
        )
    except BaseException as error:
        if not isinstance(error, BaseError | ValueError) and not is_panic(error):
            raise
        text = str(error)
        said = " ".join(text.partition("\n\nDebug source")[0].split())
        reason = without_secrets(said).removeprefix("Generic Config error: ")
        raise UsageError(
            f"invalid settings of the S3 client: {reason}: correct or unset {blamed(text)}"
        ) from None


def is_panic(error: BaseException) -> bool:
    """Whether this is a panic of obstore's Rust code, which is not an Exception."""
    return type(error).__name__ == "PanicException"


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
    if refusal := re.search(r"request failed for key .*\(code: (\w+)\)", text):
        return StoreDenied(
            f"store {url}: deleting was refused for some objects ({refusal[1]}): check the rights"
            " of the identity, and holds or locks on the objects"
        )
    if odd := re.search(r'object with invalid path: .*?"([^"]*)"', text):
        return StoreError(
            f"store {url}: a foreign object has a key that cannot be listed, {odd[1]!r}: delete it"
            " with another S3 client"
        )
    if "RequestTimeTooSkewed" in reason:
        return StoreDenied(
            f"store {url}: this machine's clock is more than 15 minutes off: set it by NTP"
        )
    if "(certificate: " in reason:
        return StoreUnreachable(
            f"store {url}: {reason}: set AWS_CA_BUNDLE to a PEM file of the authority that issued"
            " the certificate, or correct the endpoint"
        )
    if "InvalidContentType" in reason:
        return StoreUnreachable(
            f"store {url}: the endpoint does not speak TLS: correct its port, or use http://"
        )
    if re.match("400|501", reason) and re.search(_NO_CHECKSUM, text):
        return StoreDenied(
            f"store {url}, '{key}': {reason}: if the service does not know the checksum header, set"
            " AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
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
    by = f", the proxy ({name}; NO_PROXY excludes a host)" if (name := proxy()) else ""
    return StoreUnreachable(
        f"store {url}, '{key}': {reason}: check the network, the endpoint{by} and the service's"
        " state, then try again"
    )


def _reason(text: str) -> str:
    """One line of an error, without what servers echo (signatures, access keys, host ids)."""
    status = re.search(r"status code: (\d{3} [A-Za-z ]+)", text)
    code = re.search(r"<Code>([A-Za-z0-9]+)</Code>", text)
    if status:
        return f"{status[1].strip()} {code[1] if code else ''}".strip()
    tries = re.search(r"after (\d+) retries", text)
    first = text.split("\n")[0].split("<?xml")[0].removeprefix("Generic S3 error: ")
    said = f"no answer after {int(tries[1]) + 1} tries" if tries else first[:200]
    causes = [match for match in _CAUSE.finditer(text) if match.lastgroup]
    if causes:
        kind, detail = causes[-1].lastgroup, causes[-1][causes[-1].lastgroup or 0]
        said += f" (certificate: {detail})" if kind == "certificate" else f" ({detail})"
    return without_secrets(re.sub(r"https?://\S+", "the endpoint", said))
