"""Shared code of comparisons of methods, which train in this process and use the project's sampler."""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from artifact.artifact import Artifact
from benchmarks.concepts.bases import sampler_draw
from benchmarks.concepts.trial import ConceptJudge
from benchmarks.finished_runs import FINISHED, FinishedRuns, Unfinished
from benchmarks.learning.diffusers_results import Draw
from benchmarks.record import Row, markdown, write_record
from evaluation.encoders import ClipEncoder
from families.loading.sources import EMBEDDED_BASE
from families.registry import load_base_model
from job.output_folder import OutputFolder
from job.run import run
from sampler.sampler import Sampler
from settings.training import build_config

INFERENCE_STEPS, GUIDANCE = 10, 4.0

Judge = Callable[[], tuple[ConceptJudge, Sampler]]
"""A judge with its own base, and a sampler for trainings."""


@dataclass(frozen=True)
class Planned:
    """A run of a comparison. `place`: columns in addition to those of `measure`. A finished run with other `settings`
    is repeated."""

    name: str
    place: Row
    settings: Mapping[str, Any]
    measure: Callable[[], Row]


def options(description: str | None, steps: int) -> argparse.ArgumentParser:
    """The options of every comparison: `--steps`, by default `steps`, and `--runs`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--runs", type=int, help="stop after so many new runs")
    return parser


def compared(name: str, arguments: argparse.Namespace, planned: Iterable[Planned]) -> list[Row]:
    """Return the rows of the `planned` runs. If no run is missing, write benchmarks/results/`name`.json; otherwise the
    process ends, and the next call continues.
    """
    finished = FinishedRuns(FINISHED / name, arguments.runs)
    try:
        rows: list[Row] = [{**each.place, **finished.get(each.name, each.settings, each.measure)} for each in planned]
    except Unfinished as missing:
        sys.exit(str(missing))
    write_record(name, rows, {"steps": arguments.steps})
    return rows


def trained(settings: Mapping[str, Any], data: Path, folder: Path) -> tuple[Artifact, float]:
    """Train into `folder`, which does not exist yet. Return the artifact, and the size of its file in kB."""
    output = OutputFolder.create(folder)
    for _ in run(build_config(settings), [data], output):
        pass
    return Artifact.read(output.weights), round(output.weights.stat().st_size / 1000, 1)


def samplers() -> tuple[Sampler, Sampler]:
    """Two samplers: one for the base without LoRAs, and one for trainings."""
    bare, sampler = (Sampler(load_base_model(EMBEDDED_BASE, torch.float32)) for _ in range(2))
    return bare, sampler


def judge_and_sampler(trigger: str) -> tuple[ConceptJudge, Sampler]:
    """A judge of trainings with that trigger word, and a sampler for them."""
    bare, sampler = samplers()
    return ConceptJudge(ClipEncoder().embed, drawn_by(bare), trigger), sampler


def drawn_by(sampler: Sampler) -> Draw:
    """A function that samples with the settings of all of these comparisons."""
    return sampler_draw(sampler, INFERENCE_STEPS, GUIDANCE)


@contextmanager
def drawing_with(sampler: Sampler, artifact: Artifact) -> Iterator[Draw]:
    """Sample with the artifact, which is unloaded at the end."""
    sampler.load(artifact)
    try:
        yield drawn_by(sampler)
    finally:
        sampler.unload()


def table_of_methods(rows: Sequence[Row], methods: Iterable[str], names: Sequence[str]) -> str:
    """A row for each method: the means over its rows, and the values of each."""
    return markdown(
        [{"method": method, **{name: mean_and_values(_values(rows, method, name)) for name in names}}
         for method in methods]
    )  # fmt: skip


def means(rows: Sequence[Row], method: str, names: Sequence[str]) -> dict[str, float]:
    """The means over the rows of a method."""
    return {name: statistics.mean(_values(rows, method, name)) for name in names}


def changes(rows: Sequence[Row], method: str, reference: str, names: Sequence[str]) -> str:
    """The changes by a method relative to the reference, in means: "likeness +0.02, kept -0.01"."""
    own, usual = means(rows, method, names), means(rows, reference, names)
    return ", ".join(f"{name} {own[name] - usual[name]:+.2f}" for name in names)


def _values(rows: Sequence[Row], method: str, name: str) -> list[float]:
    return [row[name] for row in rows if row["method"] == method]


def mean_and_values(values: Sequence[float]) -> str:
    """A cell of a table: the mean, and the values in brackets."""
    return f"{statistics.mean(values):.2f} ({', '.join(f'{value:.2f}' for value in values)})"
