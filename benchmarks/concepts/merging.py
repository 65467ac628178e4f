"""Trains a subject and a style separately, merges them in every mode, measures the merged LoRAs, and writes
docs/merging.md.

python -m benchmarks.concepts.merging [--pairs 3] [--steps 80] [--runs N]

Finished pairs are kept, so that the command can be continued.
"""

import argparse
import statistics
import sys
import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from artifact.artifact import Artifact
from artifact.merging.merge import merge
from benchmarks.concepts.lottery import Concept, draw_concept, on_ground
from benchmarks.concepts.measures import likeness, on_named_ground
from benchmarks.finished_runs import FINISHED, FinishedRuns, Unfinished
from benchmarks.record import Row, machine_name, markdown, write_record
from evaluation.encoders import ClipEncoder
from families.loading.sources import EMBEDDED_BASE
from families.registry import load_base_model
from job.output_folder import OutputFolder
from job.run import run
from sampler.sampler import Sampler, SampleRequest
from settings.training import build_config

PAGE = Path(__file__).resolve().parents[2] / "docs" / "merging.md"
PAIRS = ((1, 2), (5, 6), (9, 10), (13, 14))
"""Tuning seeds of objects, and of styles."""
FEWEST = 3
"""Minimum number of pairs for preferring a mode: with one, a difference of 0.1 is not significant."""
RANK, STEPS = 8, 80
SUBJECT, STYLE = "THG", "STY"
BOTH = "a photo of {} in the style of {}"
SAMPLES_OF_A_GROUND, INFERENCE_STEPS, GUIDANCE = 2, 10, 6.0
MEASURES = ("subject", "style", "prompt")
MODES: Mapping[str, Mapping[str, Any]] = {
    "concat": {},
    "ties, rank 16": {"mode": "ties", "rank": 2 * RANK},
    "dare, rank 16": {"mode": "dare", "rank": 2 * RANK},
    "klora": {"mode": "klora"},
    "ziplora": {"mode": "ziplora", "base": EMBEDDED_BASE,
                "prompts": [f"a photo of {SUBJECT}", f"a photo in the style of {STYLE}"]},
    "closed-form": {"mode": "closed-form", "base": EMBEDDED_BASE},
}  # fmt: skip
TEXT = """# Subject and style in one LoRA

Written by `python -m benchmarks.concepts.merging --pairs {pairs} --steps {steps}`. For {pairs} pairs of a synthetic
object and a synthetic style (benchmarks/concepts, tuning seeds), two LoRAs are trained on the embedded base model, each
with its own training seed, rank {rank} and {steps} steps. They are merged with `python -m artifact merge` in every
mode, weights 1 and 1, and sampled with "{prompt} on a … background".

- subject, style: mean cosine similarity of the samples to the training images of the object and of the style, divided
  by that of the training images to each other (1 is the maximum). One image cannot reach 1 in both.
- prompt: share of the samples with the background that the prompt names.

The table has the mean over the pairs ± the standard deviation. "subject alone" and "style alone" are the two files
before merging, with the same prompts without the other's trigger word. There are {samples} samples for each of the
object's backgrounds (4 to 8), with {inference} denoising steps. These are short trainings on a small base model; the
order may differ on SDXL.
Machine: {machine}.

{table}

{finding}
"""


