"""Measures how long a training takes from the command to a good LoRA, and writes docs/time-to-quality.md.

python -m benchmarks.concepts.time_to_quality [--seeds 1000-1015] [--configs FILE ...] [--script FILE [--launcher FILE]]

For each concept and way to train, the shortest of LENGTHS with a good result is found by bisection: a training of each
length is a separate command, with the schedule of that length. Finished runs are kept, as in
benchmarks/concepts/report.py, which also describes the script.
"""

import argparse
import statistics
import sys
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from benchmarks.concepts.bases import draw_trained
from benchmarks.concepts.lottery import Concept, draw_concept
from benchmarks.concepts.report import Way, add_way_options, new_judge, ways
from benchmarks.concepts.seeds import REPORTING, parse_seeds
from benchmarks.concepts.trial import ConceptJudge, base_fingerprint, fingerprint
from benchmarks.finished_runs import FINISHED, FinishedRuns, Unfinished
from benchmarks.record import Row, machine_name, markdown
from families.loading.sources import EMBEDDED_BASE, EMBEDDED_BASES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "time-to-quality.md"
LENGTHS = (50, 75, 110, 165, 250, 375, 560, 840)
"""Steps of the trainings, each about 1.5 times the previous one."""
GOOD = {"likeness": 0.9, "likeness_elsewhere": 0.75, "grounds": 0.85}
"""Minimum measures of a good result: those for the mean of the reporting seeds (benchmarks/concepts/bases.py)."""
TEXT = """# Time to a good LoRA

Written by `python -m benchmarks.concepts.time_to_quality`: {concepts} randomly generated concepts, seeds {seeds} of
`benchmarks/concepts/`, one training seed, on mini-sdxl. A result is good if its samples reach a likeness of {likeness},
{likeness_elsewhere} for prompts with a background, and {grounds} of the latter have that background
([learning.md](learning.md) defines the measures). Among trainings of {lengths} steps,
the shortest good one is found by bisection. Each training is a separate command; its time is measured from the start of
the process to its end, without the sampling for the measures.

Not reached: no tested length was good; the median counts such a concept as longer than all others. `kept` (see
[learning.md](learning.md)) is that of the good result; it is not part of the rule.

Machine: {machine}. Commits: {commits}. CPU seconds are user and system time of the process: they vary less
than wall time if other processes are running.

## All concepts together

{summary}

## Each concept

{table}
"""


def main() -> None:
    """Search, print the summary and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=parse_seeds, default=REPORTING, help="of concepts, such as 0-3,7")
    add_way_options(parser)
    parser.add_argument("--runs", type=int, help="stop after so many new runs")
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    finished = FinishedRuns(FINISHED / "time_to_quality", arguments.runs)
    try:
        rows = searched(ways(arguments), arguments.seeds, finished)
    except Unfinished as missing:
        sys.exit(str(missing))
    print(markdown(summary(rows)))
    write_page(arguments.page, rows, arguments.seeds, finished.commits)


def searched(chosen: Sequence[Way], seeds: Sequence[int], finished: FinishedRuns) -> list[Row]:
    """Return the row of the shortest good training of each concept and way."""
    judge, base = cache(new_judge), base_fingerprint(EMBEDDED_BASES[EMBEDDED_BASE])
    rows: list[Row] = []
    for concept in map(draw_concept, seeds):
        for way in chosen:

            def trial(steps: int, concept: Concept = concept, way: Way = way) -> Row:
                settings = {"steps": steps, "concept": fingerprint(concept), "base": base, **way.settings}
                name = f"{way.name}, concept {concept.seed}, {steps} steps"
                return finished.get(name, settings, partial(_trained, way, concept, steps, judge))

            found = shortest_good(trial, LENGTHS)
            rows.append({"concept": f"{concept.seed}: {concept.kind}", "way": way.name, **found})
    return rows


def shortest_good(trial: Callable[[int], Row], lengths: Sequence[int]) -> Row:
    """Return steps, seconds and measures of the shortest good trial, by bisection, which assumes that all lengths above
    a good one are good, too. `steps` is None if the longest is not good; the figures are then those of this trial."""
    index = bisect_left(lengths, True, key=lambda steps: is_good(trial(steps)))
    reached = index < len(lengths)
    row = trial(lengths[index] if reached else lengths[-1])
    return {"steps": lengths[index] if reached else None, **row}


def is_good(row: Row) -> bool:
    """Whether the measures reach the values of GOOD."""
    return all(row[name] >= least for name, least in GOOD.items())


def _trained(way: Way, concept: Concept, steps: int, judge: Callable[[], ConceptJudge]) -> Row:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        usage = way.train(concept, folder, steps, 0)
        measures = judge().measure(concept, draw_trained(EMBEDDED_BASE, folder)).row()
    return {"seconds": round(usage.seconds, 1), "CPU seconds": round(usage.processor_seconds, 1), **measures}


def summary(rows: Sequence[Row]) -> list[Row]:
    """Return a row for each way: number of concepts with a good result, medians and the worst. A concept without a good
    result has infinite time."""
    table: list[Row] = []
    for way in dict.fromkeys(row["way"] for row in rows):
        own = [row for row in rows if row["way"] == way]
        reached = [row for row in own if row["steps"] is not None]
        found: dict[str, object] = {"way": way, "reached": f"{len(reached)} of {len(own)}"}
        for name in ("steps", "seconds", "CPU seconds"):
            values = [row[name] if row["steps"] is not None else float("inf") for row in own]
            found[f"median {name}"] = _cell(statistics.median_low(values))
            found[f"worst {name}"] = _cell(max(values))
        found["kept, mean"] = round(statistics.mean(row["kept"] for row in reached), 3) if reached else ""
        table.append(found)
    return table


def _cell(value: float) -> str:
    return "not reached" if value == float("inf") else f"{value:.0f}"


def write_page(path: Path, rows: Sequence[Row], seeds: Sequence[int], commits: set[str]) -> None:
    """Write summary and table to `path`."""
    columns = ("concept", "way", "steps", "seconds", "CPU seconds", *GOOD, "kept")
    table = [{name: row[name] for name in columns} for row in rows]
    for row in table:
        row["steps"] = row["steps"] or f"not reached in {LENGTHS[-1]}"
    path.write_text(
        TEXT.format(
            **GOOD,
            concepts=len(set(seeds)),
            seeds=f"{min(seeds)} to {max(seeds)}",
            lengths=", ".join(map(str, LENGTHS[:-1])) + f" and {LENGTHS[-1]}",
            machine=machine_name(),
            commits=", ".join(sorted(commits)),
            summary=markdown(summary(rows)),
            table=markdown(table),
        ),
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
