"""Parses JSON files with captions."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from preprocess.errors import DatasetError
from preprocess.uploads.text_files import read_text

SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a pair of escapes, as of an emoji in a text that was cut off. It cannot be written as UTF-8."""


class RepeatedName(ValueError):
    """A name in a JSON object that has two values."""


def parse_json(text: str, where: str) -> Any:
    """Parse `text`; single surrogates become U+FFFD. Raises DatasetError for invalid JSON, and for an object with two
    values for one name, of which the parser would keep the last."""
    try:
        content = json.loads(text, object_pairs_hook=_record)
        return _without_surrogates(content) if "\\ud" in text.lower() else content
    except RepeatedName as error:
        raise DatasetError(f"{where}: has two values for {error}. Keep one.") from error
    except (ValueError, RecursionError) as error:  # also a number with thousands of digits
        raise DatasetError(f"{where}: is not JSON ({error})") from error


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the value of each line that is not blank, with a description of the line. Raises DatasetError."""
    for number, line in enumerate(io.StringIO(read_text(path), newline=None), 1):  # U+2028 is not a line end in JSON
        if line.strip():
            where = f"{path.name}, line {number}"
            yield where, parse_json(line, where)


def _record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. Raises RepeatedName for a name that has two values."""
    record = dict(pairs)
    if len(record) < len(pairs) and (twice := next((name for name, value in pairs if record[name] != value), None)):
        raise RepeatedName(repr(twice))
    return record


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list):
        return [_without_surrogates(each) for each in value]
    if isinstance(value, dict):
        return {_without_surrogates(name): _without_surrogates(each) for name, each in value.items()}
    return value
