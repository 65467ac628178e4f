"""Parses JSON files with captions."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from preprocess.errors import DatasetError
from preprocess.uploads.text_files import read_text


def parse_json(text: str, where: str) -> Any:
    """Parse `text`. Raises DatasetError for invalid JSON."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DatasetError(f"{where}: is not JSON ({error})") from error


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the value of each line that is not blank, with a description of the line. Raises DatasetError."""
    for number, line in enumerate(io.StringIO(read_text(path), newline=None), 1):  # U+2028 is not a line end in JSON
        if line.strip():
            where = f"{path.name}, line {number}"
            yield where, parse_json(line, where)
