"""Draws docs/architecture.svg, the packages and their imports: `python -m tools.architecture_picture`.

Packages and descriptions are read from the source: an arrow is an import statement, the text of a box is the first
sentence of the package's docstring, and a package stands above everything it imports. Arrows that a longer path
implies are left out.
"""

import ast
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

PROJECT = Path(__file__).parent.parent
PICTURE = PROJECT / "docs" / "architecture.svg"
ENTRY_POINTS = ("train", "predict")
COLUMNS = {
    "train": 0, "predict": 1, "studio": 2, "service": 1, "job": 1, "trainer": 0, "evaluation": 2, "sampler": 2,
    "artifact": 2, "families": 2, "preprocess": 0, "fetching": 2, "pages": 0, "settings": 1,
}  # fmt: skip
"""Horizontal position of each package, chosen so that no arrow crosses a box; the rows follow from the imports."""
BOX_WIDTH, BOX_HEIGHT, GAP, MARGIN = 270, 84, 48, 20
CHARACTERS_A_LINE, LINES = 42, 3
STYLE = """
  svg { background: #ffffff; font-family: system-ui, sans-serif; }
  .box { fill: #f3f5f9; stroke: #5b6b8c; }
  .entry { fill: #e7efe6; stroke: #55794f; }
  .name { font-size: 15px; font-weight: 600; fill: #1c2333; }
  .text { font-size: 11.5px; fill: #44506a; }
  .arrow { stroke: #8893aa; fill: none; stroke-width: 1.3; marker-end: url(#head); }
"""

Imports = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Box:
    """The place of a package in the picture, in pixels."""

    name: str
    x: float
    y: float

    @property
    def centre(self) -> float:
        return self.x + BOX_WIDTH / 2


def files_of(name: str) -> list[Path]:
    """The Python files of a package or of an entry point."""
    return [PROJECT / f"{name}.py"] if name in ENTRY_POINTS else sorted((PROJECT / name).rglob("*.py"))


def read_imports() -> Imports:
    """The packages that each package and entry point imports."""
    return {
        name: frozenset(top for file in files_of(name) for top in _imported(file) if top in COLUMNS and top != name)
        for name in COLUMNS
    }


def _imported(file: Path) -> Iterator[str]:
    """The top-level names of all import statements in a file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)


def rows(imports: Imports) -> list[list[str]]:
    """Packages by height, the entry points first. Raises RecursionError if imports form a cycle."""

    @cache
    def height(name: str) -> int:
        return 1 + max(map(height, imports[name]), default=-1)

    levels = sorted({height(name) for name in imports}, reverse=True)
    return [[name for name in imports if height(name) == level] for level in levels]


def direct_imports(imports: Imports) -> list[tuple[str, str]]:
    """The imports that no longer path implies (transitive reduction)."""

    @cache
    def reachable(name: str) -> frozenset[str]:
        return imports[name].union(*map(reachable, imports[name]))

    return [
        (name, other)
        for name in imports
        for other in sorted(imports[name])
        if not any(other in reachable(between) for between in imports[name] - {other})
    ]


def description(name: str) -> str:
    """The first sentence of the docstring of a package or an entry point."""
    file = PROJECT / f"{name}.py" if name in ENTRY_POINTS else PROJECT / name / "__init__.py"
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].partition(". ")[0].partition(": `")[0].rstrip(".")


def place(levels: list[list[str]]) -> dict[str, Box]:
    """One row per level."""
    return {
        name: Box(name, MARGIN + COLUMNS[name] * (BOX_WIDTH + GAP), MARGIN + level * (BOX_HEIGHT + GAP))
        for level, names in enumerate(levels)
        for name in names
    }


def draw() -> str:
    """The picture as SVG text."""
    imports = read_imports()
    boxes = place(rows(imports))
    width = max(box.x for box in boxes.values()) + BOX_WIDTH + MARGIN
    height = max(box.y for box in boxes.values()) + BOX_HEIGHT + MARGIN
    arrows = [_arrow(boxes[name], boxes[other]) for name, other in direct_imports(imports)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
            'aria-label="Packages and their imports">',
            f"<style>{STYLE}</style>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0 0L8 4L0 8z" fill="#8893aa"/></marker></defs>',
            *arrows,
            *map(_box, boxes.values()),
            "</svg>\n",
        ]
    )


def _arrow(start: Box, end: Box) -> str:
    """A curve through the gap below `start` into the column of `end`, then straight down to its upper edge."""
    top, bottom = start.y + BOX_HEIGHT, end.y - 2
    turn = top + GAP - 12  # the arrowhead needs a straight end
    bend = (turn - top) * 0.6
    return (
        f'<path class="arrow" d="M{start.centre:g} {top:g} C{start.centre:g} {top + bend:g} '
        f'{end.centre:g} {turn - bend:g} {end.centre:g} {turn:g} V{bottom:g}"/>'
    )


def _box(box: Box) -> str:
    entry = box.name in ENTRY_POINTS
    lines = textwrap.wrap(description(box.name), CHARACTERS_A_LINE, max_lines=LINES, placeholder=" …")
    text = "".join(
        f'<text class="text" x="{box.x + 12:g}" y="{box.y + 40 + 16 * number:g}">{escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    return (
        f'<rect class="{"entry" if entry else "box"}" x="{box.x:g}" y="{box.y:g}" width="{BOX_WIDTH}" '
        f'height="{BOX_HEIGHT}" rx="6"/>'
        f'<text class="name" x="{box.x + 12:g}" y="{box.y + 22:g}">{box.name}{".py" if entry else "/"}</text>{text}'
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
    print(PICTURE)
