"""Writes the result of a benchmark: a table, and JSON with machine, versions and commit."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from job.report.summary import versions

RESULTS = Path(__file__).resolve().parent / "results"

Row = Mapping[str, Any]


def write_record(name: str, rows: Sequence[Row], settings: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write `folder`/`name`.json. `rows`: the table. `settings`: what was asked for, so that it can be run again."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    record = {"machine": machine(), "commit": commit(), "settings": dict(settings), "rows": [dict(row) for row in rows]}
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    return path


def machine() -> dict[str, Any]:
    """Return processor, cores, accelerator and versions, on which figures depend."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "versions": versions(),
    }


def commit() -> str:
    """Return the measured commit, with + where files differ from it; unknown outside a checkout."""
    answer = subprocess.run(
        ["git", "describe", "--always", "--abbrev=10", "--dirty=+"],
        cwd=RESULTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or "unknown"


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a markdown table; every row has the first one's columns."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_cell(row[column]) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")


def _processor_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
