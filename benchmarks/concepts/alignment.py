"""Trains things whose images all have the same background, with and without prompt alignment (PALP).

python -m benchmarks.concepts.alignment [--steps 500] [--runs N]

As with photos that were taken in one place, thing and background are learned together, and prompts for another
background are not followed, which prompt alignment is intended for. Finished runs are kept. At the end it writes
benchmarks/results/alignment.json and its section of docs/methods.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.concepts.in_process import Planned, changes, compared, judge_and_sampler, options, table_of_methods
from benchmarks.concepts.lottery import Concept, draw_concept
from benchmarks.concepts.methods import COMMON, MEASURED, PAGE, TITLE, TRIGGER, measure
from benchmarks.record import Row
from benchmarks.sections import replace_section

CONCEPTS = (4, 5, 7)
"""Tuning seeds of things: a figure, an object, a pair. The weight was chosen on another one, 0."""
SHOWN_PICTURES = 8
STEPS = 500
TEXT = """\
Written by `python -m benchmarks.concepts.alignment --steps {steps}`. Each of {count} tuning concepts has eight training
images with the same background, like photos taken in one place, and the caption "a photo of TOK", which does not name
the background. They are trained for {steps} steps with batch size 4 and the defaults, except for the settings named in
the table. PALP uses the paper's settings as far as they are known: `prompt_alignment_weight: 1` in every second step
(0.3, 1 and 3 were tried on concept 0), guidance 15 and 7.5, and `target_prompts` with all backgrounds of the concept.
likeness is measured with images on all backgrounds. The table has the mean and, in brackets, the value of each concept.
With one training seed, a difference of 0.1 is not significant.

{table}

If `grounds` is below 1, samples do not have the background that their prompts name. The effect of prompt alignment,
compared with the same training without it: {changes};
compared with a training of half as many steps: {shorter}.
"""
NO_PRIOR: Mapping[str, Any] = {"prior_matching_weight": 0.0}
ALONE, SHORTER, ALIGNED_ALONE = (
    "no prior matching", "no prior matching, half the steps", "no prior matching, prompt alignment",
)  # fmt: skip
METHODS: Mapping[str, Mapping[str, Any]] = {
    ALONE: NO_PRIOR,
    SHORTER: NO_PRIOR,
    ALIGNED_ALONE: {**NO_PRIOR, "prompt_alignment_weight": 1.0, "prompt_alignment_interval": 2},
    "the defaults": {},
}
"""The defaults have prior matching, which keeps prompts by other means."""


def main() -> None:
    """Measure the missing runs; when none is missing, write the record."""
    arguments = options(__doc__, STEPS).parse_args()
    write_section(PAGE, compared("alignment", arguments, planned(arguments.steps)), arguments.steps)


def planned(steps: int) -> Iterator[Planned]:
    """The runs: every method with every concept."""
    judge = cache(partial(judge_and_sampler, TRIGGER))
    for seed in CONCEPTS:
        for name, method in METHODS.items():
            settings = {**COMMON, **method, "max_train_steps": steps // 2 if name == SHORTER else steps}
            made = partial(measure, draw_concept(seed), settings, judge, on_one_ground(seed))
            yield Planned(f"{name}, concept {seed}", {"method": name, "concept": seed}, settings, made)


def write_section(page: Path, rows: Sequence[Row], steps: int) -> None:
    """Write the table, and the changes by prompt alignment."""
    text = TEXT.format(
        steps=steps,
        count=len(CONCEPTS),
        table=table_of_methods(rows, METHODS, MEASURED),
        changes=changes(rows, ALIGNED_ALONE, ALONE, MEASURED),
        shorter=changes(rows, ALIGNED_ALONE, SHORTER, MEASURED),
    )
    replace_section(page, TITLE, "Prompt alignment if all images have one background", text)


def on_one_ground(seed: int) -> Concept:
    """The concept with images on its first background only, all with the same caption, which does not name it."""
    grounds = len(draw_concept(seed).grounds)
    concept = draw_concept(seed, SHOWN_PICTURES * grounds)
    return replace(concept, pictures=concept.pictures[::grounds], captions=("a photo of {trigger}",) * SHOWN_PICTURES)


if __name__ == "__main__":
    main()
