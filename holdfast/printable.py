"""What may stand on a line of output: nothing that steers a terminal, nothing secret.

Names on a volume, labels, keys and documents in a store are written by others. A newline in one
would begin a line of its own, an escape sequence would reach the terminal, and Kanister would take
`###Phase-output###` anywhere in a task's log for a result of the task.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote

#: what Kanister looks for in the log of a task, stdout and stderr alike
PHASE_OUTPUT = "###Phase-output###:"

_SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_SSE_CUSTOMER_KEY_BASE64",
)
#: variables whose values may be addresses with user information
_ADDRESS_VARIABLES = re.compile(r"(HOLDFAST|AWS)_.*|.*_PROXY", re.IGNORECASE)
_USER_INFO = re.compile(
    r"(?<=://)[^\s/]*@"  # user:secret@host
    r"|(?<=://)[^\s/@:]+:(?!\d*(?:[/?#\s'\"]|$))\S*@"  # a secret with a slash in it
    r"|(?<=s3://)[^\s/@]*:\S*@"  # a bucket has no port
)
_QUERY = re.compile(
    r"([?&][\w-]*(?:token|secret|signature|password|credential|key)[\w-]*=)[^&#\s]+", re.IGNORECASE
)
_HIDDEN = "***"
#: a shorter secret would stand in half of all words
_SHORTEST = 4
#: longest first; None before the first use
_secrets: list[str] | None = None


def printable(text: str) -> str:
    """One line without control, escape, bidirectional or invisible characters, and no secret.

    What may not be printed is written as in a Python string: `\\n`, `\\x1b`, `\\u202e`.
    """
    text = without_secrets(text)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _escaped(c) for c in text)
    return text.replace("###Phase-output", "\\x23##Phase-output")


def printable_json(text: str) -> str:
    """A JSON document with such characters as JSON's own escapes: it says the same."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c == "\n" else _json_escaped(c) for c in text)
    return text.replace("###Phase-output", "\\u0023##Phase-output")


def without_secrets(text: str) -> str:
    """The text without user information in URLs, and without the secrets of the environment."""
    if "://" in text:
        text = _QUERY.sub(rf"\1{_HIDDEN}", _USER_INFO.sub(f"{_HIDDEN}@", text))
    for secret in _secrets if _secrets is not None else learn_secrets():
        text = text.replace(secret, _HIDDEN)
    return text


def learn_secrets(arguments: Sequence[str] = ()) -> list[str]:
    """Take in what must not be printed: keys, and what stands before the `@` of an address."""
    global _secrets
    found = {os.environ.get(name, "") for name in _SECRET_VARIABLES}
    for value in arguments:
        found.update(_user_information(value))
    for name, value in os.environ.items():
        if _ADDRESS_VARIABLES.fullmatch(name):
            proxy = name.lower().endswith("_proxy") and "://" not in value
            found.update(_user_information(f"http://{value}" if proxy else value))
    _secrets = sorted((s for s in found if len(s) >= _SHORTEST), key=len, reverse=True)
    return _secrets


def _user_information(value: str) -> Iterator[str]:
    if "@" in value and "://" in value and _USER_INFO.search(value):
        held = value.partition("://")[2].rpartition("@")[0]
        user, colon, password = held.partition(":")
        secret = password if colon else user
        # an error of a library may name the part of it that it stumbled over
        for text in (held, secret, *(part for part in re.split(r"[/@:?#]", secret) if part[5:])):
            yield text
            yield unquote(text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _json_escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    pairs = zip(units[::2], units[1::2], strict=True)
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in pairs)
