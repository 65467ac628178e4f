"""What each option of the trainer does to what is learned, kept, and to the time of a step, on the embedded base.

python -m benchmarks.learning.ablation [--seeds 3] [--runs N] [--only TEXT]

Every option is trained alone, against a reference with the trainer's defaults. Finished runs are kept: the command goes
on where it was stopped, or had made its N. At the end it writes benchmarks/results/ablation.json and docs/ablation.md.
"""

import argparse
import io
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from PIL import Image

from artifact.artifact import Artifact
from benchmarks.finished_runs import FINISHED, FinishedRuns, Unfinished
from benchmarks.learning.ablation_table import write_page
from benchmarks.learning.ablation_variants import REFERENCE, VARIANTS, Variant
from benchmarks.learning.measures import Draw, LearningJudge, Protocol
from benchmarks.record import Row, write_record
from families.loading.sources import EMBEDDED_BASE
from job.output_folder import OutputFolder
from job.run import run
from sampler.generation import Generation
from sampler.sampler import Sampler, SampleRequest
from settings.command_line.parser import CommandParser
from settings.record import ConfigError
from settings.training import build_config
from tools.before_after import GUIDANCE_SCALE
from trainer.optimizers.extras import require_available

PROJECT = Path(__file__).resolve().parents[2]
EXAMPLE = PROJECT / "assets" / "examples" / "robot.zip"
PAGE = PROJECT / "docs" / "ablation.md"
PROTOCOL = Protocol(concept_samples=8, samples_of_a_background=1, unrelated_prompts=8, inference_steps=10)
SCORES = ("concept", "prompt", "prior")
MEASURED = (*SCORES, "steps/s")


def main() -> None:
    """Train the missing runs; when none is missing, write table and record."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=int, help="stop after so many new runs")
    parser.add_argument("--only", default="", help="only options with this in their name or group; nothing is written")
    arguments = parser.parse_args()
    finished = FinishedRuns(FINISHED / "ablation", arguments.runs)
    try:
        rows = measure_all(arguments.seeds, finished, arguments.only)
    except Unfinished as missing:
        sys.exit(str(missing))
    if not arguments.only:
        settings = {"seeds": arguments.seeds, "reference": dict(REFERENCE), "measured_at": sorted(finished.commits)}
        write_record("ablation", rows, settings)
        write_page(PAGE, rows, REFERENCE, arguments.seeds)


def measure_all(seeds: int, finished: FinishedRuns, only: str = "") -> list[Row]:
    """A row an option: mean and spread over seeds of what is MEASURED.

    Seed after seed, so that an early stop leaves some seeds of every option. Options that cannot run here are left out.
    """
    wanted = [each for each in VARIANTS if only in f"{each.group}, {each.name}" and _available(each)]
    judge = cache(_judge)
    found: list[list[Row]] = [[] for _ in wanted]
    for seed in range(seeds):
        for rows, variant in zip(found, wanted, strict=True):
            settings = {**variant.settings, "seed": seed}
            name = f"{variant.group}, {variant.name}, seed {seed}"
            rows.append(finished.get(name, settings, partial(measure, settings, judge)))
    return [_summary(variant, rows) for variant, rows in zip(wanted, found, strict=True)]


def measure(settings: Mapping[str, Any], judge: Callable[[], LearningJudge]) -> Row:
    """Train and score. Speed is in steps per second of CPU time, which depends less on other processes than wall
    time."""
    with tempfile.TemporaryDirectory() as folder:
        output = OutputFolder.create(Path(folder) / "out")
        config = build_config(settings)
        times = [time.process_time() for each in run(config, [EXAMPLE], output) if each.step and not each.warning]
        artifact = Artifact.read(output.weights)
    judging, sampler = judge(), _sampler()  # the judge samples the base, so it comes first
    sampler.load(artifact)
    try:
        scores = judging.score(sampler_draw(sampler), config.trigger_word, str(config.class_word))
    finally:
        sampler.unload()
    return {**scores.row(), "steps/s": round((len(times) - 1) / (times[-1] - times[0]), 2)}


def sampler_draw(sampler: Sampler) -> Draw:
    """Return a function that samples with the sampler's current weights, each prompt with the next seed."""

    def draw(prompts: Sequence[str]) -> list[Image.Image]:
        requests = [
            SampleRequest(
                prompt=prompt,
                seed=seed,
                num_inference_steps=PROTOCOL.inference_steps,
                guidance_scale=GUIDANCE_SCALE,
            )
            for seed, prompt in enumerate(prompts)
        ]
        return [picture for (picture,) in sampler.generate_several(requests)]

    return draw


@cache
def _sampler() -> Sampler:
    return Generation().prepare(None, EMBEDDED_BASE)


def _judge() -> LearningJudge:
    with zipfile.ZipFile(EXAMPLE) as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        photos = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    return LearningJudge(photos, sampler_draw(_sampler()), PROTOCOL)


def _available(variant: Variant) -> bool:
    try:
        require_available(variant.settings.get("optimizer", "adamw"))
    except ConfigError as error:
        print(f"left out: {error}", file=sys.stderr)
        return False
    return True


def _summary(variant: Variant, rows: Sequence[Row]) -> Row:
    """Return means, and the standard deviation of scores over seeds."""
    means = {name: statistics.mean(row[name] for row in rows) for name in MEASURED}
    spread = {f"{name} ±": statistics.stdev(row[name] for row in rows) if len(rows) > 1 else 0.0 for name in SCORES}
    return {"group": variant.group, "option": variant.name, **means, **spread}


if __name__ == "__main__":
    main()
