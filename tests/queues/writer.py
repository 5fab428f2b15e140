"""What trains in the pods of these tests: a state that depends on every step before it.

It has no framework, so that a start takes a second. Each save adds a line to a journal on the
volume, beside the bundles: who wrote which step of which generation, with which state. `journal`
reads it.
"""

import hashlib
import json
import os
import signal
import socket
import time
from pathlib import Path

from holdfast.integrations.run import Run

STATE = "state"
JOURNAL = "journal"
#: Between two saves. A save takes some milliseconds.
PAUSE_SECONDS = 0.3


def main() -> None:
    if os.environ.get("RANK", "0") != "0":  # only the first rank writes
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        signal.sigwait([signal.SIGTERM])
        return
    run = Run(keep=5)
    run.stop.begin()
    bundle = run.resume()
    step = (bundle.step or 0) if bundle else 0
    state = (bundle.path / STATE).read_text() if bundle else ""
    who = f"{socket.gethostname()} {os.getpid()} {time.time_ns()}"
    note(run, who, "opens", step, state)
    while not run.stop_agreed():
        step, state = step + 1, after(state, who, step)
        saved = run.save(step, lambda folder, content=state: (folder / STATE).write_text(content))
        assert saved, run.problem
        note(run, who, "saved", step, state)
        time.sleep(PAUSE_SECONDS)
    note(run, who, "closes", step, state)
    run.end(stopped=True)


def after(state: str, who: str, step: int) -> str:
    """The state of the next step: no two writers ever make the same."""
    return hashlib.sha256(f"{state} {who} {step}".encode()).hexdigest()


def note(run: Run, who: str, what: str, step: int, state: str) -> None:
    line = {"who": who, "what": what, "generation": run.generation, "step": step, "state": state}
    text = json.dumps(line) + "\n"
    with (Path(run.volume.root) / f"{JOURNAL}-{run.volume.run}").open("a") as file:
        file.write(text)  # one write of less than a block: lines of two writers never mix


if __name__ == "__main__":
    main()
