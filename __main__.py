"""The Pulumi program: settings, resources, exports."""

import pulumi

from infra.settings import from_config
from infra.stack import build

outputs = build(from_config(pulumi.Config()))
for name, value in outputs.exports().items():
    pulumi.export(name, value)
