"""The page that benchmarks/learning/ablation.py writes."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from benchmarks import paired
from benchmarks.paired import Difference
from benchmarks.record import Row

MEASURED = ("likeness", "likeness_elsewhere", "grounds", "kept")
NAMED = 4
"""Options that the summary names, at most, for each measure and direction."""
INTRODUCTION = """# What each option does

Written by `python -m benchmarks.learning.ablation`. Synthetic concepts (benchmarks/concepts, tuning seeds {concepts})
are trained one at a time on the embedded base model. Every option is compared separately with a reference, which has
the trainer's defaults and these settings:
{reference}.

## What helps when

{summary}

## What is measured

- likeness: mean cosine similarity of samples of the concept to the training images, divided by that of the training
  images to each other (1 is the maximum); likeness_elsewhere: the same for prompts that name a background.
- grounds: share of the samples with the background that the prompt names.
- kept: mean cosine similarity of images of unrelated prompts after and before training, same seeds (1: unchanged).
- steps/s: per second of CPU time on one core, in the trainings with the first seed. Other processes were running, so
  only large differences are meaningful.
- seeds: number of training seeds.{screened}

The first row has the mean ± the standard deviation over concepts and seeds. All other rows have the mean difference
from the reference with the same concept and seed, ± its standard deviation. Bold differences are significant: paired
t-test over concepts and seeds, false discovery rate of 5 % among all options of a measure (Benjamini and Hochberg). The
trainings are short and the base model is small: a difference that is not significant here may be significant elsewhere.
Most options that raise the likeness are compared on the reporting concepts, with a usual number of steps, in
[learning-options.md](learning-options.md).
{missing}"""
FIRST_LINE = """Significant differences from the defaults, the largest first. "Alone" are options that would be
significant if no other option had been measured."""
SCREENED = """
  All options were measured with one seed. Those that seemed better than the reference were measured with more; the
  first seed counts among them, so their differences are slightly too favourable."""


def write_page(
    path: Path,
    rows: Sequence[Row],
    reference: Mapping[str, Any],
    concepts: Sequence[int],
    missing: Sequence[str] = (),
) -> None:
    """Write the table of runs, whose first option is the reference. `missing`: options without a row."""
    screened = SCREENED if len(set(_seeds(rows).values())) > 1 else ""
    silent = ("base_model", "evaluate", "num_validation_images")
    shown = ", ".join(f"{name} {value}" for name, value in reference.items() if name not in silent)
    of_options = differences(rows)
    text = INTRODUCTION.format(
        concepts=", ".join(map(str, concepts)), reference="\n".join(wrap(shown, 118)),
        summary=summary(of_options), screened=screened, missing=_missing(missing),
    )  # fmt: skip
    path.write_text(f"{text}\n{_table(rows, of_options)}\n", encoding="utf-8")


def _missing(options: Sequence[str]) -> str:
    return "\n" + "\n".join(wrap(f"Not measured yet: {'; '.join(options)}.", 118)) + "\n" if options else ""


def _seeds(rows: Sequence[Row]) -> dict[str, int]:
    """Number of training seeds, by option."""
    seeds: dict[str, set[int]] = {}
    for row in rows:
        seeds.setdefault(row["option"], set()).add(row["seed"])
    return {option: len(found) for option, found in seeds.items()}


def differences(rows: Sequence[Row]) -> dict[str, dict[str, Difference]]:
    """Of each option but the reference, by measure."""
    options: dict[str, dict[tuple[int, int], Row]] = {}
    for row in rows:
        options.setdefault(row["option"], {})[row["concept"], row["seed"]] = row
    reference, *others = options
    return {option: paired.differences(options[option], options[reference], MEASURED) for option in others}


def summary(of_options: Mapping[str, Mapping[str, Difference]]) -> str:
    """What raises and what lowers each measure, largest first, of what stands out."""
    lines = [FIRST_LINE, ""]
    for name, options in significant(of_options).items():
        means = {option: of_options[option][name].mean for option in options}
        for word, sign in (("higher", 1), ("lower", -1)):
            listed = _largest(means, sign)
            if not listed:
                alone = _largest(_significant_alone(of_options, name), sign)
                listed = f"none; alone: {alone}" if alone else "none"
            lines += wrap(f"- {name} {word} with: {listed}.", 118, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines)


def _largest(means: Mapping[str, float], sign: int) -> str:
    """The options with the largest differences in this direction."""
    largest = sorted((-sign * mean, option) for option, mean in means.items() if sign * mean > 0)[:NAMED]
    return "; ".join(f"{option} ({means[option]:+.2f})" for _, option in largest)


def _significant_alone(of_options: Mapping[str, Mapping[str, Difference]], name: str) -> dict[str, float]:
    """The means of options that would be significant if no other option had been measured."""
    return {option: each[name].mean for option, each in of_options.items() if each[name].p_value < paired.LEVEL}


def significant(of_options: Mapping[str, Mapping[str, Difference]]) -> dict[str, set[str]]:
    """The options with a significant difference, by measure."""
    return {name: paired.significant({option: each[name] for option, each in of_options.items()}) for name in MEASURED}


def _table(rows: Sequence[Row], of_options: Mapping[str, Mapping[str, Difference]]) -> str:
    head, seeds, clear = ["option", "seeds", *MEASURED, "steps/s"], _seeds(rows), significant(of_options)
    lines, group = [head, ["---"] * len(head)], ""
    for option, row in {row["option"]: row for row in rows}.items():
        if row["group"] != group:
            group = row["group"]
            lines.append([f"**{group}**", *[""] * (len(head) - 1)])
        own = [each for each in rows if each["option"] == option]
        if option in of_options:
            cells = [of_options[option][name].cell(option in clear[name]) for name in MEASURED]
        else:
            values = [Difference.of([each[name] for each in own]) for name in MEASURED]
            cells = [f"{value.mean:.2f} ± {value.deviation:.2f}" for value in values]
        lines.append([option, str(seeds[option]), *cells, f"{_speed(own):.1f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _speed(rows: Sequence[Row]) -> float:
    """Mean of the first seed, which all options were trained with on the same machine; later seeds possibly not."""
    first = min(row["seed"] for row in rows)
    return statistics.mean(row["steps/s"] for row in rows if row["seed"] == first)
