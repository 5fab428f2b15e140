"""One of two ranks that save through `holdfast.integrations.run`: SCENE RANK MEETING VOLUME."""

import atexit
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch.distributed as dist

from holdfast.integrations.run import Run, exit_codes

scene, rank, meeting, volume = sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])


def write(path: Path) -> None:
    """This rank's file; in the scene `late`, rank 1 begins half a second after rank 0 has ended."""
    if scene == "late" and rank == 1:
        while not (path / "rank-0.bin").exists():
            threading.Event().wait(0.01)
        threading.Event().wait(0.5)
    if scene == "fail":
        hold_to_the_end()
    if scene == "fail" and rank == 1:
        raise OSError("no space for rank 1")
    (path / f"rank-{rank}.bin").write_text("weights")


def hold_to_the_end() -> None:
    """As a thread of gloo does: have something to drop, and need the interpreter for it."""
    ending = threading.Event()

    def drop() -> None:
        ending.wait()
        time.sleep(0.02)
        print("dropped in time", flush=True)

    threading.Thread(target=drop, daemon=True).start()
    atexit.register(ending.set)


def last_words() -> None:
    """After all that was asked to happen at the end later than this."""
    print("joined to the end" if dist.is_initialized() else "left in order")


def main() -> None:
    atexit.register(last_words)
    # Ranks that are not joined look by themselves.
    mine = volume / f"of-rank-{rank}" if scene == "split" else volume
    mine.mkdir(exist_ok=True)
    run = Run(mine, "gpt")
    if scene == "split" and rank == 1:
        run.resume()
        run.save(1, write)
    bundle = run.resume() if scene == "split" else None
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    if scene == "split":
        run.agree_on(bundle)
    run.resume()
    if scene == "stop":
        train(run)
    run.save(1, write)
    run.end(stopped=False)


def train(run: Run) -> None:
    run.stop.begin()
    for step in range(1, 10):
        if step == 3 and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if run.stop_agreed():
            print("stopped at", step)
            run.save(step, write)
            run.end(stopped=True)


if __name__ == "__main__":
    with exit_codes():
        main()
