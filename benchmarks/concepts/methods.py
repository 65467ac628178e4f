"""Trains concepts with and without Perfusion and prompt alignment, measures them, and writes its section of
docs/methods.md.

python -m benchmarks.concepts.methods [--steps 200] [--runs N]

Finished runs are kept, so that the command can be continued.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.concepts.in_process import (
    Judge,
    Planned,
    changes,
    compared,
    drawing_with,
    judge_and_sampler,
    means,
    options,
    table_of_methods,
    trained,
)
from benchmarks.concepts.lottery import Concept, draw_concept, on_ground
from benchmarks.record import Row, machine_name
from benchmarks.sections import replace_section
from families.loading.sources import EMBEDDED_BASE

PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods.md"
CONCEPTS = (4, 5, 6, 7)
"""Tuning seeds, one of each kind. Perfusion's rate was chosen on others, 0 and 1."""
STEPS, TRIGGER = 200, "TOK"
COMMON: Mapping[str, Any] = {
    "base_model": EMBEDDED_BASE, "trigger_word": TRIGGER, "num_validation_images": 0, "evaluate": "false", "seed": 0,
}  # fmt: skip
PERFUSION: Mapping[str, Any] = {
    "adapter": "perfusion", "learning_rate": 0.3, "max_grad_norm": 10.0, "token_learning_rate": 2e-2,
    "token_norm_weight": 0.01, "caption_dropout": 0.0, "trigger_only_dropout": 0.3,
}  # fmt: skip
ALIGNED: Mapping[str, Any] = {"prompt_alignment_weight": 0.3, "prompt_alignment_interval": 2}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "lora, the defaults": {},
    "perfusion": PERFUSION,
    "lora, prompt alignment": ALIGNED,
}
MEASURED = ("likeness", "likeness_elsewhere", "grounds", "kept")
TITLE, ALONE = "Methods for few pictures", "Each concept alone"
TEXT = """\
Written by `python -m benchmarks.concepts.methods --steps {steps}`. Synthetic concepts (benchmarks/concepts, tuning
seeds {concepts}, eight images each) are trained one at a time on the embedded base model, for {steps} steps with batch
size 4 and the trainer's defaults, except for the settings named below.

- likeness: mean cosine similarity of samples of "a photo of {trigger}" to the training images, divided by that of the
  training images to each other (1 is the maximum); likeness_elsewhere: the same for prompts that name a background.
- grounds: share of the samples with the background that the prompt names. It measures how well prompts are followed.
- kept: mean cosine similarity of images of unrelated prompts after and before training, same seeds (1: unchanged).
- kB: file size.

`prompt alignment` uses `prompt_alignment_weight: {weight}` in every second step, in addition to prior matching; its
`target_prompts` are the concept's prompts with a background. Perfusion uses a learning rate of 0.3 and gradient
clipping at 10, which were chosen on concepts 0 and 1, and, like the LoRA, a cosine schedule and `trigger_only_dropout:
0.3`. The table has the mean over the concepts and, in brackets, the value of each. With {count} concepts and one
training seed, a difference of 0.1 is not significant. Machine: {machine}.

{table}

{finding}

Use Perfusion for prompts that are far from the training images, and where small files matter; see
[training.md](training.md). Use prompt alignment for a training for a few known prompts; see
[losses-and-tokens.md](losses-and-tokens.md).
"""


def main() -> None:
    """Measure the missing runs; when none is missing, write table and record."""
    arguments = options(__doc__, STEPS).parse_args()
    write_page(PAGE, compared("methods", arguments, planned(arguments.steps)), arguments.steps)


def planned(steps: int) -> Iterator[Planned]:
    """The runs: every method with every concept."""
    judge = cache(partial(judge_and_sampler, TRIGGER))
    for name, method in METHODS.items():
        for seed in CONCEPTS:
            settings = {**COMMON, **method, "max_train_steps": steps}
            made = partial(measure, draw_concept(seed), settings, judge)
            yield Planned(f"{name}, concept {seed}", {"method": name, "concept": seed}, settings, made)


def measure(concept: Concept, settings: Mapping[str, Any], judge: Judge, shown: Concept | None = None) -> Row:
    """Train on the concept and return its measures. `shown`: the trained images and captions, if they differ from those
    for the measures."""
    own = dict(settings)
    if "prompt_alignment_weight" in own:
        subject = concept.subjects[0].format(trigger=TRIGGER)
        own["target_prompts"] = [on_ground(subject, word) for word in concept.grounds]
    with tempfile.TemporaryDirectory() as scratch:
        data = (shown or concept).write_zip(Path(scratch) / "data.zip", TRIGGER)
        artifact, size = trained({**own, "class_word": concept.class_word}, data, Path(scratch) / "out")
    judging, sampler = judge()
    with drawing_with(sampler, artifact) as draw:
        measures = judging.measure(concept, draw).row()
    return {**{name: measures[name] for name in MEASURED}, "kB": size}


def write_page(path: Path, rows: Sequence[Row], steps: int) -> None:
    """Write the table of means, and the conclusion."""
    replace_section(
        path,
        TITLE,
        ALONE,
        TEXT.format(
            steps=steps,
            concepts=", ".join(map(str, CONCEPTS)),
            count=len(CONCEPTS),
            trigger=TRIGGER,
            weight=ALIGNED["prompt_alignment_weight"],
            machine=machine_name(),
            table=table_of_methods(rows, METHODS, (*MEASURED, "kB")),
            finding=_finding(rows),
        ),
    )


def _finding(rows: Sequence[Row]) -> str:
    """The changes by both methods relative to the plain LoRA."""
    reference, *others = METHODS
    lines = []
    for other in others:
        times = means(rows, reference, ["kB"])["kB"] / means(rows, other, ["kB"])["kB"]
        size = f"; its file is {times:.1f} times smaller" if times > 2 else ""
        lines.append(f"- {other}, against {reference}: {changes(rows, other, reference, MEASURED)}{size}.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
