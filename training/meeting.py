"""How the nodes of a training find each other, again after each loss: torchrun's rendezvous.

It differs from torchrun's own in three things. The store is a process of its own (see
`training.rendezvous`), so it outlives every node and also one Job after the other: a node that
ends leaves, and never closes the meeting for those that come later. A node that is gone without a
word is noticed by its missing signs of life; ranks would wait for it until they time out. And who
waits for the others can be told to stop.
"""

import sys
from datetime import timedelta
from pathlib import Path

from torch.distributed import Store
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.rendezvous import (
    RendezvousConnectionError,
    RendezvousInfo,
    RendezvousParameters,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import (
    C10dRendezvousBackend,
    create_backend,
)
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import (
    DynamicRendezvousHandler,
    RendezvousTimeout,
    _Action,
    _RendezvousContext,
)

from training.config import Config
from training.stop import Asked

_LOOPBACK = ("localhost", "127.0.0.1")
_JOIN = 86_400  # seconds to wait for enough nodes: they may have to be bought first


class Meeting(DynamicRendezvousHandler):
    """One node's part in it. The stop file is looked at, and `waiting` set, while it waits."""

    stop_file: Path
    waiting = False
    _size = 0  # nodes that met last

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait until enough nodes are there. Raises Asked when told to stop meanwhile."""
        self.waiting = True
        try:
            if self.stop_file.exists():
                raise Asked
            info = super().next_rendezvous()
        finally:
            self.waiting = False
        self._size = info.world_size
        return info

    def num_nodes_waiting(self) -> int:
        """Why to meet again: nodes that have come, or else those that are gone."""
        came = super().num_nodes_waiting()
        return came or max(0, self._size - len(self._state_holder.state.participants))

    def shutdown(self) -> bool:
        """Leave, at once for the others to see."""
        self._stop_heartbeats()
        self._op_executor.run(_leave, self._get_deadline(self._settings.timeout.close))
        return True


class Agent(LocalElasticAgent):
    """torchrun's agent of one node, which waits at its end until the others end too."""

    def _exit_barrier(self) -> None:
        meeting = self._worker_group.spec.rdzv_handler
        if isinstance(meeting, Meeting) and meeting.stop_file.exists():
            return  # only this node was told to stop: the others wait for its next pod
        super()._exit_barrier()


def meet(config: Config, stop_file: Path) -> Meeting:
    """Find the meeting place, however long that takes; a training on one node has it in this
    process. A signal still ends the process here."""
    alone = config.nodes == 1
    endpoint = "localhost:0" if alone else str(config.rendezvous)
    local = alone or endpoint.rpartition(":")[0] in _LOOPBACK
    params = RendezvousParameters(
        "c10d", endpoint, config.run, config.least_nodes, config.nodes, is_host=str(alone).lower()
    )
    backend, store = _find(params)
    meeting = Meeting.from_backend(
        config.run,
        store,
        backend,
        config.least_nodes,
        config.nodes,
        "localhost" if local else None,
        RendezvousTimeout(
            join=timedelta(seconds=_JOIN), last_call=timedelta(seconds=config.rejoin)
        ),
        keep_alive_interval=config.heartbeat,
    )
    meeting.stop_file = stop_file
    return meeting


def _find(params: RendezvousParameters) -> tuple[C10dRendezvousBackend, Store]:
    """Ask until somebody answers: that the place is gone must not count as a failed start."""
    while True:
        try:
            return create_backend(params)
        except RendezvousConnectionError as error:  # after two minutes
            if params.get_as_bool("is_host"):
                raise
            reason = str(error.__cause__ or error).splitlines()[0]
            print(f"waiting for the place where the nodes meet: {reason}", file=sys.stderr)


def _leave(context: _RendezvousContext, deadline: float) -> _Action:
    """An operation of torch's executor: what to do next so that no list names this node."""
    node, state = context.node, context.state
    if node in state.participants:
        return _Action.REMOVE_FROM_PARTICIPANTS
    if node in state.wait_list:
        return _Action.REMOVE_FROM_WAIT_LIST
    if node in state.redundancy_list:
        return _Action.REMOVE_FROM_REDUNDANCY_LIST
    return _Action.FINISH
