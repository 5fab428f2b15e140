"""The nodes of a training join each other here, and again after each loss: a torchrun rendezvous.

It differs from torchrun's own handler in three ways. The store is a separate process (see
`training.rendezvous`) that outlives every node and every Job, so a node that ends leaves the
rendezvous and never closes it for later ones. A node that disappears is noticed by its missing
heartbeats; without that, the ranks would wait for it until they time out. And a node that waits
for the others can be told to stop.
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
from training.stop import StopRequested

_LOOPBACK = ("localhost", "127.0.0.1")
_JOIN = 86_400  # seconds to wait for enough nodes: they may have to be bought first


class RendezvousHandler(DynamicRendezvousHandler):
    """One node's part. While it waits, `waiting` is set and the stop file is checked."""

    stop_file: Path
    waiting = False
    _size = 0  # nodes in the last round

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait until enough nodes have joined. Raises StopRequested when told to stop."""
        self.waiting = True
        try:
            if self.stop_file.exists():
                raise StopRequested
            info = super().next_rendezvous()
        finally:
            self.waiting = False
        self._size = info.world_size
        return info

    def num_nodes_waiting(self) -> int:
        """More than 0 starts a new round: nodes that want to join, else nodes that are gone."""
        joining = super().num_nodes_waiting()
        return joining or max(0, self._size - len(self._state_holder.state.participants))

    def shutdown(self) -> bool:
        """Leave, so that the others notice at once."""
        self._stop_heartbeats()
        self._op_executor.run(_leave, self._get_deadline(self._settings.timeout.close))
        return True


class Agent(LocalElasticAgent):
    """torchrun's agent of one node. At its end it waits for the other nodes to end."""

    def _exit_barrier(self) -> None:
        handler = self._worker_group.spec.rdzv_handler
        if isinstance(handler, RendezvousHandler) and handler.stop_file.exists():
            return  # only this node was told to stop: the others wait for its next pod
        super()._exit_barrier()


def make_handler(config: Config, stop_file: Path) -> RendezvousHandler:
    """Connect to the rendezvous store, however long it takes; a single node has it in this process.

    A signal still ends the process here.
    """
    alone = config.nodes == 1
    endpoint = "localhost:0" if alone else str(config.rendezvous)
    local = alone or endpoint.rpartition(":")[0] in _LOOPBACK
    params = RendezvousParameters(
        "c10d", endpoint, config.run, config.least_nodes, config.nodes, is_host=str(alone).lower()
    )
    backend, store = _connect(params)
    handler = RendezvousHandler.from_backend(
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
    handler.stop_file = stop_file
    return handler


def _connect(params: RendezvousParameters) -> tuple[C10dRendezvousBackend, Store]:
    """Try until it answers: a missing store must not count as a failed start."""
    while True:
        try:
            return create_backend(params)
        except RendezvousConnectionError as error:  # after two minutes
            if params.get_as_bool("is_host"):
                raise
            reason = str(error.__cause__ or error).splitlines()[0]
            print(f"waiting for the rendezvous store: {reason}", file=sys.stderr)


def _leave(context: _RendezvousContext, deadline: float) -> _Action:
    """An operation for torch's executor: remove this node from every list, one per call."""
    node, state = context.node, context.state
    if node in state.participants:
        return _Action.REMOVE_FROM_PARTICIPANTS
    if node in state.wait_list:
        return _Action.REMOVE_FROM_WAIT_LIST
    if node in state.redundancy_list:
        return _Action.REMOVE_FROM_REDUNDANCY_LIST
    return _Action.FINISH
