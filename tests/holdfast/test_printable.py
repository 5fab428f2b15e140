"""What may stand on a line of output."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import printable as module
from holdfast.printable import PHASE_OUTPUT, learn_secrets, printable, printable_json

KANISTER = PHASE_OUTPUT.removesuffix(":")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("step-1 – 3,0 MiB é 模型", "step-1 – 3,0 MiB é 模型"),
        ("two\nlines\r\ttab", r"two\nlines\r\ttab"),
        ("\x1b[31mred\x07\x7f", r"\x1b[31mred\x07\x7f"),
        ("\x9b31m \x85", r"\x9b31m \x85"),
        ("safe\u202efdp.exe\u2066\u200b", r"safe\u202efdp.exe\u2066\u200b"),
        ("line\u2028paragraph\u2029", r"line\u2028paragraph\u2029"),
        ("bytes \udcff", r"bytes \udcff"),
        ("tag \U000e0041", r"tag \U000e0041"),
        (f"x {PHASE_OUTPUT} {{}}", r"x \x23##Phase-output###: {}"),
    ],
)
def test_what_steers_a_terminal_is_shown_as_in_a_python_string(text: str, shown: str):
    assert printable(text) == shown


@given(st.text(alphabet=st.characters(codec=None), max_size=50))
def test_no_text_makes_a_second_line_or_a_line_of_kanister(text: str):
    shown = printable(f"{text}{PHASE_OUTPUT}{text}")
    assert shown.isprintable()
    assert KANISTER not in shown
    assert printable(shown) == shown


@given(st.dictionaries(st.text(st.characters(codec=None)), st.text(st.characters(codec=None))))
def test_json_says_the_same_in_characters_that_steer_nothing(document: dict[str, str]):
    document["marker"] = PHASE_OUTPUT
    text = printable_json(json.dumps(document, indent=2, ensure_ascii=False))
    assert json.loads(text) == document
    assert all(line.isprintable() and KANISTER not in line for line in text.split("\n"))


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_secrets", None)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://user:hunter2@bucket/p x", "s3://***@bucket/p x"),
        ("http://:hunter2@host:9000/", "http://***@host:9000/"),
        ("https://hunter2@host", "https://***@host"),
        ("s3://user:hunt/er2@bucket", "s3://***@bucket"),
        ("s3://user:12/hunter2@bucket", "s3://***@bucket"),
        ("http://a@b:hunter2@host/x", "http://***@host/x"),
        ("https://host/x?X-Amz-Signature=hunter2&a=1", "https://host/x?X-Amz-Signature=***&a=1"),
        ("file:///mnt/me@work/store", "file:///mnt/me@work/store"),
        ("http://host:9000/b/me@work", "http://host:9000/b/me@work"),
        ("http://[::1]:9000/b/x", "http://[::1]:9000/b/x"),
    ],
)
def test_user_information_of_an_address_is_never_shown(forget, text: str, shown: str):
    assert printable(text) == shown


def test_a_secret_is_hidden_wherever_it_stands_alone(forget, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalr/XUtnFEMI")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "FwoGZXIvYXdzEBY")
    monkeypatch.setenv("HTTPS_PROXY", "me:pass%20word@proxy:3128")
    learn_secrets(["--api", "http://user:hunter2@host", "--name", "someone@else"])
    said = printable(
        "wJalr/XUtnFEMI FwoGZXIvYXdzEBY 'pass%20word' 'pass word' nonnumeric port: 'hunter2@host'"
        " me user someone@else"
    )
    assert said == "*** *** '***' '***' nonnumeric port: '***@host' me user someone@else"
