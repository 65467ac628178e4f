"""Stores the result of each finished run of a long benchmark as JSON, so that it can be resumed."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.record import Row, commit

FINISHED = Path(__file__).resolve().parents[1] / "outputs" / "benchmarks"
"""A folder that is not part of the repository."""


class Unfinished(Exception):
    """Raised when the allowed number of runs is finished, and some are still missing."""


@dataclass
class FinishedRuns:
    """Finished runs in `folder`.

    `at_most`: number of new runs before Unfinished is raised; None: all. A run with other settings is repeated. A run
    of another commit is kept and recorded with that commit.
    """

    folder: Path
    at_most: int | None = None
    commits: set[str] = field(default_factory=set, init=False)
    """Commits of the requested runs."""
    _made: int = field(default=0, init=False)

    def get(self, name: str, settings: Mapping[str, Any], measure: Callable[[], Row]) -> Row:
        """Return the run `name` from its file, otherwise by `measure`, whose row must be JSON-serialisable."""
        path = self.folder / f"{re.sub(r'[^A-Za-z0-9.+=-]+', '-', name)}.json"
        wanted = json.loads(json.dumps(dict(settings), default=str))
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["settings"] == wanted:
                self.commits.add(found["commit"])
                return dict(found["row"])
        if self._made == self.at_most:
            raise Unfinished(f"{name} is still missing; run the same command again to continue")
        row = dict(measure())
        self._made += 1
        self.commits.add(commit())
        print(f"{name}: {row}", flush=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {"name": name, "commit": commit(), "settings": wanted, "row": row}
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)
        return row
