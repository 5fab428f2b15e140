"""A training that was given EFA does not train over TCP unnoticed."""

from pathlib import Path

import pytest

from holdfast.errors import ExitCode
from training.fabric import WrongNetwork, check, log_network, network_in

#: What NCCL writes, shortened: host, process, thread and GPU before each line.
OVER_EFA = """\
ip-10-0-1-5:41:41 [0] NCCL INFO NET/OFI Selected provider is efa (found 16 nics)
ip-10-0-1-5:41:52 [0] NCCL INFO Initialized NET plugin Libfabric
ip-10-0-1-5:41:52 [0] NCCL INFO Using network Libfabric
"""
OVER_TCP = """\
ip-10-0-1-5:41:41 [0] NCCL INFO NET/Plugin: Could not find: libnccl-net.so
ip-10-0-1-5:41:52 [0] NCCL INFO NET/Socket : Using [0]eth0:10.0.1.5<0>
ip-10-0-1-5:41:52 [0] NCCL INFO Using network Socket
"""


def logged(folder: Path, text: str) -> str | None:
    log = log_network({"FI_PROVIDER": "efa"}, folder)
    assert log is not None
    log.write_text(text)
    return network_in(log)


def test_a_rank_on_sockets_stops_the_training_for_good_where_efa_was_asked_for(tmp_path: Path):
    networks = {0: logged(tmp_path, OVER_EFA), 1: logged(tmp_path, OVER_TCP)}

    with pytest.raises(WrongNetwork) as stopped:
        check(networks)
    assert stopped.value.exit_code is ExitCode.REFUSED
    assert "on rank 1, and the stack asked for EFA" in str(stopped.value)
    assert "images/training-efa" in str(stopped.value)


def test_efa_on_every_rank_is_what_was_asked_for(tmp_path: Path):
    check({0: logged(tmp_path, OVER_EFA), 1: logged(tmp_path, OVER_EFA)})


def test_what_nccl_does_not_say_stops_nothing(tmp_path: Path):
    """Its words may change, and a training must not end for that."""
    check({0: logged(tmp_path, "NCCL INFO something new"), 1: network_in(tmp_path / "absent")})


@pytest.mark.parametrize(
    "environment", [{}, {"FI_PROVIDER": "tcp"}, {"FI_PROVIDER": "efa", "NCCL_DEBUG_FILE": "/logs"}]
)
def test_nccl_is_left_alone_without_efa_or_where_its_log_is_the_users(
    environment: dict[str, str], tmp_path: Path
):
    before = dict(environment)

    assert log_network(environment, tmp_path) is None
    assert environment == before


def test_a_level_that_the_user_chose_stays(tmp_path: Path):
    environment = {"FI_PROVIDER": "efa", "NCCL_DEBUG": "TRACE"}
    log_network(environment, tmp_path)

    assert environment["NCCL_DEBUG"] == "TRACE"
    assert environment["NCCL_DEBUG_SUBSYS"] == "INIT,NET"
