"""The summary page of a sweep: settings, scores and verdict of every trial, the best first."""

import html
import math
from collections.abc import Mapping, Sequence, Set

from matplotlib.axes import Axes

from pages.chart import INK, chart, plain_ticks
from pages.shell import html_page, page_file
from service.sweep.trials import Trial


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials by descending quality. Those without a quality are last."""
    return sorted(trials, key=lambda trial: -1.0 if trial.quality is None else trial.quality, reverse=True)


def summary_page(trials: Sequence[Trial], failures: Mapping[int, str]) -> str:
    """Return the HTML of the page, for the sweep's folder. Each row links to its trial's report."""
    fields = list(trials[0].values)
    numeric = [field for field in fields if _is_numeric(trials, field)]
    plots = "".join(f'<figure class="chart"><h3>{html.escape(field)}</h3>{_plot(trials, field)}</figure>'
                    for field in numeric if any(trial.quality is not None for trial in trials))  # fmt: skip
    chosen = f'<section><h2>Quality by setting</h2><div class="charts">{plots}</div></section>\n' if plots else ""
    body = (
        '<main id="main" tabindex="-1">\n'
        f'<section class="verdict"><h1>{_headline(trials)}</h1></section>\n'
        '<section><h2>Trials</h2><p class="lead">The best first; each number links to the report.</p>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Trials">'
        f"{_table(ranked(trials), fields, failures)}</div></section>\n"
        f"{chosen}</main>\n"
    )
    kicker = f'<p class="kicker">Sweep of {len(trials)} trials</p>'
    return html_page("Sweep", kicker, body, style=page_file("report.css"))


def _headline(trials: Sequence[Trial]) -> str:
    best = ranked(trials)[0]
    if best.quality is None:
        return "No trial has finished"
    values = ", ".join(f"{name} {value}" for name, value in best.values.items())
    return f"<strong>{html.escape(values)}</strong> is best: quality {best.quality:.2f}"


def _table(trials: Sequence[Trial], fields: Sequence[str], failures: Mapping[int, str]) -> str:
    head = ["trial", *fields, "quality", "step", "scale", "seconds", "verdict"]
    words = {1 + fields.index(field) for field in fields if not _is_numeric(trials, field)}
    words.add(len(head) - 1)
    rows = "".join(
        f"<tr{' class=' + chr(34) + 'returned' + chr(34) if index == 0 and trial.quality is not None else ''}>"
        f"{_cells(trial, fields, failures, words)}</tr>"
        for index, trial in enumerate(trials)
    )
    cells = _row([html.escape(name) for name in head], words, 'th scope="col"')
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>"


def _cells(trial: Trial, fields: Sequence[str], failures: Mapping[int, str], words: Set[int]) -> str:
    report, values = trial.report, [html.escape(str(trial.values[field])) for field in fields]
    name = f"{trial.number}"
    if report is None:
        why = html.escape(failures.get(trial.number, "not run"))
        return _row([name, *values, "–", "–", "–", "–", why], words)
    link = f'<a href="{trial.folder.name}/run/report.html">{name}</a>'
    evaluation, seconds = report["evaluation"], f"{report['seconds']:.0f}"
    if evaluation is None:  # full fine-tuning in shards, models that reconstruct images, ControlNets
        return _row([link, *values, "–", "–", "–", seconds, "not evaluated"], words)
    chosen = evaluation["chosen"]
    figures = [f"{trial.quality:.3f}", str(chosen["step"]), f"{chosen['scale']:g}", seconds]
    return _row([link, *values, *figures, html.escape(evaluation["verdict"]["headline"])], words)


def _row(cells: Sequence[str], words: Set[int], opening: str = "td") -> str:
    """Return a table row. `words`: indices of cells with words instead of numbers; the last cell may be of any
    length."""
    tag, last = opening.split()[0], len(cells) - 1
    kinds = [
        'class="text long"' if index == last else 'class="text"' if index in words else ""
        for index in range(len(cells))
    ]
    return "".join(f"<{opening} {kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))


def _plot(trials: Sequence[Trial], field: str) -> str:
    rated = [(_number(trial.values[field]), trial.quality) for trial in trials]
    points = sorted((value, quality) for value, quality in rated if value is not None and quality is not None)

    def draw(axes: Axes) -> None:
        axes.plot([value for value, _ in points], [quality for _, quality in points], "o", color=INK)
        smallest = min(value for value, _ in points)
        if smallest > 0 and max(value for value, _ in points) / smallest >= 20:
            axes.set_xscale("log")
        plain_ticks(axes.xaxis, whole=all(isinstance(value, int) for value, _ in points))
        plain_ticks(axes.yaxis)
        axes.set_xlabel(field)

    return chart(draw, f"Quality by {field}")


def _is_numeric(trials: Sequence[Trial], field: str) -> bool:
    return all(_number(trial.values[field]) is not None for trial in trials)


def _number(value: object) -> float | None:
    """Return a number, also of a text: YAML reads 1e-4, without a point, as one. None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    try:
        found = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return None
    return found if math.isfinite(found) else None
