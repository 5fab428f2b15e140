"""The nodes of a training join each other here, and again after each loss: a torchrun rendezvous.

It differs from torchrun's own handler in three ways. The store is a separate process (see
`training.rendezvous`) that outlives every node and every Job, so a node that ends leaves the
rendezvous and never closes it for later ones. A node that disappears is noticed by its missing
heartbeats; without that, the ranks would wait for it until they time out. And a node that waits
for the others can be told to stop.
"""

import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from signal import SIGKILL, SIGTERM, Signals
from typing import Any, cast

from torch.distributed import DistError, Store
from torch.distributed.elastic.agent.server.api import WorkerGroup
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
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

from training.config import Config
from training.stop import StopFiles, StopRequested

_LOOPBACK = ("localhost", "127.0.0.1")
_STOPS = "holdfast/stops"  # key in the store
_PORT = 29400  # where the endpoint names none, as in torchrun
_JOIN = 86_400  # seconds to wait for enough nodes: they may have to be bought first


class RendezvousHandler(DynamicRendezvousHandler):
    """One node's part. A stop is looked for before it waits for the others."""

    files: StopFiles
    store: Store
    _size = 0  # nodes in the last round

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait until enough nodes have joined. Raises StopRequested when told to stop."""
        if self.files.asked:
            raise StopRequested
        info = super().next_rendezvous()
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

    def announce_stop(self) -> None:
        """Let the other nodes know that ranks of this one end because of a stop."""
        with suppress(DistError, RuntimeError):  # they take it for a crash then
            self.store.add(_STOPS, 1)

    def stops(self) -> int:
        """How many nodes have announced a stop so far."""
        return self.store.add(_STOPS, 0)


class Agent(LocalElasticAgent):
    """torchrun's agent of one node. It calls `after_crash` before it restarts ranks that failed.

    Ranks that have not begun to train have nothing to save: they are not asked to end, but killed.
    Neither is their end a crash where another node was stopped. At the end of a training an agent
    waits for the other nodes to end, unless its own node alone was told to stop.
    """

    def __init__(self, *args: Any, after_crash: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._after_crash = after_crash
        self._crashes = self._stops = 0

    @property
    def _handler(self) -> RendezvousHandler:
        return cast(RendezvousHandler, self._worker_group.spec.rdzv_handler)

    def _initialize_workers(self, worker_group: WorkerGroup) -> None:
        self._handler.files.begin_round()
        if self._handler.files.asked:
            raise StopRequested
        crashes = worker_group.spec.max_restarts - self._remaining_restarts
        stops = self._handler.stops()
        if crashes > self._crashes and stops == self._stops:
            self._after_crash()
        self._crashes, self._stops = crashes, stops
        super()._initialize_workers(worker_group)

    def _shutdown(self, death_sig: Signals = SIGTERM, timeout: int = 30) -> None:
        if self._handler.files.asked:
            self._handler.announce_stop()
        super()._shutdown(death_sig if self._handler.files.training else SIGKILL, timeout)

    def _exit_barrier(self) -> None:
        if not self._handler.files.asked:
            super()._exit_barrier()


def make_handler(config: Config, files: StopFiles) -> RendezvousHandler:
    """Connect to the rendezvous store, however long it takes; a single node has its own."""
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
    handler.files = files
    handler.store = store
    return handler


def _connect(params: RendezvousParameters) -> tuple[C10dRendezvousBackend, Store]:
    """Try until it answers: a missing store must not count as a failed start."""
    said = ""
    while True:
        try:
            if not params.get_as_bool("is_host"):
                # torch would wait for two minutes, deaf to signals.
                address = parse_rendezvous_endpoint(params.endpoint, _PORT)
                socket.create_connection(address, timeout=5).close()
            return create_backend(params)
        except (OSError, RendezvousConnectionError) as error:
            if params.get_as_bool("is_host"):
                raise
            reason = str(error.__cause__ or error).splitlines()[0]
            if reason != said:
                print(f"waiting for the rendezvous store: {reason}", file=sys.stderr, flush=True)
            said = reason
            time.sleep(1)


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