def main() -> None:
    """Measure the missing pairs; when none is missing, write table and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, choices=range(1, len(PAIRS) + 1))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--runs", type=int, help="stop after so many new pairs")
    arguments = parser.parse_args()
    finished = FinishedRuns(FINISHED / "merging", arguments.runs)
    rows: list[Mapping[str, Mapping[str, float]]] = []
    try:
        for subject, style in PAIRS[: arguments.pairs]:
            settings = {"steps": arguments.steps, "rank": RANK, "modes": list(MODES)}
            made = partial(measure, subject, style, arguments.steps)
            rows.append(finished.get(f"{subject} and {style}", settings, made))
    except Unfinished as missing:
        sys.exit(str(missing))
    write_record("merging", rows, {"pairs": PAIRS[: arguments.pairs], "steps": arguments.steps})
    write_page(PAGE, rows, arguments.steps)


def measure(subject: int, style: int, steps: int) -> Row:
    """Train both, merge them in every mode, and return the measures by mode."""
    thing, look = draw_concept(subject), draw_concept(style)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = [_trained(thing, SUBJECT, steps, folder / "subject"), _trained(look, STYLE, steps, folder / "style")]
        judge = _judge(thing, look)
        found: dict[str, Row] = {
            "subject alone": judge(files[0], f"a photo of {SUBJECT}"),
            "style alone": judge(files[1], f"a photo of a {thing.class_word} in the style of {STYLE}"),
        }
        for name, options in MODES.items():
            target = folder / f"{len(found)}.safetensors"
            merge(files, [1.0, 1.0], target, **options)
            found[name] = judge(target, BOTH.format(SUBJECT, STYLE))
    return found


def _trained(concept: Concept, trigger: str, steps: int, folder: Path) -> Path:
    config = build_config(
        {"base_model": EMBEDDED_BASE, "trigger_word": trigger, "class_word": concept.class_word, "rank": RANK,
         "max_train_steps": steps, "seed": concept.seed, "num_validation_images": 0, "evaluate": "false",
         "learning_rate": 2e-3, "token_learning_rate": 2e-2}
    )  # fmt: skip
    data = concept.write_zip(folder.with_suffix(".zip"), trigger)
    output = OutputFolder.create(folder)
    for _ in run(config, [data], output):
        pass
    return output.weights


def _judge(thing: Concept, look: Concept) -> Callable[[Path, str], dict[str, float]]:
    """Return a function that measures a file by its samples for a prompt, with every background of the thing."""
    sampler = Sampler(load_base_model(EMBEDDED_BASE, torch.float32))
    side = sampler.family.native_resolution
    embed = ClipEncoder().embed
    things, looks = embed(thing.pictures), embed(look.pictures)

    def measured(path: Path, prompt: str) -> dict[str, float]:
        sampler.load(Artifact.read(path))
        pictures: list[Image.Image] = []
        for word in thing.grounds:
            request = SampleRequest(
                prompt=on_ground(prompt, word), width=side, height=side, num_outputs=SAMPLES_OF_A_GROUND,
                num_inference_steps=INFERENCE_STEPS, guidance_scale=GUIDANCE, seed=0,
            )  # fmt: skip
            pictures += sampler.generate(request)
        sampler.unload()
        drawn, grounds = embed(pictures), [word for word in thing.grounds for _ in range(SAMPLES_OF_A_GROUND)]
        values = (likeness(drawn, things), likeness(drawn, looks), on_named_ground(pictures, grounds))
        return dict(zip(MEASURES, values, strict=True))

    return measured


def write_page(path: Path, rows: Sequence[Mapping[str, Mapping[str, float]]], steps: int) -> None:
    """Write the table of means and standard deviations, and the conclusion."""
    table = [{"merge": mode, **{name: _spread([row[mode][name] for row in rows]) for name in MEASURES}}
             for mode in rows[0]]  # fmt: skip
    path.write_text(
        TEXT.format(
            pairs=len(rows),
            steps=steps,
            rank=RANK,
            prompt=BOTH.format(SUBJECT, STYLE),
            samples=SAMPLES_OF_A_GROUND,
            inference=INFERENCE_STEPS,
            machine=machine_name(),
            table=markdown(table),
            finding=_finding(rows),
        ),
        encoding="utf-8",
    )


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def _finding(rows: Sequence[Mapping[str, Mapping[str, float]]]) -> str:
    """The number of pairs in which each mode exceeds concat in both likenesses, and the conclusion."""
    wins = {mode: sum(all(row[mode][name] > row["concat"][name] for name in ("subject", "style")) for row in rows)
            for mode in MODES if mode != "concat"}  # fmt: skip
    listed = ", ".join(f"{mode} {count}" for mode, count in wins.items())
    best = [mode for mode, count in wins.items() if count == len(rows)]
    verdict = f"{' and '.join(best)} won in all pairs" if best else "no mode won in all pairs: start with concat"
    if len(rows) < FEWEST:
        verdict = "so few pairs do not favour a mode: start with concat"
    return textwrap.fill(
        f"Pairs, of {len(rows)}, in which both similarities exceed those of concat: {listed}; {verdict}.", 120
    )


if __name__ == "__main__":
    main()
