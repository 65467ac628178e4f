"""Text and pages from other sources inside the studio's page: file names, captions, reports."""

import html
from pathlib import Path

FRAME = '<iframe class="framed" title="{title}" sandbox="allow-scripts allow-downloads" srcdoc="{page}"></iframe>'
MARKS = "\\`*_{}[]<>()#+!|~$&"


def framed(path: Path) -> str:
    """Return the HTML of a frame with the page in `path`. It is isolated from the studio and cannot call it."""
    return FRAME.format(title=html.escape(path.stem), page=html.escape(path.read_text(encoding="utf-8")))


def escaped(text: str) -> str:
    """Escape the markup of Markdown and HTML."""
    return "".join(f"\\{letter}" if letter in MARKS else letter for letter in text)
