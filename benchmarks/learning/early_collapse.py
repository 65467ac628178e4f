"""Measures the likeness of samples to the concept and to the base early in a run, to detect a temporary collapse.

python -m benchmarks.learning.early_collapse [--seed N] [--set NAME=VALUE …]

The samples of a model that collapses resemble neither those of the base nor the concept. The likeness of the concept's
images to the base's samples before training is the lower limit (floor): during training, samples should never be less
similar to either of them.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from artifact.artifact import Artifact
from benchmarks.record import write_record
from evaluation.encoders import ClipEncoder
from evaluation.similarity import mean_similarity
from families.loading.sources import EMBEDDED_BASE
from job.output_folder import OutputFolder
from job.run import run
from sampler.generation import Generation
from sampler.sampler import SampleRequest
from settings.command_line.parser import CommandParser
from settings.record import parse_settings, read_settings_file
from settings.training import build_config
from tools.before_after import GUIDANCE_SCALE

PROJECT = Path(__file__).resolve().parents[2]
STEPS = (10, 20, 40, 80, 160)
SAMPLES, INFERENCE_STEPS = 8, 15
TOLERANCE = 0.05
"""Tolerance of a mean over eight samples."""


def measure(settings: Mapping[str, Any], steps: Sequence[int] = STEPS) -> list[dict[str, float]]:
    """Train on the example, and score the samples at `steps`. The first row, step 0, is the base: its `to_concept` is
    the floor."""
    length = {"max_train_steps": max(steps), "checkpointing_steps": min(steps)}
    example = read_settings_file(PROJECT / "configs" / "demo.yaml")
    quiet = {"num_validation_images": 0, "evaluate": "false"}
    config = build_config({**example, **length, **quiet, **settings})
    with tempfile.TemporaryDirectory() as folder:
        output = OutputFolder.create(Path(folder) / "out")
        for _ in run(config, [PROJECT / "assets" / "examples" / "robot.zip"], output):
            pass
        photos = [Image.open(path).convert("RGB") for path in sorted((output.dataset / "images").glob("*.png"))]
        files = [output.checkpoints / f"step_{step:06d}" / "weights.safetensors" for step in steps]
        return _score(photos, [Artifact.read(file) for file in files], steps, config.seed)


def fell(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the steps with samples less similar to concept or base than the floor. Empty without a collapse."""
    floor = rows[0]["to_concept"] - TOLERANCE
    return [
        f"step {row['step']}: {name} {row[name]:.3f} < {floor:.3f}"
        for row in rows[1:]
        for name in ("to_concept", "to_base")
        if row[name] < floor
    ]


def _score(
    photos: Sequence[Image.Image], artifacts: Sequence[Artifact], steps: Sequence[int], seed: int
) -> list[dict[str, float]]:
    evaluator, sampler = ClipEncoder(), Generation().prepare(None, EMBEDDED_BASE)

    def draw(word: str) -> list[Image.Image]:
        return sampler.generate(
            SampleRequest(
                prompt=f"a photo of {word}",
                num_outputs=SAMPLES,
                seed=seed,
                num_inference_steps=INFERENCE_STEPS,
                guidance_scale=GUIDANCE_SCALE,
            )
        )

    concept, base = evaluator.embed(photos), evaluator.embed(draw("figure"))
    rows: list[dict[str, float]] = [{"step": 0, "to_concept": mean_similarity(base, concept), "to_base": 1.0}]
    for step, artifact in zip(steps, artifacts, strict=True):
        sampler.load(artifact)
        samples = evaluator.embed(draw("TOK"))
        rows.append({"step": step, "to_concept": mean_similarity(samples, concept),
                     "to_base": mean_similarity(samples, base)})  # fmt: skip
    sampler.unload()
    return rows


def main() -> None:
    """Print the table, and write it to benchmarks/results."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other settings of the training")
    arguments = parser.parse_args()
    text = "\n".join(each.replace("=", ": ", 1) for each in arguments.set)
    settings = {**parse_settings(text, "--set"), "seed": arguments.seed}
    rows = measure(settings)
    print("| step | to the concept | to the base |\n|---|---|---|")
    for row in rows:
        print(f"| {row['step']} | {row['to_concept']:.3f} | {row['to_base']:.3f} |")
    print("\n".join(fell(rows)) or "never below what both had before")
    write_record("early_collapse", rows, settings)


if __name__ == "__main__":
    main()
