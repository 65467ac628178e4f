"""Plots the curves of a training from metrics.jsonl and the evaluation, by matplotlib."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes

from job.report.metrics import Series, series, smoothed
from pages.chart import INK, QUIET, SERIES, chart, legend_above, plain_ticks


@dataclass(frozen=True)
class Curve:
    """A chart with its title, and a sentence on how to read it."""

    title: str
    reading: str
    svg: str


QUESTIONS: tuple[tuple[str, str, str, bool], ...] = (
    ("learning_rates", "Learning rates", "With warm-up and schedule.", False),
    (
        "gradient_norms",
        "Gradient norms",
        "Before clipping. Growing peaks mean that the learning rate is too high.",
        True,
    ),
    ("peak_memory_gib", "Memory, GiB", "Peak of the allocated memory up to each step.", False),
)


def curves(
    rows: Sequence[Mapping[str, Any]],
    evaluation: Mapping[str, Any] | None,
    validation: Sequence[Mapping[str, Any]] = (),
    looks: Sequence[Mapping[str, Any]] = (),
) -> list[Curve]:
    """Return the curves for the rows of metrics.jsonl and validation.jsonl, the evaluation, and the samples that were
    scored in the middle of the training. Charts without data are left out."""
    found = [_losses(rows), _bands(validation), _restoration(validation), _looks(looks), *_similarities(evaluation)]
    for key, title, reading, logarithmic in QUESTIONS:
        data = series(rows, key)
        found.append(
            Curve(title, reading, _lines(data, title, logarithmic, from_zero=not logarithmic)) if data else None
        )
    found.append(_speed(rows))
    return [curve for curve in found if curve is not None]


def _losses(rows: Sequence[Mapping[str, Any]]) -> Curve | None:
    data = series(rows, "loss")
    if not data:
        return None
    steps, values = data["loss"]
    terms = series(rows, "losses")

    def draw(axes: Axes) -> None:
        axes.plot(steps, values, color=QUIET, linewidth=0.5, alpha=0.5)
        axes.plot(steps, smoothed(values), color=INK, label="loss")
        for (name, (at, term)), colour in zip(terms.items() if len(terms) > 1 else (), cycle(SERIES)):
            axes.plot(at, smoothed(term), color=colour, linewidth=1.1, label=name)
        _finish(axes, legend=len(terms) > 1)

    reading = "Smoothed; the thin line shows every step. It does not measure quality: the noise differs between steps."
    return Curve("Training loss", reading, chart(draw, "Training loss over the steps"))


def _bands(rows: Sequence[Mapping[str, Any]]) -> Curve | None:
    """Plot each band relative to its first value, that of the base model."""
    bands = [(name, series(rows, name)[name]) for name in (f"loss_{band}" for band in range(10)) if series(rows, name)]
    if not bands or len(rows) < 2:
        return None
    last = len(bands) - 1
    words = {0: "least noisy", last: "most noisy"}
    data: Series = {
        words.get(index, f"band {index + 1}"): (steps, [value / max(values[0], 1e-12) for value in values])
        for index, (_, (steps, values)) in enumerate(bands)
    }
    reading = "On held-out images, at fixed noise; 1 is the base model. An increase means overfitting."
    return Curve("Held-out loss by timestep", reading, _lines(data, "Held-out loss by band of timesteps", False))


def _restoration(rows: Sequence[Mapping[str, Any]]) -> Curve | None:
    data = series(rows, "psnr")
    if not data or len(rows) < 2:
        return None
    reading = "Of reconstructed held-out images, in dB; the first value is that of the base model. Higher is better."
    return Curve("PSNR", reading, _lines(data, "PSNR of reconstructed images", False))


def _looks(rows: Sequence[Mapping[str, Any]]) -> Curve | None:
    if len(rows) < 2:
        return None
    reading = "1 is the similarity of the training images to each other, or the base model. They end the run."
    drawn = _lines(_measures(rows), "Likeness, prompts followed and rest kept", False, "o", main="quality")
    return Curve("Samples while training", reading, drawn)


def _measures(rows: Sequence[Mapping[str, Any]]) -> Series:
    names = {"fidelity": "likeness", "following": "prompts followed", "kept": "rest kept", "quality": "quality"}
    return {label: ([row["step"] for row in rows], [row[key] for row in rows]) for key, label in names.items()}


def _similarities(evaluation: Mapping[str, Any] | None) -> list[Curve | None]:
    """Plot relative measures over the checkpoints at the reference scale, and the quality of each candidate."""
    if not evaluation:
        return []
    candidates = sorted(evaluation["candidates"], key=lambda one: (one["scale"], one["step"]))
    whole = [one for one in candidates if one["scale"] == evaluation["reference_scale"]]
    if len({one["step"] for one in whole}) < 2:
        return []
    data = _measures([{"step": one["step"], **one["relative"]} for one in whole])
    first = Curve(
        "Learned and preserved",
        "1 is the similarity of the training images to each other, or the base model. The quality selects the "
        "checkpoint.",
        _lines(
            data, "Likeness, prompts followed, rest kept and quality over the checkpoints", False, "o", main="quality"
        ),
    )
    scales = sorted({one["scale"] for one in candidates})
    if len(scales) < 2:
        return [first]
    by_scale = {
        f"scale {scale:g}": (
            [one["step"] for one in candidates if one["scale"] == scale],
            [one["relative"]["quality"] for one in candidates if one["scale"] == scale],
        )
        for scale in scales
    }
    chosen = evaluation["chosen"]

    def draw(axes: Axes) -> None:
        _plot(axes, by_scale, "o")
        axes.plot([chosen["step"]], [chosen["relative"]["quality"]], "o", markersize=11, fillstyle="none", color=INK)
        _finish(axes, legend=True)

    reading = "Each line is one scale of the LoRA. The ring marks the returned checkpoint and scale."
    return [first, Curve("Checkpoint and scale", reading, chart(draw, "Quality of each checkpoint at each scale"))]


def _speed(rows: Sequence[Mapping[str, Any]]) -> Curve | None:
    data = series(rows, "seconds_per_step")
    if not data:
        return None
    steps, seconds = data["seconds_per_step"]
    speed = {"it/s": (steps, [1 / max(value, 1e-9) for value in seconds])}
    return Curve(
        "Steps per second", "Mean over the last twenty steps.", _lines(speed, "Steps per second", False, from_zero=True)
    )


def _lines(
    data: Series, name: str, logarithmic: bool, marker: str = "", main: str = "", from_zero: bool = False
) -> str:
    """Return a chart of `data`. `main`: the series to emphasise."""

    def draw(axes: Axes) -> None:
        _plot(axes, data, marker, main)
        if logarithmic and all(value > 0 for _, values in data.values() for value in values):
            axes.set_yscale("log")
        _finish(axes, legend=len(data) > 1, from_zero=from_zero)

    return chart(draw, f"{name} over the steps")


def _plot(axes: Axes, data: Series, marker: str, main: str = "") -> None:
    only_one = len(data) == 1
    for index, (name, (steps, values)) in enumerate(data.items()):
        colour = INK if only_one or name == main else SERIES[index % len(SERIES)]
        markers: dict[str, Any] = {"marker": marker, "markersize": 4} if marker else {}
        axes.plot(steps, values, color=colour, label=name, **markers)


def _finish(axes: Axes, legend: bool, from_zero: bool = False) -> None:
    axes.set_xlabel("step")
    axes.margins(x=0.02)
    if from_zero:
        axes.set_ylim(bottom=0, top=1.05 * max(axes.dataLim.y1, 1e-12))
    plain_ticks(axes.xaxis, whole=True)
    plain_ticks(axes.yaxis)
    if legend:
        legend_above(axes)
