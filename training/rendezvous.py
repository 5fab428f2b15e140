"""`python -m training.rendezvous`: the place where the nodes of a training meet.

A store of a few keys, in a process of its own so that it is lost with none of the nodes. The port
is that of HOLDFAST_RENDEZVOUS, which tells the nodes where to find it. When it is lost itself, the
ranks of all nodes start again from the newest bundle as soon as the next one is there.
"""

import os
import signal

from torch.distributed import TCPStore


def main() -> None:
    """Serve until SIGTERM."""
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)  # before the store's threads, which inherit it
    port = int(os.environ["HOLDFAST_RENDEZVOUS"].rpartition(":")[2])
    store = TCPStore("localhost", port, is_master=True, wait_for_workers=False)
    print(f"nodes can meet on port {store.port}", flush=True)
    signal.sigwait(stops)


if __name__ == "__main__":
    main()
