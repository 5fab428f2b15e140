"""A wrong setting of an S3 store is one line that names it, and no secret is ever repeated."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast.errors import StoreDenied, StoreError, StoreUnreachable, UsageError
from holdfast.store import open_store
from holdfast.store.s3_client import connect
from testkit.s3 import S3Server, free_port, self_signed, serve
from testkit.s3_faults import Fault, FaultProxy, Rule, faults

__all__ = ["faults"]

SECRET = "s3cr3t-of-a-test"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of whoever runs the tests, and an address where nobody listens."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
    }.items():
        monkeypatch.setenv(name, value)


def refusal(url: str = "s3://bucket/prefix") -> str:
    """The one line that opening the store, or its first use, is refused with."""
    with pytest.raises(UsageError) as refused:
        open_store(url, deadline=20).get("a")
    line = str(refused.value)
    assert "\n" not in line
    assert SECRET not in line
    return line


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"])
@pytest.mark.parametrize(
    "value",
    [
        "127.0.0.1:9000",
        "minio.example:9000",
        "minio.example",
        "http://127.0.0.1:9 ",
        " http://127.0.0.1:9",
        "http://127.0.0.1:9\n",
        "http://127.0.0.1:port",
        "http://127.0.0.1:99999",
        "http://",
        "http:///",
        "http://[::1",
        "http://exa mple",
        "http://exämple",
        "http://-/",
        "http://host/?query",
        "http://host/#fragment",
        "http://host/a b",
        "ftp://host",
        f"http://user:{SECRET}@host",
        f"http://{SECRET}@host",
        f"https://user:{SECRET}@host:bad",
    ],
)
def test_an_endpoint_that_is_no_url_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    assert f"invalid {name} '" in refusal()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ACCESS_KEY_ID", "key\n"),
        ("AWS_ACCESS_KEY_ID", "k e y"),
        ("AWS_SECRET_ACCESS_KEY", f"{SECRET}\n"),
        ("AWS_SESSION_TOKEN", f"{SECRET}\r\n"),
        ("AWS_TOKEN", f"{SECRET}\x00".rstrip("\0") + "\t"),
        ("AWS_REGION", "us east"),
        ("AWS_REGION", "eu-west-1\n"),
        ("AWS_DEFAULT_REGION", "é"),
        ("AWS_CHECKSUM_ALGORITHM", "crc32"),
        ("AWS_REQUEST_CHECKSUM_CALCULATION", "never"),
        ("AWS_UNSIGNED_PAYLOAD", "perhaps"),
        ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "perhaps"),
        ("AWS_S3_EXPRESS", "perhaps"),
        ("AWS_SKIP_SIGNATURE", "perhaps"),
        ("AWS_CONDITIONAL_PUT", "perhaps"),
        ("AWS_CONDITIONAL_PUT", "disabled"),
        ("AWS_COPY_IF_NOT_EXISTS", "perhaps"),
        ("AWS_SERVER_SIDE_ENCRYPTION", "perhaps"),
        ("AWS_ALLOW_HTTP", "yes-please"),
        ("AWS_ENDPOINT_URL_STS", "no url"),
        ("AWS_METADATA_ENDPOINT", "no url"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "no url"),
        ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "x y"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", __file__),
        ("HTTP_PROXY", "http://pro xy"),
        ("https_proxy", f"http://user:{SECRET}@host:port"),
        ("ALL_PROXY", "smtp://proxy"),
        ("AWS_CA_BUNDLE", "/no/such/file"),
        ("AWS_CA_BUNDLE", "/"),
        ("AWS_CA_BUNDLE", "/dev/zero"),
        ("AWS_CA_BUNDLE", __file__),
    ],
)
def test_a_variable_that_cannot_be_right_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    assert name in refusal()


def test_a_bundle_of_certificates_that_are_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{free_port()}")

    with pytest.raises((UsageError, StoreError)) as refused:
        open_store("s3://bucket/prefix", deadline=20).get("a")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["AWS_ENDPOINT", "AWS_CHECKSUM_ALGORITHM", "AWS_SESSION_TOKEN", "AWS_S3_EXPRESS"]
)
def test_an_empty_variable_is_as_good_as_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")

    with pytest.raises(StoreUnreachable):
        open_store("s3://bucket/prefix", deadline=20).get("a")


@pytest.mark.parametrize(
    "url",
    [
        "s3://b/a//b",
        "s3://b//a",
        "s3://b/../a",
        "s3://b/a/./b",
        "s3://[b/p",
        "s3://b]/p",
        "s3://b:9000/p",
        "s3://bu cket/p",
        "s3://b/p\n",
        " s3://b/p",
        "s3://b/\x1b[2J",
        "s3://b/\udcff",
        "s3:///p",
        "s3:b/p",
        f"s3://user:{SECRET}@b/p",
        f"s3://{SECRET}@b/p",
        f"s3://b/p?X-Amz-Signature={SECRET}",
        "file:///a%00b",
        f"file://user:{SECRET}@host/a",
        "FILE//x",
        "",
    ],
)
def test_an_address_that_no_store_can_have_is_refused(url: str) -> None:
    assert refusal(url).startswith("invalid store ")


def test_a_prefix_may_hold_any_plain_character(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreUnreachable):
        open_store("s3://b/p[x] %20é+~", deadline=20).get("a")


def test_the_proxy_is_named_where_one_is_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://user:{SECRET}@127.0.0.1:{free_port()}")

    with pytest.raises(StoreUnreachable, match=r"proxy \(HTTP_PROXY; NO_PROXY") as unreachable:
        open_store("s3://bucket/prefix", deadline=20).get("a")
    assert SECRET not in str(unreachable.value)


@pytest.mark.s3
def test_no_proxy_excludes_the_store_from_a_proxy_that_is_down(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    open_store(f"s3://{s3_server.bucket()}/prefix", deadline=20).put_small("a", b"")


@pytest.mark.s3
def test_an_unknown_authority_and_a_port_without_tls_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(tmp_path, self_signed(tmp_path)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        with pytest.raises(StoreUnreachable, match="set AWS_CA_BUNDLE"):
            open_store("s3://bucket/prefix", deadline=20).get("a")


@pytest.mark.s3
def test_a_port_without_tls_is_named(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint.replace("http:", "https:"))

    with pytest.raises(StoreUnreachable, match="does not speak TLS"):
        open_store("s3://bucket/prefix", deadline=20).get("a")


@pytest.mark.s3
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault.SKEWED, "clock is more than 15 minutes off"),
        (Fault.NO_CHECKSUMS, "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"),
    ],
)
def test_what_a_server_refuses_is_said_with_the_remedy(
    s3_url: str,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    faults: FaultProxy,
    fault: Fault,
    said: str,
) -> None:
    store = open_store(s3_url, deadline=30)
    faults.rules = [Rule(fault, "PUT")]

    with pytest.raises(StoreDenied, match=said):
        store.put_small("a", b"1")


def test_where_a_checksum_is_left_out_the_payload_is_signed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")

    config = connect("bucket", "prefix", 1, 0, 0, 1).config

    assert config.get("checksum_algorithm") is None
    assert config.get("unsigned_payload") is None


def test_a_panic_of_the_client_is_an_error_of_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    def panic(*_: object, **__: object) -> None:
        raise PanicException("request valid: InvalidUri")

    monkeypatch.setattr("obstore.get", panic)

    for deadline in (None, 20):
        with pytest.raises(StoreError, match="the S3 client failed"):
            open_store("s3://bucket/prefix", deadline=deadline).get("a")
