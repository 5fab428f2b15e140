"""``python -m infra.plan plan --stack local --output tree``: what a stack declares."""

import argparse
import os
import sys

from infra.plan.graph import collect
from infra.plan.render import RENDERERS
from infra.settings import SettingsError, load


def main(arguments: list[str] | None = None) -> int:
    """`python -m infra.plan plan`: print what a stack declares."""
    parser = argparse.ArgumentParser(prog="python -m infra.plan", description=main.__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    plan = verbs.add_parser("plan", help="show what a stack declares, without a cluster")
    plan.add_argument("--stack", default="local", help="which Pulumi.<stack>.yaml (default: local)")
    plan.add_argument("--output", choices=sorted(RENDERERS), default="tree")
    options = parser.parse_args(arguments)
    try:
        graph = collect(load(options.stack), options.stack)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        print(RENDERERS[options.output](graph), flush=True)
    except BrokenPipeError:
        # Whoever reads has seen enough (`| head`). Python would complain once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
