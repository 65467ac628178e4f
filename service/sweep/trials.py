"""Runs the trials of a sweep in separate processes. Finished trials are not repeated when the sweep continues."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from job.output_folder import write_whole
from settings.record import ConfigError

PROJECT = Path(__file__).resolve().parents[2]
LAST_LINES = 5


@dataclass(frozen=True)
class Trial:
    """One trial. `folder`: has config.yaml, log.txt, and the training's output in `run`. `values`: the settings of this
    trial."""

    number: int
    folder: Path
    values: Mapping[str, Any]

    @property
    def output(self) -> Path:
        """The training's output folder."""
        return self.folder / "run"

    @property
    def report(self) -> dict[str, Any] | None:
        """The contents of report.json; None before the training is finished."""
        path = self.output / "report.json"
        found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return found

    @property
    def quality(self) -> float | None:
        """The quality of the candidate that the evaluation chose, None before."""
        report = self.report
        return float(report["evaluation"]["chosen"]["relative"]["quality"]) if report and report["evaluation"] else None


def lay_out(folder: Path, common: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]) -> list[Trial]:
    """Write each trial's config.yaml, or check that the folder belongs to this sweep.

    Raises ConfigError when the folder contains another sweep.
    """
    plan = {"common": dict(common), "trials": [dict(values) for values in settings]}
    path = folder / "sweep.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(plan)):
        raise ConfigError(
            f"output: {folder} contains another sweep. Choose another folder, or use the settings of that sweep."
        )
    if not path.is_file() and folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"output: {folder} exists and is not a sweep. Choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(plan, indent=2))
    trials = [Trial(number, folder / f"trial_{number:03d}", values) for number, values in enumerate(settings)]
    for trial in trials:
        trial.folder.mkdir(exist_ok=True)
        text = yaml.safe_dump({**common, **trial.values}, sort_keys=False, allow_unicode=True)
        write_whole(trial.folder / "config.yaml", text)
    return trials


def run_all(trials: Sequence[Trial], data: Sequence[str]) -> Iterator[tuple[Trial, str | None]]:
    """Run the unfinished trials one after another. Yields each with None, or the reason of its failure."""
    for trial in trials:
        yield trial, None if trial.report else run_trial(trial, data)


def run_trial(trial: Trial, data: Sequence[str]) -> str | None:
    """Train. Unfinished output of an earlier attempt is renamed. Returns the reason of a failure, or None."""
    if trial.output.exists():
        number = len(list(trial.folder.glob("unfinished_*"))) + 1
        trial.output.rename(trial.folder / f"unfinished_{number}")
    command = [sys.executable, str(PROJECT / "train.py"), *data, "--config", str(trial.folder / "config.yaml"),
               "--output", str(trial.output)]  # fmt: skip
    with (trial.folder / "log.txt").open("w", encoding="utf-8") as log:
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if status == 0 and trial.report:
        return None
    lines = (trial.folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
    return f"status {status}: " + " / ".join(lines)
