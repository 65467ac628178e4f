"""What each option of the trainer does to what is learned, kept, and to the time of a step, on concepts drawn by lot.

python -m benchmarks.learning.ablation [--concepts 0-3] [--seeds 3] [--runs N] [--only TEXT ...]

Every option is trained alone, against a reference with the trainer's defaults, on tuning concepts of
benchmarks/concepts. Finished runs are kept: the command goes on where it was stopped, or had made its N. At the end it
writes benchmarks/results/ablation.json and docs/ablation.md. `--runs 0` writes them with the training seeds that are
finished of each option, and names the options that have none.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

from artifact.artifact import Artifact
from benchmarks.concepts.in_process import Judge, drawing_with, judge_and_sampler
from benchmarks.concepts.lottery import Concept, draw_concept
from benchmarks.concepts.seeds import TUNING, parse_seeds
from benchmarks.concepts.trial import base_fingerprint, fingerprint
from benchmarks.finished_runs import FINISHED, FinishedRuns, Unfinished
from benchmarks.learning.ablation_table import MEASURED, write_page
from benchmarks.learning.ablation_variants import REFERENCE, VARIANTS, Variant
from benchmarks.record import Row, write_record
from families.loading.sources import EMBEDDED_BASE_FOLDER
from job.output_folder import OutputFolder
from job.run import run
from settings.command_line.parser import CommandParser
from settings.record import ConfigError
from settings.training import build_config
from trainer.optimizers.extras import require_available

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ablation.md"
CONCEPTS = (0, 1, 2, 3)
"""Tuning seeds, one of each kind: a figure, an object, a style, a pair."""


def main() -> None:
    """Train the missing runs; when none is missing, write table and record."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", type=parse_seeds, default=CONCEPTS, help="tuning seeds, such as 0-3")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each option on each concept")
    parser.add_argument("--runs", type=int, help="stop after so many new runs")
    parser.add_argument(
        "--only",
        nargs="+",
        default=(),
        metavar="TEXT",
        help="only options with one of these texts in their group and name; nothing is written",
    )
    arguments = parser.parse_args()
    if not set(arguments.concepts) <= set(TUNING):
        parser.error(f"--concepts: options are compared to choose among them, so only {TUNING[0]} to {TUNING[-1]}")
    finished = FinishedRuns(FINISHED / "ablation", arguments.runs)
    wanted = [each for each in VARIANTS if _is_wanted(each, arguments.only) and _available(each)]
    rows, missing = measure_all(wanted, arguments.concepts, arguments.seeds, finished)
    if arguments.runs != 0 and len(rows) < len(wanted) * len(arguments.concepts) * arguments.seeds:
        sys.exit("some runs are missing; run the same command again to continue")
    if not arguments.only:
        settings = {
            "concepts": list(arguments.concepts),
            "reference": dict(REFERENCE),
            "missing": missing,
            "measured_at": sorted(finished.commits),
        }
        write_record("ablation", rows, settings)
        write_page(PAGE, rows, REFERENCE, arguments.concepts, missing)


def measure_all(
    variants: Sequence[Variant], concepts: Sequence[int], seeds: int, finished: FinishedRuns
) -> tuple[list[Row], list[str]]:
    """Return a row for each run (option, concept, training seed, and what is MEASURED), and the options without rows.

    Seed after seed, so that an early stop leaves some seeds of every option. A training seed counts for an option if
    its runs on all concepts are finished, for the option and for the reference, which is the first of `variants`.
    """
    judges, base = cache(partial(judge_and_sampler, REFERENCE["trigger_word"])), base_fingerprint(EMBEDDED_BASE_FOLDER)
    drawn = [draw_concept(seed) for seed in concepts]
    rows: list[Row] = []
    unfinished: set[tuple[str, int]] = set()
    for seed, variant, concept in product(range(seeds), variants, drawn):
        settings = {**variant.settings, "seed": seed}
        known = {**settings, "pictures": fingerprint(concept), "base": base}
        name = f"{variant.group}, {variant.name}, concept {concept.seed}, seed {seed}"
        place = {"group": variant.group, "option": variant.name, "concept": concept.seed, "seed": seed}
        try:
            rows.append({**place, **finished.get(name, known, partial(measure, concept, settings, judges))})
        except Unfinished:
            unfinished.add((variant.name, seed))
    unpaired = {seed for option, seed in unfinished if option == variants[0].name}
    complete = [row for row in rows if (row["option"], row["seed"]) not in unfinished and row["seed"] not in unpaired]
    measured = {row["option"] for row in complete}
    return complete, [variant.name for variant in variants if variant.name not in measured]


def measure(concept: Concept, settings: Mapping[str, Any], judges: Judge) -> Row:
    """Train and score. Speed is in steps per second of CPU time, which depends less on other processes than wall
    time."""
    with tempfile.TemporaryDirectory() as folder:
        data = concept.write_zip(Path(folder) / "data.zip", settings["trigger_word"], "mask" in settings)
        output = OutputFolder.create(Path(folder) / "out")
        config = build_config({**settings, "class_word": concept.class_word})
        times = [time.process_time() for each in run(config, [data], output) if each.step and not each.warning]
        artifact = Artifact.read(output.weights)
    judge, sampler = judges()
    with drawing_with(sampler, artifact) as draw:
        scores = judge.measure(concept, draw).row()
    speed = (len(times) - 1) / (times[-1] - times[0])
    return {**{name: scores[name] for name in MEASURED}, "steps/s": round(speed, 2)}


def _is_wanted(variant: Variant, texts: Sequence[str]) -> bool:
    return not texts or any(text in f"{variant.group}, {variant.name}" for text in texts)


def _available(variant: Variant) -> bool:
    try:
        require_available(variant.settings.get("optimizer", "adamw"))
    except ConfigError as error:
        print(f"left out: {error}", file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    main()
