"""The page that benchmarks/concepts/report.py writes."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import paired
from benchmarks.concepts.lottery import draw_concept, new_pictures
from benchmarks.concepts.measures import MEASURES, SMALLER_IS_BETTER, copies
from benchmarks.record import Row, machine_name, markdown

PAGE = """# Training on randomly generated concepts

Written by:

    {command}

{concepts} randomly generated concepts, seeds {seeds} of `benchmarks/concepts/`, are trained one at a time with
{trainings} each, {steps} steps on {base}. A concept is a random figure, object, style or pair:
eight images with different backgrounds ("grounds"), and captions that name the background. Images are compared by the
evaluator {evaluator}.

{purpose}

Machine: {machine}. Commits: {commits}.

- likeness: mean cosine similarity of {samples} samples and the training images, divided by that of the training images
  to each other.
- likeness_elsewhere: the same for prompts with a background.
- gain: increase of the likeness over the base model with the same prompts and seeds.
- grounds: share of samples with the background of the prompt, measured by the colours of their borders.
- kept: mean cosine similarity of images of {unrelated} unrelated prompts before and after training, with the same seeds
  (1: unchanged).
- copies: share of samples that are near-duplicates of a training image: their distance to it is less than half of the
  distance between the two nearest training images. Prompts use backgrounds of the training images, so a correct sample
  can be as near by chance: the table has the share for {new} new images of each concept, which were generated like the
  training images and not trained.

## All concepts together

Worst: the worst concept, each averaged over its training seeds. Spread: standard deviation of the mean of all concepts
over the training seeds. Bar: the minimum that the defaults must reach on the reporting seeds; it was set before any
training on them.

{summary}
{differences}
## Each concept

Means over the training seeds.

{concept_rows}
"""
DIFFERENCES = """
## Differences

From {reference}: mean over the concepts ± standard deviation, each concept averaged over its training seeds.
Bold differences are significant: paired t-test over the concepts, false discovery rate of 5 % among the rows of a
measure (Benjamini and Hochberg).

{table}
"""
NEW_PICTURES = 40
CHOSEN_BY = "Settings may be chosen by these seeds, so the results do not apply to other concepts."
REPORTED = "No setting was chosen using these concepts."


def mean_of(rows: Sequence[Row]) -> dict[str, float]:
    """The mean of each measure."""
    return {name: statistics.mean(row[name] for row in rows) for name in MEASURES}


def summary(rows: Sequence[Row]) -> list[Row]:
    """Return mean, worst and spread of each way to train. `rows` have `way`, `concept`, `seed` and the measures."""
    table: list[Row] = []
    for way in dict.fromkeys(row["way"] for row in rows):
        own = [row for row in rows if row["way"] == way]
        concepts = [mean_of([row for row in own if row["concept"] == one]) for one in _values(own, "concept")]
        seeds = [mean_of([row for row in own if row["seed"] == one]) for one in _values(own, "seed")]
        table.append({"way": way, "of the concepts": "mean", **_rounded(mean_of(own))})
        worst = {
            name: (max if name in SMALLER_IS_BETTER else min)(concept[name] for concept in concepts)
            for name in MEASURES
        }
        table.append({"way": way, "of the concepts": "worst", **_rounded(worst)})
        if len(seeds) > 1:
            spread = {name: statistics.stdev(seed[name] for seed in seeds) for name in MEASURES}
            table.append({"way": way, "of the concepts": "spread", **_rounded(spread)})
    return table


def new_picture_rows(seeds: Sequence[int]) -> list[Row]:
    """Return rows of the summary: the copies among new images of the concepts."""
    found = [copies(new_pictures(seed, NEW_PICTURES), draw_concept(seed).pictures) for seed in seeds]
    empty: Row = dict.fromkeys(MEASURES, "")
    return [
        {"way": "new pictures", "of the concepts": which, **empty, "copies": round(value, 3)}
        for which, value in (("mean", statistics.mean(found)), ("worst", max(found)))
    ]


def by_concept(rows: Sequence[Row]) -> list[Row]:
    """Return a row for each concept and way to train: means over the training seeds."""
    table: list[Row] = []
    for concept in _values(rows, "concept"):
        for way in _values(rows, "way"):
            own = [row for row in rows if row["concept"] == concept and row["way"] == way]
            if own:
                table.append({"concept": concept, "way": way, **_rounded(mean_of(own))})
    return table


def differences(rows: Sequence[Row]) -> list[Row]:
    """Return a row for each way to train but the first: what it changes, over the concepts."""
    ways: dict[str, dict[str, Row]] = {way: {} for way in _values(rows, "way")}
    for row in by_concept(rows):
        ways[row["way"]][row["concept"]] = row
    reference, *others = ways
    changed = {way: paired.differences(ways[way], ways[reference], MEASURES) for way in others}
    clear = {name: paired.significant({way: found[name] for way, found in changed.items()}) for name in MEASURES}
    return [
        {"way": way} | {name: each.cell(way in clear[name], digits=3) for name, each in found.items()}
        for way, found in changed.items()
    ]


def write_page(
    path: Path, rows: Sequence[Row], beside: Sequence[Row], settings: Mapping[str, Any], for_tuning: bool
) -> None:
    """`beside`: additional rows below the summary. `settings`: command, seeds, training_seeds, steps, samples,
    unrelated, evaluator, base and commits."""
    changed, trainings = differences(rows), settings["training_seeds"]
    text = PAGE.format(
        **settings,
        trainings="1 training seed" if trainings == 1 else f"{trainings} training seeds",
        new=NEW_PICTURES,
        concepts=len(_values(rows, "concept")),
        purpose=CHOSEN_BY if for_tuning else REPORTED,
        machine=machine_name(),
        summary=markdown([*summary(rows), *beside]),
        differences=DIFFERENCES.format(reference=rows[0]["way"], table=markdown(changed)) if changed else "",
        concept_rows=markdown(by_concept(rows)),
    )
    path.write_text(text, encoding="utf-8")


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}


def _values(rows: Sequence[Row], column: str) -> list[Any]:
    """Return the distinct values of a column, in order."""
    return list(dict.fromkeys(row[column] for row in rows))
