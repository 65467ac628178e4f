"""Trains concepts with and without Perfusion and prompt alignment, measures them, and writes its section of
docs/methods.md.

python -m benchmarks.concepts.methods [--steps 200] [--runs N]

Finished runs are kept: the command goes on where it was stopped.
"""

import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.concepts.in_process import (
    Judge,
    Planned,
    compared,
    drawing_with,
    judge_and_sampler,
    mean_and_values,
    options,
    trained,
)
from benchmarks.concepts.lottery import Concept, draw_concept, on_ground
from benchmarks.record import Row, machine_name, markdown
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
Written by `python -m benchmarks.concepts.methods --steps {steps}`: concepts drawn by lot (benchmarks/concepts, tuning
seeds {concepts}, eight pictures each), trained alone on the embedded base, {steps} steps of 4 pictures, with the
trainer's defaults but for what is named.

- likeness: mean cosine of samples of "a photo of {trigger}" and the training pictures, by the training pictures' own to
  each other (1 is full); likeness_elsewhere: the same where the prompt names a background.
- grounds: share of samples on the background that the prompt names. It is the alignment with the prompt.
- kept: mean cosine of pictures of unrelated prompts after and before training, same seeds (1: unchanged).
- kB: size of the file.

`prompt alignment` has `prompt_alignment_weight: {weight}`, every second step, for the concept's prompts with a
background (`target_prompts`), beside prior matching. Perfusion has a rate of 0.3 and gradients clipped at 10, chosen
on concepts 0 and 1, and, as LoRA, a cosine and three captions in ten that are the word alone. Means over the concepts,
and the values of each in brackets. {count} concepts and one seed are few: a difference of 0.1 is none. Machine:
{machine}.

{table}

{finding}

Perfusion is for prompts that go far from the pictures, and for small files; see [training.md](training.md). Prompt
alignment is for a run that is made for a few prompts; see [losses-and-tokens.md](losses-and-tokens.md).
"""


def main() -> None:
    """Measure the missing runs; when none is missing, write table and record."""
    arguments = options(__doc__, STEPS).parse_args()
    write_page(PAGE, compared("methods", arguments, planned(arguments.steps)), arguments.steps)


def planned(steps: int) -> Iterator[Planned]:
    """Every method on every concept."""
    judge = cache(partial(judge_and_sampler, TRIGGER))
    for name, method in METHODS.items():
        for seed in CONCEPTS:
            settings = {**COMMON, **method, "max_train_steps": steps}
            made = partial(measure, draw_concept(seed), settings, judge)
            yield Planned(f"{name}, concept {seed}", {"method": name, "concept": seed}, settings, made)


def measure(concept: Concept, settings: Mapping[str, Any], judge: Judge, shown: Concept | None = None) -> Row:
    """Train on the concept and return its measures. `shown`: the pictures and captions that are trained, where they are
    not those that the training is measured by."""
    asked = dict(settings)
    if "prompt_alignment_weight" in asked:
        subject = concept.subjects[0].format(trigger=TRIGGER)
        asked["target_prompts"] = [on_ground(subject, word) for word in concept.grounds]
    with tempfile.TemporaryDirectory() as scratch:
        data = (shown or concept).write_zip(Path(scratch) / "data.zip", TRIGGER)
        artifact, size = trained({**asked, "class_word": concept.class_word}, data, Path(scratch) / "out")
    judging, sampler = judge()
    with drawing_with(sampler, artifact) as draw:
        measures = judging.measure(concept, draw).row()
    return {**{name: measures[name] for name in MEASURED}, "kB": size}


def write_page(path: Path, rows: Sequence[Row], steps: int) -> None:
    """Write the table of means, and what it says."""
    names = (*MEASURED, "kB")
    table = [{"method": method, **{name: mean_and_values([row[name] for row in rows if row["method"] == method])
                                   for name in names}} for method in METHODS]  # fmt: skip
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
            table=markdown(table),
            finding=_finding(rows),
        ),
    )


def _finding(rows: Sequence[Row]) -> str:
    """Say of both methods what they change against the plain LoRA."""
    reference, *others = METHODS
    lines = []
    for other in others:
        changes = [f"{name} {_mean(rows, other, name) - _mean(rows, reference, name):+.2f}" for name in MEASURED]
        times = _mean(rows, reference, "kB") / _mean(rows, other, "kB")
        size = f"; its file is {times:.1f} times smaller" if times > 2 else ""
        lines.append(f"- {other}, against {reference}: {', '.join(changes)}{size}.")
    return "\n".join(lines)


def _mean(rows: Sequence[Row], method: str, name: str) -> float:
    return statistics.mean(row[name] for row in rows if row["method"] == method)


if __name__ == "__main__":
    main()
