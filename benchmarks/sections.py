"""Pages of measurements to which several commands write one section each."""

import re
from pathlib import Path


def replace_section(page: Path, title: str, heading: str, text: str) -> None:
    """Write `text` under the second-level `heading` of a page, replacing the existing section; a new one is appended. A
    new page starts with `title`.
    """
    before = page.read_text(encoding="utf-8") if page.exists() else f"# {title}\n"
    parts = [part.strip() for part in re.split(r"(?m)^(?=## )", before)]
    section = f"## {heading}\n\n{text.strip()}"
    places = [index for index, part in enumerate(parts) if part.split("\n", 1)[0] == f"## {heading}"]
    if places:
        parts[places[0]] = section
    else:
        parts.append(section)
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
