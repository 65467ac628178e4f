"""Writes the result of a benchmark: a table, and JSON with machine, versions and commit, compared with the last one."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.comparison import comparison, reference_loop, same_kind
from job.report.summary import versions

RESULTS = Path(__file__).resolve().parent / "results"

Row = Mapping[str, Any]


def write_record(name: str, rows: Sequence[Row], settings: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write `folder`/`name`.json, and print what became slower since the last record of the same kind of machine.

    `rows`: the table. `settings`: the options, so that it can be repeated. The last records of other kinds of machines
    are kept under `earlier`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    text = json.dumps(
        {
            "machine": machine(),
            "commit": commit(),
            "reference": reference_loop(),
            "settings": dict(settings),
            "rows": [dict(row) for row in rows],
        },
        ensure_ascii=False,
        default=str,
    )
    record = json.loads(text)
    others = []
    for earlier in _records(path):
        if not same_kind(earlier, record):
            others.append(earlier)
            continue
        for line in comparison(earlier, record):
            print(line)
    if others:
        record["earlier"] = others
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _records(path: Path) -> list[dict[str, Any]]:
    """The records in a file: one for each kind of machine."""
    if not path.exists():
        return []
    latest = json.loads(path.read_text(encoding="utf-8"))
    return [latest, *latest.pop("earlier", [])]


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


def machine_name() -> str:
    """Return the accelerator, otherwise the processor and its cores, as text."""
    here = machine()
    return here["gpu"] or f"{here['processor']}, {here['cores']} cores"


def commit() -> str:
    """Return the measured commit, with + if files differ from it; unknown outside of a checkout."""
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
