"""Trains concepts whose captions never name the ground, with and without prompt alignment (PALP), and measures prompts.

python -m benchmarks.concepts.alignment [--steps 200] [--runs N]

So the grounds of the pictures are learned with the thing, and prompts for another ground are lost: this is what prompt
alignment is for. Finished runs are kept. At the end it writes benchmarks/results/alignment.json and docs/methods.md.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.concepts.in_process import Planned, compared, judge_and_sampler, options
from benchmarks.concepts.lottery import Concept, draw_concept
from benchmarks.concepts.methods import PAGE, TITLE, TRIGGER, measure
from benchmarks.record import Row, markdown
from benchmarks.sections import replace_section
from families.loading.sources import EMBEDDED_BASE

CONCEPTS = (0,)
"""Tuning seeds."""
GROUNDS_SEEN = 2
"""Of the concept's pictures, those on its first two grounds are trained; prompts ask for all."""
STEPS = 200
SHOWN = ("likeness", "likeness_elsewhere", "grounds", "kept")
TEXT = """\
Written by `python -m benchmarks.concepts.alignment --steps {steps}`: the pictures of a tuning concept on two of its
grounds, all with the caption "a photo of TOK", which names no ground, so that a training may learn thing and ground as
one. A LoRA with the defaults but without prior matching, {steps} steps of 4 pictures; and the same with PALP, as far as
the paper's settings are known (`prompt_alignment_weight: 0.3` in every second step, guidance 15 and 7.5), whose
`target_prompts` name all of the concept's grounds. One training of one concept: a difference of 0.1 is none.

{table}

With prompt alignment: {changes}.
PALP is there for prompts that are lost. Where `grounds` is 1 without it, none are, and such a run shows nothing of what
it is for."""
LORA: Mapping[str, Any] = {
    "base_model": EMBEDDED_BASE, "trigger_word": TRIGGER, "prior_matching_weight": 0.0, "train_batch_size": 4,
    "num_validation_images": 0, "evaluate": "false", "seed": 0,
}  # fmt: skip
METHODS: Mapping[str, Mapping[str, Any]] = {
    "lora": {},
    "lora, prompt alignment 0.3": {"prompt_alignment_weight": 0.3, "prompt_alignment_interval": 2},
}


def main() -> None:
    """Measure the missing runs; when none is missing, write the record."""
    arguments = options(__doc__, STEPS).parse_args()
    write_section(PAGE, compared("alignment", arguments, planned(arguments.steps)), arguments.steps)


def planned(steps: int) -> Iterator[Planned]:
    """Every method on every concept."""
    judge = cache(partial(judge_and_sampler, TRIGGER))
    for seed in CONCEPTS:
        for name, method in METHODS.items():
            settings = {**LORA, **method, "max_train_steps": steps}
            made = partial(measure, without_grounds(draw_concept(seed)), settings, judge)
            yield Planned(f"{name}, concept {seed}", {"method": name, "concept": seed}, settings, made)


def write_section(page: Path, rows: Sequence[Row], steps: int) -> None:
    """Write the table, and what prompt alignment changes."""
    plain, aligned = (
        {name: statistics.mean(row[name] for row in rows if row["method"] == method) for name in SHOWN}
        for method in METHODS
    )
    changes = ", ".join(f"{name} {aligned[name] - plain[name]:+.2f}" for name in SHOWN)
    table = [
        {"method": row["method"], "concept": row["concept"], **{name: row[name] for name in SHOWN}} for row in rows
    ]
    text = TEXT.format(steps=steps, table=markdown(table), changes=changes)
    replace_section(page, TITLE, "Prompt alignment where captions name no ground", text)


def without_grounds(concept: Concept) -> Concept:
    """The concept's pictures on its first grounds, each with the same caption, which names none."""
    seen = concept.grounds[:GROUNDS_SEEN]
    chosen = [index for index in range(len(concept.pictures)) if concept.grounds[index % len(concept.grounds)] in seen]
    pictures = tuple(concept.pictures[index] for index in chosen)
    return replace(concept, pictures=pictures, captions=("a photo of {trigger}",) * len(pictures))


if __name__ == "__main__":
    main()
