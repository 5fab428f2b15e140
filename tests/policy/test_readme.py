"""The table in policy/README.md says what the rules say."""

from infra.manifests import PROJECT_DIRECTORY
from policy.model import RULES
from policy.rules import load_rules
from tests.golden import compare

README = PROJECT_DIRECTORY / "policy/README.md"
BEGIN, END = "UPDATE_GOLDEN=1 -->\n", "<!-- end of rules -->"


def test_the_readme_lists_every_rule() -> None:
    load_rules()
    rows = ["| rule | level | what to do | values |", "|---|---|---|---|"]
    for rule in RULES:
        values = ", ".join(f"`{key}`" for key in rule.config)
        rows.append(f"| `{rule.name}` | {rule.level.value} | {rule.description} | {values} |")
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]

    compare(README, f"{before}{BEGIN}{chr(10).join(rows)}\n{END}{after}")
