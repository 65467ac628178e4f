"""Trains on randomly generated concepts, measures the results, and writes docs/learning.md.

python -m benchmarks.concepts.report [--seeds 1000-1015] [--configs FILE ...] [--script FILE [--launcher FILE]]

Finished runs are kept, so that the command can be continued, also after --runs new ones. The script is diffusers'
examples/advanced_diffusion_training/train_dreambooth_lora_sdxl_advanced.py, fetched by hand. `--base mini-flow --page
docs/learning-flow.md` is the same for the base with flow matching, without a comparison with a script. `--configs
benchmarks/concepts/options/*.yaml --training-seeds 1 --page docs/learning-options.md` compares the options that helped
on the tuning concepts (docs/ablation.md).
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.concepts.bases import bar_rows, draw_trained, draw_untrained
from benchmarks.concepts.lottery import Concept, draw_concept
from benchmarks.concepts.page import new_picture_rows, summary, write_page
from benchmarks.concepts.seeds import REPORTING, TUNING, parse_seeds
from benchmarks.concepts.trial import SAMPLES, UNRELATED_PROMPTS, ConceptJudge, base_fingerprint, fingerprint
from benchmarks.finished_runs import FINISHED, FinishedRuns, Unfinished
from benchmarks.learning.contenders import DOCUMENTED, Usage, our_training, their_training
from benchmarks.learning.diffusers_results import TRIGGER
from benchmarks.record import Row, markdown
from evaluation.encoders import ClipEncoder
from families.loading.sources import EMBEDDED_BASE, EMBEDDED_BASES
from settings.record import read_settings_file

PAGE = Path(__file__).resolve().parents[2] / "docs" / "learning.md"
STEPS = 500
DEFAULTS, THEIRS = "train.py, defaults", "diffusers' script"
THEIR_BATCH, THEIR_RATE, THEIR_TOKEN_RATE = 4, 1.6e-3, 9.6e-3
"""Batch size and rates for diffusers' script: those of our defaults on this base."""


@dataclass(frozen=True)
class Way:
    """A way to train. `train(concept, folder, steps, seed)` writes its files to the folder, which must not exist.

    A finished run with other `settings` is repeated.
    """

    name: str
    train: Callable[[Concept, Path, int, int], Usage]
    settings: dict[str, Any] = field(default_factory=dict)


def ours(name: str, config: Path | None = None, base: str = EMBEDDED_BASE) -> Way:
    """`python train.py` with its defaults, or with a settings file."""
    options = [] if config is None else ["--config", config.resolve()]

    def train(concept: Concept, folder: Path, steps: int, seed: int) -> Usage:
        data = concept.write_zip(folder.with_suffix(".zip"), TRIGGER)
        return our_training([*options, "--class_word", concept.class_word], data, base)(folder, steps, seed)

    return Way(name, train, {} if config is None else dict(read_settings_file(config)))


def theirs(command: Sequence[Path]) -> Way:
    """Train with diffusers' script, at the rates of our defaults. It uses one prompt for all images."""
    changes = {"train_batch_size": THEIR_BATCH, "learning_rate": THEIR_RATE, "text_encoder_lr": THEIR_TOKEN_RATE}

    def train(concept: Concept, folder: Path, steps: int, seed: int) -> Usage:
        photos = concept.write_folder(folder.with_name("photos"), TRIGGER)
        flags = [part for name, value in changes.items() for part in (f"--{name}", value)]
        return their_training(command, photos, [*DOCUMENTED, *flags])(folder, steps, seed)

    return Way(THEIRS, train, dict(changes))


