"""The page that benchmarks/learning/ablation.py writes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from benchmarks.record import Row

INTRODUCTION = """# What each option does

Written by `python -m benchmarks.learning.ablation`: the example robot on the embedded base, {seeds} seeds, every option
alone against a reference with the trainer's defaults and these settings:
{reference}.

- concept: mean cosine of 8 samples and the training pictures, by the training pictures' own to each other (1 is full).
- prompt: share of samples that stand on the background that the prompt names (8 backgrounds).
- prior: mean cosine of pictures of 8 unrelated prompts after and before training, same seeds (1: unchanged).
- steps/s: of processor time on one core, while other processes ran: only large differences count.

Means, ± the standard deviation over seeds. Bold: further from the reference than {errors} standard errors of the
difference, which is Student's t at 5 % for three seeds each. Over a hundred cells are compared, so about five are bold
by chance. These runs are short, so that what learns faster shows; a base this small prefers other things than SDXL
does, and what is not bold here is no evidence against an option elsewhere.
"""
STANDARD_ERRORS = 2.8
"""Student's t for 4 degrees of freedom, two-sided, 5 %."""
SCORES = ("concept", "prompt", "prior")


def write_page(path: Path, rows: Sequence[Row], reference: Mapping[str, Any], seeds: int) -> None:
    """Write the table, whose first row is the reference."""
    silent = ("base_model", "evaluate", "num_validation_images")
    shown = ", ".join(f"{name} {value}" for name, value in reference.items() if name not in silent)
    told = "\n".join(wrap(shown, 118))
    head = ["option", *(f"{name}" for name in SCORES), "steps/s"]
    lines = [head, ["---"] * len(head)]
    group = ""
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            lines.append([f"**{group}**", *[""] * (len(head) - 1)])
        cells = [_cell(row, rows[0], name, seeds) for name in SCORES]
        lines.append([row["option"], *cells, f"{row['steps/s']:.1f}"])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    path.write_text(
        f"{INTRODUCTION.format(seeds=seeds, reference=told, errors=STANDARD_ERRORS)}\n{table}\n", encoding="utf-8"
    )


def _cell(row: Row, reference: Row, name: str, seeds: int) -> str:
    text = f"{row[name]:.2f} ± {row[f'{name} ±']:.2f}"
    return f"**{text}**" if differs(row, reference, name, seeds) else text


def differs(row: Row, reference: Row, name: str, seeds: int) -> bool:
    """Whether a mean over seeds differs from the reference by more than STANDARD_ERRORS of the difference."""
    error = ((row[f"{name} ±"] ** 2 + reference[f"{name} ±"] ** 2) / seeds) ** 0.5
    return row is not reference and abs(row[name] - reference[name]) > STANDARD_ERRORS * error
