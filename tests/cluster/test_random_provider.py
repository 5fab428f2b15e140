"""The stand-in for Pulumi's provider `random`, asked as the engine asks it."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc

from cluster import random_provider

URN = f"urn:pulumi:e2e::holdfast::{random_provider.TOKEN}::tracking-admin-password"


@pytest.fixture
def provider() -> Iterator[provider_pb2_grpc.ResourceProviderStub]:
    server, port = random_provider.started("4.0.0")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield provider_pb2_grpc.ResourceProviderStub(channel)
    server.stop(None)


def struct(**values: Any) -> Any:
    return random_provider.struct(values)


def test_a_password_is_secret_new_each_time_and_of_the_length_that_was_asked(
    provider: provider_pb2_grpc.ResourceProviderStub,
) -> None:
    request = provider_pb2.CreateRequest(urn=URN, properties=struct(length=32, special=False))

    made = [json_format.MessageToDict(provider.Create(request).properties) for _ in range(2)]

    values = {each["result"]["value"] for each in made}
    assert {len(each) for each in values} == {32}
    assert len(values) == 2
    assert all(each.isalnum() for each in values)
    assert "4dabf18193072939515e22adb298388d" in made[0]["result"]


def test_a_password_stays_until_its_length_changes(
    provider: provider_pb2_grpc.ResourceProviderStub,
) -> None:
    def diff(length: int) -> Any:
        return provider.Diff(
            provider_pb2.DiffRequest(
                urn=URN, olds=struct(length=32, special=False, result="x"),
                news=struct(length=length, special=False),
            )
        )  # fmt: skip

    assert diff(32).changes == provider_pb2.DiffResponse.DIFF_NONE
    assert list(diff(16).replaces) == ["length"]


@pytest.mark.parametrize(
    ("urn", "values", "why"),
    [
        (URN.replace("randomPassword:RandomPassword", "randomPet:RandomPet"), {}, "only random:"),
        (URN, {"length": 8, "minUpper": 1}, "minUpper: only length and special"),
    ],
)
def test_what_it_does_not_know_is_refused(
    provider: provider_pb2_grpc.ResourceProviderStub, urn: str, values: dict[str, Any], why: str
) -> None:
    with pytest.raises(grpc.RpcError, match=why):
        provider.Check(provider_pb2.CheckRequest(urn=urn, news=struct(**values)))
