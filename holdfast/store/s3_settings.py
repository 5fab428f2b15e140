"""What the environment says about S3, checked before obstore reads it.

obstore reads the ``AWS_*`` variables itself. Some wrong values end in a panic of its Rust code, or
in an error that names no variable. Here each is a `UsageError` that names the variable; values that
may be secret are not repeated.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from holdfast.durable import open_regular
from holdfast.errors import UsageError
from holdfast.printable import without_secrets

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
#: where else obstore or its HTTP client find a URL
_OTHER_URLS = (
    "AWS_ENDPOINT_URL_STS",
    "AWS_METADATA_ENDPOINT",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_HEADER_VALUES = {
    "AWS_ACCESS_KEY_ID": r"[\x21-\x7e]+",
    "AWS_SECRET_ACCESS_KEY": r"[\x21-\x7e]+",
    "AWS_SESSION_TOKEN": r"[\x21-\x7e]+",
    "AWS_TOKEN": r"[\x21-\x7e]+",
    "AWS_REGION": r"[A-Za-z0-9._-]+",
    "AWS_DEFAULT_REGION": r"[A-Za-z0-9._-]+",
    "AWS_SERVER_SIDE_ENCRYPTION": r"[\x21-\x7e]+",
    "AWS_SSE_KMS_KEY_ID": r"[\x21-\x7e]+",
    "AWS_SSE_CUSTOMER_KEY_BASE64": r"[\x21-\x7e]+",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": r"/[A-Za-z0-9/._~%?=&:+,;@-]*",
}
_TRUE, _FALSE = ("1", "true", "on", "yes", "y"), ("0", "false", "off", "no", "n")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|[0-9a-fA-F:.]+", re.ASCII)
_PATH = re.compile(r"[A-Za-z0-9/._~%!$&'()*+,;=:@-]*", re.ASCII)
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\s.+?-----END CERTIFICATE-----", re.DOTALL)


def check_environment() -> None:
    """Raise UsageError for a variable that cannot be right. An empty one counts as not set."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        if not os.environ[name]:
            del os.environ[name]  # obstore would try to parse it
    for name in (*ENDPOINTS, *_OTHER_URLS):
        if name in os.environ:
            _check_url(name, os.environ[name])
    for name, pattern in _HEADER_VALUES.items():
        value = os.environ.get(name)
        if value is not None and not re.fullmatch(pattern, value):
            raise UsageError(
                f"invalid {name}: expected plain characters without spaces or line breaks: correct"
                " or unset it"
            )
    _check_token()
    if (value := os.environ.get("AWS_CONDITIONAL_PUT", "etag")) == "disabled":
        raise UsageError(
            f"invalid AWS_CONDITIONAL_PUT '{value}': expected etag, or not set: without conditions"
            " two pushes at once could lose a snapshot"
        )
    for name in _PROXIES:
        for spelling in (name, name.lower()):
            if value := os.environ.get(spelling):
                _check_url(spelling, value if "://" in value else f"http://{value}", proxy=True)


def _check_token() -> None:
    """A pod's token travels in a header, where a line break ends in a panic."""
    name = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
    path = os.environ.get(name)
    try:
        token = Path(path).read_bytes() if path and Path(path).is_file() else b"x"
    except OSError:  # whoever needs the token says so
        return
    if not re.fullmatch(rb"[\x21-\x7e]+", token):
        raise UsageError(
            f"invalid {name} '{path}': expected a file of plain characters without a line break"
        )


def endpoint() -> str:
    """The URL of a service that is not AWS's own; "" if it is."""
    return next((value for name in ENDPOINTS if (value := os.environ.get(name))), "")


def allows_http() -> bool:
    """Whether AWS_ALLOW_HTTP lets credentials and data travel unencrypted."""
    value = os.environ.get("AWS_ALLOW_HTTP", "false").lower()
    if value not in _TRUE + _FALSE:
        raise UsageError(f"invalid AWS_ALLOW_HTTP '{value}': expected true or false")
    return value in _TRUE


def wants_checksum() -> bool:
    """Whether uploads carry a checksum, by the variable that the AWS SDKs have for it."""
    name = "AWS_REQUEST_CHECKSUM_CALCULATION"
    value = os.environ.get(name, "when_supported").lower()
    if value not in ("when_supported", "when_required"):
        raise UsageError(f"invalid {name} '{value}': expected when_supported or when_required")
    return value == "when_supported"


def authorities() -> bytes | None:
    """The certificates of AWS_CA_BUNDLE, which are trusted besides the system's."""
    path = os.environ.get("AWS_CA_BUNDLE")
    if path is None:
        return None
    try:
        with open_regular(Path(os.path.realpath(path))) as file:
            found = file.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"cannot read AWS_CA_BUNDLE '{path}': {reason}: expected a file of PEM certificates"
        ) from None
    if not _PEM.search(found):
        raise UsageError(
            f"invalid AWS_CA_BUNDLE '{path}': it holds no PEM certificate (BEGIN CERTIFICATE)"
        )
    return found


def proxy() -> str:
    """The variable that sends requests to the endpoint through a proxy; "" without one."""
    kind = "HTTP_PROXY" if endpoint().startswith("http://") else "HTTPS_PROXY"
    names = (kind, kind.lower(), "ALL_PROXY", "all_proxy")
    return next((name for name in names if os.environ.get(name)), "")


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def blamed(error: str) -> str:
    """The variables whose values an error quotes; all of them when it quotes none."""
    names = [
        name
        for name, value in sorted(os.environ.items())
        if name.startswith("AWS_") and value and f'"{value}"' in error
    ]
    return " or ".join(names) or "the AWS_* variables"


def _check_url(name: str, value: str, *, proxy: bool = False) -> None:
    shown = f"invalid {name} {without_secrets(value)!r}"
    example = "http://proxy:3128" if proxy else "https://storage.example.com:9000"
    schemes = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise UsageError(f"{shown}: expected a URL, such as {example}") from None
    if not proxy and parts.username is not None:
        raise UsageError(
            f"{shown}: expected no user or password in the URL: set AWS_ACCESS_KEY_ID and"
            " AWS_SECRET_ACCESS_KEY"
        )
    correct = (
        parts.scheme in (schemes if proxy else schemes[:2])
        and _HOST.fullmatch(parts.hostname or "")
        and (proxy or (_PATH.fullmatch(parts.path) and not parts.query and not parts.fragment))
        and value.isascii()
        and value.isprintable()
        and " " not in value
    )
    if not correct:
        raise UsageError(f"{shown}: expected a URL, such as {example}")
