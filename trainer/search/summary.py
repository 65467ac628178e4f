"""One page about a sweep: every trial's settings, scores and verdict, the best first."""

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from trainer.report.chart import INK, chart
from trainer.report.page import page_file
from trainer.search.trials import Trial


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The best quality first, those without one last."""
    return sorted(trials, key=lambda trial: -1.0 if trial.quality is None else trial.quality, reverse=True)


def summary_page(trials: Sequence[Trial], failures: Mapping[int, str]) -> str:
    """The page, for the sweep's folder: each row leads to its trial's report."""
    style = page_file("report.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src-elem 'sha256-{digest}'; style-src-attr 'unsafe-inline'"
    fields = list(trials[0].values)
    numeric = [field for field in fields if all(_number(trial.values[field]) for trial in trials)]
    plots = "".join(f'<figure class="chart"><h3>{html.escape(field)}</h3>{_plot(trials, field)}</figure>'
                    for field in numeric if any(trial.quality is not None for trial in trials))  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>Sweep</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
        f'<section class="verdict"><h1>{_headline(trials)}</h1></section>\n'
        '<section><h2>Trials</h2><div class="scroll" tabindex="0" role="region" aria-label="Trials">'
        f"{_table(ranked(trials), fields, failures)}</div></section>\n"
        f'<section><h2>Quality by setting</h2><div class="charts">{plots}</div></section>\n'
        "</main>\n</body>\n</html>\n"
    )


def _headline(trials: Sequence[Trial]) -> str:
    best = ranked(trials)[0]
    if best.quality is None:
        return "No trial is done"
    values = ", ".join(f"{name} {value}" for name, value in best.values.items())
    return f"<strong>{html.escape(values)}</strong> is best: quality {best.quality:.2f}"


def _table(trials: Sequence[Trial], fields: Sequence[str], failures: Mapping[int, str]) -> str:
    head = ["trial", *fields, "quality", "step", "scale", "seconds", "verdict"]
    rows = "".join(
        f"<tr{' class=' + chr(34) + 'returned' + chr(34) if index == 0 and trial.quality is not None else ''}>"
        f"{_cells(trial, fields, failures)}</tr>"
        for index, trial in enumerate(trials)
    )
    cells = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>"


def _cells(trial: Trial, fields: Sequence[str], failures: Mapping[int, str]) -> str:
    report, values = trial.report, [html.escape(str(trial.values[field])) for field in fields]
    name = f"{trial.number}"
    if report is None:
        why = html.escape(failures.get(trial.number, "not run"))
        return "".join(f"<td>{cell}</td>" for cell in [name, *values, "–", "–", "–", "–", why])
    link = f'<a href="{trial.folder.name}/run/report.html">{name}</a>'
    evaluation = report["evaluation"]
    chosen = evaluation["chosen"]
    figures = [f"{trial.quality:.3f}", str(chosen["step"]), f"{chosen['scale']:g}", f"{report['seconds']:.0f}"]
    return "".join(
        f"<td>{cell}</td>" for cell in [link, *values, *figures, html.escape(evaluation["verdict"]["headline"])]
    )


def _plot(trials: Sequence[Trial], field: str) -> str:
    points = sorted((trial.values[field], trial.quality) for trial in trials if trial.quality is not None)

    def draw(axes: Axes) -> None:
        axes.plot([value for value, _ in points], [quality for _, quality in points], "o", color=INK)
        smallest = min(value for value, _ in points)
        if smallest > 0 and max(value for value, _ in points) / smallest >= 20:
            axes.set_xscale("log")
        axes.set_xlabel(field)

    return chart(draw, f"Quality by {field}")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
