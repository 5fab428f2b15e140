"""`python -m training.rendezvous`: the store by which the nodes of a training find each other.

It holds a few keys, in a process of its own so that it survives the loss of any node. It listens on
the port of HOLDFAST_RENDEZVOUS, by which the nodes find it. When the store itself is lost, the
ranks of all nodes start again from the newest bundle as soon as there is a new one.
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
    print(f"rendezvous store on port {store.port}", flush=True)
    signal.sigwait(stops)


if __name__ == "__main__":
    main()