def add_way_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for `ways`."""
    parser.add_argument(
        "--configs", type=Path, nargs="*", default=[], help="settings files, in addition to the defaults"
    )
    parser.add_argument("--script", type=Path, help="diffusers' training script")
    parser.add_argument("--launcher", type=Path, help="runs the script if torchvision is not installed")


def ways(arguments: argparse.Namespace, base: str = EMBEDDED_BASE) -> list[Way]:
    """Return the compared ways."""
    chosen = [ours(DEFAULTS, base=base), *(ours(f"train.py, {path.name}", path, base) for path in arguments.configs)]
    if arguments.script:
        launcher = [arguments.launcher.resolve()] if arguments.launcher else []
        chosen.append(theirs([*launcher, arguments.script.resolve()]))
    return chosen


@dataclass(frozen=True)
class Job:
    """The trainings and their evaluation. `evaluator`: mini-sdxl, or a hub id or folder of a CLIP. `base`: the name of
    an embedded base."""

    seeds: tuple[int, ...]
    training_seeds: int
    steps: int
    evaluator: str = EMBEDDED_BASE
    base: str = EMBEDDED_BASE


def measured(chosen: Sequence[Way], job: Job, finished: FinishedRuns) -> list[Row]:
    """Return a row for each way, concept and training seed."""
    judge, base = cache(partial(new_judge, job.base, job.evaluator)), base_fingerprint(EMBEDDED_BASES[job.base])
    rows: list[Row] = []
    for concept in map(draw_concept, job.seeds):
        settings = {
            "steps": job.steps,
            "concept": fingerprint(concept),
            "base": base,
            "evaluator": job.evaluator,
        }
        for way in chosen:
            for seed in range(job.training_seeds):
                name = f"{way.name}, concept {concept.seed}, seed {seed}"
                made = partial(_trained, way, concept, job, seed, judge)
                row = finished.get(name, {**settings, **way.settings}, made)
                rows.append({"way": way.name, "concept": f"{concept.seed}: {concept.kind}", "seed": seed, **row})
    return rows


def _trained(way: Way, concept: Concept, job: Job, seed: int, judge: Callable[[], ConceptJudge]) -> Row:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        way.train(concept, folder, job.steps, seed)
        return judge().measure(concept, draw_trained(job.base, folder)).row()


def new_judge(base: str = EMBEDDED_BASE, evaluator: str = EMBEDDED_BASE) -> ConceptJudge:
    """A judge of trainings of `base`. `evaluator`: as of Job."""
    return ConceptJudge(ClipEncoder(evaluator).embed, draw_untrained(base), TRIGGER)


def main() -> None:
    """Train, measure, print the summary and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=parse_seeds, default=REPORTING, help="of concepts, such as 0-3,7")
    parser.add_argument("--training-seeds", type=int, default=3, help="number of trainings of each concept")
    add_way_options(parser)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--base", choices=EMBEDDED_BASES, default=EMBEDDED_BASE)
    parser.add_argument("--evaluator", default=EMBEDDED_BASE, help="a CLIP: mini-sdxl, a hub id or a folder")
    parser.add_argument("--runs", type=int, help="stop after so many new runs")
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    if arguments.script and arguments.base != EMBEDDED_BASE:
        parser.error(f"--script only supports SDXL, so it cannot be compared on {arguments.base}; leave it out")
    job = Job(arguments.seeds, arguments.training_seeds, arguments.steps, arguments.evaluator, arguments.base)
    folder = "concepts" if job.base == EMBEDDED_BASE else f"concepts-{job.base}"
    finished = FinishedRuns(FINISHED / folder, arguments.runs)
    try:
        rows = measured(ways(arguments, job.base), job, finished)
    except Unfinished as missing:
        sys.exit(str(missing))
    beside = [*new_picture_rows(job.seeds), *bar_rows(job.base)]
    print(markdown([*summary(rows), *beside]))
    settings = {
        "command": _command(arguments, job.base),
        "seeds": f"{min(arguments.seeds)} to {max(arguments.seeds)}",
        "training_seeds": arguments.training_seeds,
        "steps": arguments.steps,
        "samples": SAMPLES,
        "unrelated": UNRELATED_PROMPTS,
        "evaluator": job.evaluator,
        "base": job.base,
        "commits": ", ".join(sorted(finished.commits)),
    }
    write_page(arguments.page, rows, beside, settings, for_tuning=bool(set(arguments.seeds) & set(TUNING)))


def _command(arguments: argparse.Namespace, base: str) -> str:
    """Return the command as the page names it."""
    parts = ["python -m benchmarks.concepts.report", f"--training-seeds {arguments.training_seeds}"]
    if arguments.seeds != REPORTING:
        parts.append(f"--seeds {','.join(map(str, arguments.seeds))}")
    if arguments.steps != STEPS:
        parts.append(f"--steps {arguments.steps}")
    if arguments.evaluator != EMBEDDED_BASE:
        parts.append(f"--evaluator {arguments.evaluator}")
    if base != EMBEDDED_BASE:
        parts.append(f"--base {base}")
    if arguments.configs:
        parts.append(f"--configs {' '.join(map(str, arguments.configs))}")
    if arguments.script:
        parts.append("--script FILE")
    if arguments.page != PAGE:
        parts.append(f"--page {arguments.page}")
    return " ".join(parts)


if __name__ == "__main__":
    main()
