"""Compares runs that end when their samples have settled with runs of a fixed length, and writes docs/lengths.md.

python -m benchmarks.concepts.lengths [--seeds 1000-1015] [--runs N]

One training seed. Finished runs are kept; those of the fixed length are shared with benchmarks/concepts/report.py.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from benchmarks.concepts.bases import draw_trained
from benchmarks.concepts.lottery import Concept, draw_concept
from benchmarks.concepts.measures import MEASURES
from benchmarks.concepts.page import by_concept, summary
from benchmarks.concepts.report import DEFAULTS, STEPS, Job, measured, new_judge, ours
from benchmarks.concepts.seeds import REPORTING, parse_seeds
from benchmarks.concepts.trial import base_fingerprint, fingerprint
from benchmarks.finished_runs import FINISHED, FinishedRuns, Unfinished
from benchmarks.learning.contenders import our_training
from benchmarks.learning.diffusers_results import TRIGGER
from benchmarks.record import Row, machine_name, markdown
from families.loading.sources import EMBEDDED_BASE, EMBEDDED_BASES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "lengths.md"
MOST_STEPS = 1500
SETTLED = "until samples have settled"
TEXT = """# A fixed length, and `stop_when_settled`

Written by `python -m benchmarks.concepts.lengths`: {concepts} randomly generated concepts, seeds {seeds} of
`benchmarks/concepts/`, one training seed, the trainer's defaults on mini-sdxl. Compared are a fixed length of {fixed}
steps, and `stop_when_settled: true` with at most {most} steps ([training.md](training.md) describes when it ends a
run). The measures are those of [learning.md](learning.md); `stop_when_settled` uses its own samples, with other prompts
and seeds.

Machine: {machine}. Commits: {commits}.

## All concepts together

Steps: length of the whole run. Returned: the step whose weights are returned.

{lengths}

Worst: the worst concept.

{summary}

## Each concept

{table}
"""


def main() -> None:
    """Run the missing trainings, print the summary and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=parse_seeds, default=REPORTING, help="of concepts, such as 0-3,7")
    parser.add_argument("--runs", type=int, help="stop after so many new runs")
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    settled = FinishedRuns(FINISHED / "lengths", arguments.runs)
    fixed = FinishedRuns(FINISHED / "concepts", arguments.runs)
    try:
        rows = settled_runs(arguments.seeds, settled)
        beside = measured([ours(DEFAULTS)], Job(arguments.seeds, 1, STEPS), fixed)
    except Unfinished as missing:
        sys.exit(str(missing))
    print(markdown(summary([*beside, *rows])))
    write_page(arguments.page, beside, rows, arguments.seeds, settled.commits | fixed.commits)


def settled_runs(seeds: Sequence[int], finished: FinishedRuns) -> list[Row]:
    """Return a row for each concept: its measures, `steps`, `returned` and `ended`, the reason."""
    judge = cache(new_judge)
    base = base_fingerprint(EMBEDDED_BASES[EMBEDDED_BASE])
    rows: list[Row] = []
    for concept in map(draw_concept, seeds):
        settings = {"most steps": MOST_STEPS, "concept": fingerprint(concept), "base": base}

        def run(concept: Concept = concept) -> Row:
            with tempfile.TemporaryDirectory() as scratch:
                row = train_until_settled(concept, Path(scratch) / "run")
                return {**row, **judge().measure(concept, draw_trained(EMBEDDED_BASE, Path(scratch) / "run")).row()}

        row = finished.get(f"settled, concept {concept.seed}", settings, run)
        rows.append({"way": SETTLED, "concept": f"{concept.seed}: {concept.kind}", "seed": 0, **row})
    return rows


def train_until_settled(concept: Concept, folder: Path) -> Row:
    """Train into `folder`, which must not exist. Return how the run ended."""
    data = concept.write_zip(folder.with_suffix(".zip"), TRIGGER)
    options = ["--stop_when_settled", "true", "--class_word", concept.class_word]
    usage = our_training(options, data)(folder, MOST_STEPS, 0)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {
        "steps": report["ending"]["looks"][-1]["step"],
        "returned": report["steps"],
        "ended": report["ending"]["headline"],
        "CPU seconds": round(usage.processor_seconds, 1),
    }


def lengths(rows: Sequence[Row]) -> list[Row]:
    """Return the steps of the runs and of their returned weights: minimum, median and maximum."""
    return [
        {"of the runs": name, "least": min(values), "median": statistics.median_low(values), "most": max(values)}
        for name in ("steps", "returned")
        for values in [[row[name] for row in rows]]
    ]


def write_page(
    path: Path, fixed: Sequence[Row], settled: Sequence[Row], seeds: Sequence[int], commits: set[str]
) -> None:
    """Write the page with both ways, for all concepts together and for each."""
    of_settled = {row["concept"]: {name: row[name] for name in ("steps", "returned")} for row in settled}
    usual = {"steps": STEPS, "returned": STEPS}
    table = [
        {"concept": row["concept"], "way": row["way"]}
        | (of_settled[row["concept"]] if row["way"] == SETTLED else usual)
        | {name: row[name] for name in MEASURES}
        for row in by_concept([*fixed, *settled])
    ]
    path.write_text(
        TEXT.format(
            concepts=len(set(seeds)),
            seeds=f"{min(seeds)} to {max(seeds)}",
            fixed=STEPS,
            most=MOST_STEPS,
            machine=machine_name(),
            commits=", ".join(sorted(commits)),
            lengths=markdown(lengths(settled)),
            summary=markdown(summary([*fixed, *settled])),
            table=markdown(table),
        ),
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
