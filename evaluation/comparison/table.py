"""Formats the rows of a comparison as a table in Markdown, and as a page."""

import html
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from evaluation.comparison.compare import Row
from pages.chart import INK, QUIET, SERIES, chart, legend_above, plain_ticks
from pages.pictures import image_uri
from pages.shell import html_page, page_file

COLUMNS: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
    ("DINO-I", lambda row: row.scores.dino_i),
    ("CLIP-I", lambda row: row.scores.clip_i),
    ("CLIP-T", lambda row: row.scores.clip_t),
    ("diversity", lambda row: row.scores.diversity),
    ("rest kept", lambda row: row.scores.prior_kept),
    ("copied", lambda row: row.scores.copied),
    ("quality", lambda row: row.relative.quality if row.relative else None),
)
THUMBNAIL = 384


def markdown(rows: Sequence[Row]) -> str:
    """Return the table in Markdown, the base first. Columns without values are left out."""
    head, body = _cells(rows)
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(map(_in_markdown, line))} |\n" for line in lines)


def _in_markdown(cell: str) -> str:
    """Escape a cell: names are file names, which must not become markup or end the row."""
    return html.escape(" ".join(cell.split()), quote=False).replace("|", "\\|")


def page(rows: Sequence[Row], prompts: Sequence[str]) -> str:
    """Return a page with the table, a chart of likeness against prompt following, and the first sample of each
    prompt."""
    body = (
        '<main id="main" tabindex="-1">\n'
        f'<section class="verdict"><h1>{_headline(rows)}</h1></section>\n'
        f'<section><h2>Scores</h2><div class="scroll" tabindex="0" role="region" aria-label="Scores">'
        f"{_html_table(rows)}</div></section>\n"
        '<section><h2>Likeness and text</h2><p class="lead">Vertical: likeness to the subject; horizontal: to the'
        f' prompt; the numbers are scales.</p><div class="charts"><figure class="chart">{_scatter(rows)}</figure></div>'
        "</section>\n"
        '<section><h2>Samples</h2><p class="lead">The same seeds in every row. {trigger} is the trigger word of each'
        f" LoRA.</p>{''.join(_strip(row, prompts) for row in rows)}</section>\n"
        "</main>\n"
    )
    kicker = '<p class="kicker">Comparison of LoRAs</p>'
    return html_page("Comparison", kicker, body, style=page_file("report.css"))


def _cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return the head of the table, and a line for each row."""
    columns = [(name, value) for name, value in COLUMNS if any(value(row) is not None for row in rows)]
    body = [
        [
            row.subject,
            row.lora or "base model",
            "" if row.scale is None else f"{row.scale:g}",
            *(_cell(value(row)) for _, value in columns),
        ]
        for row in rows
    ]
    return ["subject", "LoRA", "scale", *(name for name, _ in columns)], body


def _headline(rows: Sequence[Row]) -> str:
    judged = [row for row in rows if row.relative]
    if not judged:
        return f"{len([row for row in rows if row.lora])} LoRAs compared with the base model"
    names = list(dict.fromkeys(row.lora for row in judged if row.lora))
    means = {name: max(_mean([row for row in judged if row.lora == name and row.scale == scale])
                       for scale in {row.scale for row in judged if row.lora == name}) for name in names}  # fmt: skip
    best = max(means, key=lambda name: means[name])
    if means[best] == 0:
        return "No LoRA has a quality above 0: each lost its subject, its prompts or unrelated prompts"
    return f"<strong>{html.escape(best)}</strong> has the best quality: {means[best]:.2f}"


def _mean(rows: Sequence[Row]) -> float:
    return sum(row.relative.quality for row in rows if row.relative) / len(rows)


def _html_table(rows: Sequence[Row]) -> str:
    """Return the table in HTML with the best LoRA of each subject marked. A single subject has no column."""
    first = 0 if len({row.subject for row in rows}) > 1 else 1
    head, body = _cells(rows)
    best = _best_of_each_subject(rows)
    lines = []
    for row, line in zip(rows, body, strict=True):
        kind = ' class="returned"' if row is best.get(row.subject) else ' class="base"' if row.lora is None else ""
        lines.append(f"<tr{kind}>{_marked('td', line[first:], 2 - first)}</tr>")
    top = _marked('th scope="col"', head[first:], 2 - first)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _best_of_each_subject(rows: Sequence[Row]) -> dict[str, Row]:
    """Return the best row by subject. Subjects for which no LoRA has a quality above 0 are left out."""
    best: dict[str, tuple[float, Row]] = {}
    for row in rows:
        if row.relative and row.relative.quality > best.get(row.subject, (0.0, row))[0]:
            best[row.subject] = (row.relative.quality, row)
    return {subject: row for subject, (_, row) in best.items()}


def _marked(opening: str, cells: Sequence[str], texts: int) -> str:
    """Return cells in HTML. The first `texts` cells contain words, the others numbers."""
    text, tag = ' class="text"', opening.split()[0]
    return "".join(
        f"<{opening}{text if index < texts else ''}>{html.escape(cell)}</{tag}>" for index, cell in enumerate(cells)
    )


def _scatter(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(row.lora for row in rows if row.lora))

    def draw(axes: Axes) -> None:
        bare = [row.scores for row in rows if row.lora is None]
        axes.plot([one.clip_t for one in bare], [one.identity for one in bare], "o", color=QUIET, label="base model")
        for index, name in enumerate(names):
            mine = sorted((row for row in rows if row.lora == name), key=lambda row: (row.subject, row.scale or 0))
            colour = SERIES[index % len(SERIES)] if len(names) > 1 else INK
            points = [(one.scores.clip_t, one.scores.identity) for one in mine]
            axes.plot([x for x, _ in points], [y for _, y in points], "o", color=colour, label=name)
            for one, point in zip(mine, points, strict=True):
                axes.annotate(f"{one.scale:g}", point, (5, 4), textcoords="offset points", color=colour)
        axes.set_xlabel("CLIP-T: to the prompt")
        axes.set_ylabel("to the subject")
        axes.margins(0.15)
        plain_ticks(axes.xaxis)
        plain_ticks(axes.yaxis)
        legend_above(axes)

    return chart(draw, "Likeness to the subject against likeness to the prompt", (4.5, 3.4))


def _strip(row: Row, prompts: Sequence[str]) -> str:
    name = html.escape(
        f"{row.subject}, {row.lora or 'base model'}" + ("" if row.scale is None else f" at {row.scale:g}")
    )
    stills = "".join(
        f'<li><img alt="{name}" src="{image_uri(picture, THUMBNAIL)}"><p>{html.escape(prompt)}</p></li>'
        for picture, prompt in zip(row.pictures, prompts, strict=True)
    )
    return f'<div class="strip"><h3>{name}</h3><ol class="stills">{stills}</ol></div>'


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
