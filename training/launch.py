"""Start the ranks of this node, start them again when one dies, and learn how it ended.

This is torchrun's agent inside the entry process. As a function it hands back what each rank
returned, where the torchrun command knows but 0 and 1. Ranks are forked by a server process that
has imported PyTorch already, so that a restart takes about a second.
"""

import logging
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from training.config import Config
from training.outcome import Outcome
from training.stop import passed_on

_KILL_AFTER = 10  # seconds that ranks have to end once the agent gave up on them


def start_fork_server(config: Config) -> None:
    """Start importing PyTorch in the background, with everything pinned that changes results."""
    threads = str(config.threads)
    os.environ |= {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
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
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # inherited: a stop is not its business
    multiprocessing.forkserver.ensure_running()
    signal.signal(signal.SIGTERM, before)


def launch(config: Config, environment: Mapping[str, str]) -> Outcome:
    """Train on this node's ranks. Raises nothing: a failure is said and is Outcome.RETRY."""
    start_fork_server(config)
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from training import worker

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    logging.getLogger("torch.multiprocessing").setLevel(logging.CRITICAL)
    agent = elastic_launch(
        LaunchConfig(
            min_nodes=config.nodes,
            max_nodes=config.nodes,
            nproc_per_node=config.ranks,
            run_id=config.run,
            rdzv_backend="c10d",
            rdzv_endpoint=config.rendezvous or "localhost:0",
            local_addr=None if config.nodes > 1 else "localhost",
            max_restarts=config.max_restarts,
            start_method="forkserver",
            signals_to_handle="SIGHUP,SIGQUIT",
            shutdown_timeout=_KILL_AFTER,
        ),
        worker.main,
    )
    with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
        stop_file = Path(folder) / "stop"
        try:
            with passed_on(stop_file, config.shutdown_timeout):
                ours = {k: v for k, v in environment.items() if k.startswith("HOLDFAST_")}
                results = agent(config.model_dump_json(), ours, str(stop_file))
        except ChildFailedError as error:
            failed = ", ".join(_describe(rank, f) for rank, f in sorted(error.failures.items()))
            print(f"failed: {failed}", file=sys.stderr, flush=True)
            return Outcome.RETRY
        except TimeoutError as error:
            print(f"failed: {error}", file=sys.stderr, flush=True)
            return Outcome.RETRY
    return Outcome(next(iter(results.values())))


def _describe(rank: int, failure: object) -> str:
    code = getattr(failure, "exitcode", 1)
    if code < 0:
        return f"rank {rank} was killed by {signal.Signals(-code).name}"
    return f"rank {rank} ended with code {code}"
