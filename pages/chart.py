"""A matplotlib figure as SVG that follows the page's light and dark colours."""

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

INK, QUIET, RULE = "#010101", "#020202", "#030303"
SERIES = ("#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04", "#0a0a05", "#0a0a06")
PENCIL = SERIES[0]
"""Placeholder colours, which are replaced by the page's CSS variables."""
OF_THE_PAGE = {
    INK: "var(--ink)",
    QUIET: "var(--quiet)",
    RULE: "var(--rule)",
    **{colour: f"var(--series-{index})" for index, colour in enumerate(SERIES, 1)},
}
SIZE = (4.5, 2.9)
"""In inches. A chart is shown about this wide at 72 units per inch, so font sizes are about pixels."""
LINE = 43
"""Number of characters in a line of the legend."""
STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 12.5,
    "axes.labelsize": 12.5,
    "xtick.labelsize": 12.5,
    "ytick.labelsize": 12.5,
    "text.color": QUIET,
    "axes.edgecolor": RULE,
    "axes.labelcolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "legend.fontsize": 12.5,
    "legend.handlelength": 1.2,
    "legend.columnspacing": 1.2,
    "legend.borderpad": 0.1,
    "lines.linewidth": 1.6,
}


def legend_above(axes: Axes) -> None:
    """Add the legend above the chart, in as many columns as fit."""
    names = [str(line.get_label()) for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    columns = next(count for count in (4, 3, 2, 1) if count == 1 or count * (max(map(len, names)) + 4) <= LINE)
    axes.figure.legend(loc="outside upper left", ncols=min(columns, len(names)))


def plain_ticks(axis: Axis, whole: bool = False, count: int = 5) -> None:
    """Set about `count` round tick labels without exponents, also on a logarithmic axis."""
    if axis.get_scale() == "log":
        low, high = axis.get_view_interval()
        axis.set_minor_locator(NullLocator())
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,), numticks=count + 1))
    else:
        axis.set_major_locator(MaxNLocator(count, integer=whole, steps=[1, 2, 5, 10] if whole else [1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.5g}".replace("-", "\N{MINUS SIGN}")))


def chart(draw: Callable[[Axes], None], name: str, size: tuple[float, float] = SIZE) -> str:
    """Return the SVG of a chart that `draw` plots on the axes. `name`: its description for screen readers; `size` in
    inches."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_the_page(buffer.getvalue(), name)


def _for_the_page(svg: str, name: str) -> str:
    """Remove prologue, metadata and the SVG's own style sheet, which the page's security policy would block."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for colour, value in OF_THE_PAGE.items():
        svg = svg.replace(colour, value)
    label = name.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
