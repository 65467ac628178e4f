"""Finds the executable blocks of the documentation: Python, and shell commands."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SHELLS = ("sh", "bash", "shell", "console")
FENCE = re.compile(r"^( {0,3})```+\s*(\w*)")
COMMAND = re.compile(
    r"^(?:\w+=\S+ )*(?:python3?|lora-trainer|sh|make|pip|cog|accelerate|curl|docker|export|git|apt-get|nvidia-smi)\s"
)
"""Matches the first line of an indented block of shell commands. Other indented blocks are listings."""


@dataclass(frozen=True)
class Block:
    """A block of `kind` python or shell. `line`: where its text begins, counted from 1."""

    file: Path
    line: int
    kind: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.file.name}:{self.line}"

    def commands(self) -> list[str]:
        """The commands of a shell block: each on one line, without comments."""
        joined = self.text.replace("\\\n", " ")
        parts = (part for line in joined.splitlines() for part in line.split(" && "))
        return [command for part in parts if (command := shlex.join(shlex.split(part, comments=True)))]


def find_blocks(file: Path) -> list[Block]:
    """All blocks of Python and of the shell in a Markdown file."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [block for block in (*_fenced(file, lines), *_indented(file, lines)) if block.text.strip()]


def _fenced(file: Path, lines: list[str]) -> Iterator[Block]:
    kind, start = None, 0
    for number, line in enumerate(lines):
        if not (match := FENCE.match(line)):
            continue
        if kind is None:
            kind, start = match[2].lower(), number + 1
            continue
        text = "\n".join(lines[start:number]) + "\n"
        if kind in ("python", "py"):
            yield Block(file, start + 1, "python", text)
        elif kind in SHELLS:
            yield Block(file, start + 1, "shell", text)
        kind = None


def _indented(file: Path, lines: list[str]) -> Iterator[Block]:
    """Yields blocks that are indented by four spaces after an empty line, and begin with a command."""
    inside = before_is_empty = False
    start: int | None = None
    for number, line in enumerate([*lines, ""]):
        inside = inside != bool(FENCE.match(line))
        set_in = line.startswith("    ") and not inside
        if start is None and set_in and before_is_empty:
            start = number
        elif start is not None and not set_in:
            text = "\n".join(each[4:] for each in lines[start:number]) + "\n"
            if COMMAND.match(text):
                yield Block(file, start + 1, "shell", text)
            start = None
        before_is_empty = not line.strip()
