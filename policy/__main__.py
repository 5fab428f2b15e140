"""What the engine starts. It only builds the pack: building one serves it and never returns."""

import sys
from pathlib import Path

# The engine runs this directory; the rules import each other as `policy`.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from pulumi_policy import PolicyPack

from policy.pack import policies

PolicyPack(name="holdfast", policies=policies())
