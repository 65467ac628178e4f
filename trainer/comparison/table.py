"""The rows of a comparison as a table in Markdown, and as a page."""

import base64
import hashlib
import html
import io
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from PIL import Image

from trainer.comparison.compare import Row
from trainer.report.chart import INK, QUIET, SERIES, chart
from trainer.report.page import page_file

COLUMNS: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
    ("DINO-I", lambda row: row.scores.dino_i),
    ("CLIP-I", lambda row: row.scores.clip_i),
    ("CLIP-T", lambda row: row.scores.clip_t),
    ("diversity", lambda row: row.scores.diversity),
    ("rest kept", lambda row: row.scores.prior_kept),
    ("copied", lambda row: row.scores.copied),
    ("quality", lambda row: row.relative.quality if row.relative else None),
)
THUMBNAIL = 192


def markdown(rows: Sequence[Row]) -> str:
    """A table; the bare base first. Scores that nobody measured are left out."""
    columns = [(name, value) for name, value in COLUMNS if any(value(row) is not None for row in rows)]
    head = ["subject", "LoRA", "scale", *(name for name, _ in columns)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        scale = "" if row.scale is None else f"{row.scale:g}"
        cells = [row.subject, row.lora or "bare base", scale, *(_cell(value(row)) for _, value in columns)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page(rows: Sequence[Row], prompts: Sequence[str]) -> str:
    """The table, a chart of likeness against prompts followed, and the first sample of each prompt, in one file."""
    style = page_file("report.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src-elem 'sha256-{digest}'; style-src-attr 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>Comparison</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
        f'<section class="verdict"><h1>{_headline(rows)}</h1></section>\n'
        f'<section><h2>Scores</h2><div class="scroll" tabindex="0" role="region" aria-label="Scores">'
        f"{_html_table(rows)}</div></section>\n"
        f'<section><h2>Likeness and text</h2><div class="charts"><figure class="chart">{_scatter(rows)}</figure>'
        "</div></section>\n"
        f"<section><h2>Samples</h2>{''.join(_strip(row, prompts) for row in rows)}</section>\n"
        "</main>\n</body>\n</html>\n"
    )


def _headline(rows: Sequence[Row]) -> str:
    judged = [row for row in rows if row.relative]
    if not judged:
        return f"{len([row for row in rows if row.lora])} LoRAs against the bare base"
    names = list(dict.fromkeys(row.lora for row in judged if row.lora))
    means = {name: max(_mean([row for row in judged if row.lora == name and row.scale == scale])
                       for scale in {row.scale for row in judged if row.lora == name}) for name in names}  # fmt: skip
    best = max(means, key=lambda name: means[name])
    return f"<strong>{html.escape(best)}</strong> has the best quality: {means[best]:.2f}"


def _mean(rows: Sequence[Row]) -> float:
    return sum(row.relative.quality for row in rows if row.relative) / len(rows)


def _html_table(rows: Sequence[Row]) -> str:
    lines = [line.strip("| \n").split(" | ") for line in markdown(rows).splitlines()]
    head, body = lines[0], lines[2:]
    cells = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    made = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in body)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{made}</tbody></table>"


def _scatter(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(row.lora for row in rows if row.lora))

    def draw(axes: Axes) -> None:
        bare = [row.scores for row in rows if row.lora is None]
        axes.plot([one.clip_t for one in bare], [one.identity for one in bare], "o", color=QUIET, label="bare base")
        for index, name in enumerate(names):
            mine = sorted((row for row in rows if row.lora == name), key=lambda row: (row.subject, row.scale or 0))
            colour = SERIES[index % len(SERIES)] if len(names) > 1 else INK
            axes.plot([one.scores.clip_t for one in mine], [one.scores.identity for one in mine], "o", color=colour,
                      label=name)  # fmt: skip
        axes.set_xlabel("CLIP-T: to the prompt")
        axes.set_ylabel("to the subject")
        axes.legend()

    return chart(draw, "Likeness to the subject against likeness to the prompt")


def _strip(row: Row, prompts: Sequence[str]) -> str:
    name = html.escape(
        f"{row.subject}, {row.lora or 'bare base'}" + ("" if row.scale is None else f" at {row.scale:g}")
    )
    stills = "".join(
        f'<li><img alt="{name}" src="{_uri(picture)}"><p>{html.escape(prompt)}</p></li>'
        for picture, prompt in zip(row.pictures, prompts, strict=True)
    )
    return f'<p class="lead">{name}</p><ol class="stills">{stills}</ol>'


def _uri(picture: Image.Image) -> str:
    small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
