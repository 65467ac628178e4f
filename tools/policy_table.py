"""Writes the tables of docs/untrusted-callers.md from the policy itself.

python -m tools.policy_table
"""

from pathlib import Path
from textwrap import fill

from service.policy.policy import operators_settings
from service.policy.rules import LIMITS, LIST_OF, MODEL_LISTS

TARGET = Path(__file__).resolve().parents[1] / "docs" / "untrusted-callers.md"
LINE = 120
BEGIN, END = "<!-- python -m tools.policy_table -->", "<!-- end -->"


def tables() -> str:
    """Return the tables of the operator's options, in Markdown."""
    opened = ", ".join(f"`{name}`" for name in sorted(operators_settings()))
    lists = "\n".join(
        f"| `{variable}` | {', '.join(f'`{name}`' for name, of in LIST_OF.items() if of == variable)} "
        f"| {', '.join(f'`{pattern}`' for pattern in usual)} |"
        for variable, usual in MODEL_LISTS.items()
    )
    limits = "\n".join(f"| `{variable}` | {limit.most:,} | {limit.what} |" for variable, limit in LIMITS.items())
    return (
        f"{fill(f'Settings that `CALLERS_MAY_SET` can open: {opened}.', LINE)}\n\n"
        f"| list of models | for | default |\n|---|---|---|\n{lists}\n\n"
        f"| limit | default | limited quantity |\n|---|---|---|\n{limits}"
    )


def page(text: str) -> str:
    """Replace the tables between the page's markers."""
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n\n{tables()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    TARGET.write_text(page(TARGET.read_text(encoding="utf-8")), encoding="utf-8")
    print(TARGET)
