"""Start the ranks of this node, restart them when one dies, and return how the training ended.

This is torchrun's agent as a function in the entry process: it returns what each rank returned,
where the torchrun command knows only 0 and 1. Ranks are forked by a server process that has already
imported PyTorch, so a restart takes about a second.
"""

import logging
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from training.config import Config
from training.outcome import Outcome
from training.stop import StopFiles, blocked_signals, forward_stop

_KILL_AFTER = 10  # seconds for ranks to end, and for the other nodes to confirm their end


def start_fork_server(config: Config) -> None:
    """Start importing PyTorch in the background, with all settings pinned that change results."""
    threads = str(config.threads)
    # We report a lost peer in one line; each of its warnings has a page of stack frames.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ |= {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGHUP,SIGQUIT",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "PYTHONHASHSEED": "0",
        # Asks the driver, not CUDA, how many GPUs there are: CUDA would not survive the fork.
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        # A new store for each start of the ranks. In the shared one they find the addresses that
        # the ranks before them left there, and gloo hangs or fails [torch 2.15].
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    # An optimizer's first step imports torch._dynamo, which each rank would pay for by itself.
    multiprocessing.set_forkserver_preload(["training.trainer", "torch._dynamo"])
    multiprocessing.resource_tracker.ensure_running()  # it would unblock SIGTERM below
    with blocked_signals():  # inherited: the server outlives a stop, and each rank unblocks them
        multiprocessing.forkserver.ensure_running()


@dataclass(frozen=True)
class Watch:
    """What to call before ranks start for the first time or after a crash, and at a stop."""

    starting: Callable[[], None] = lambda: None
    stopping: Callable[[], None] = lambda: None


def launch(config: Config, environment: Mapping[str, str], watch: Watch) -> Outcome:
    """Train on this node's ranks. A failure is printed and is Outcome.RETRY.

    Raises StopRequested when asked to stop while no rank trains, and what `watch.starting` raises.
    """
    start_fork_server(config)
    from torch.distributed import DistError
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.rendezvous import RendezvousError

    from training import worker
    from training.rendezvous_handler import Agent, make_handler

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    logging.getLogger("torch.multiprocessing").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
        files = StopFiles(Path(folder))
        ours = {k: v for k, v in environment.items() if k.startswith(("HOLDFAST_", "MLFLOW_"))}
        try:
            handler = make_handler(config, files)
            spec = WorkerSpec(
                role="trainer",
                local_world_size=config.ranks,
                rdzv_handler=handler,
                entrypoint=worker.main,
                args=(config.model_dump_json(), ours, folder),
                max_restarts=config.max_restarts,
                monitor_interval=0.1,
            )
            agent = Agent(
                spec,
                logs_specs=DefaultLogsSpecs(),
                start_method="forkserver",
                exit_barrier_timeout=_KILL_AFTER,
                shutdown_timeout=_KILL_AFTER,
                after_crash=watch.starting,
            )
            with forward_stop(files, config.shutdown_timeout, watch.stopping):
                try:
                    result = agent.run()
                finally:
                    handler.shutdown()
        except (RendezvousError, DistError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            print(f"failed: rendezvous: {reason}", file=sys.stderr, flush=True)
            return Outcome.RETRY
        except TimeoutError as error:
            print(f"failed: {error}", file=sys.stderr, flush=True)
            return Outcome.RETRY
    if result.is_failed():
        failed = ", ".join(_describe(rank, f) for rank, f in sorted(result.failures.items()))
        print(f"failed: {failed}", file=sys.stderr, flush=True)
        return Outcome.RETRY
    return Outcome(next(iter(result.return_values.values())))


def _describe(rank: int, failure: object) -> str:
    code = getattr(failure, "exitcode", 1)
    if code < 0:
        return f"rank {rank} was killed by {signal.Signals(-code).name}"
    return f"rank {rank} ended with code {code}"
