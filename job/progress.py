"""Progress of a running training: a line of text, or JSON for the parent process."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.output_folder import write_whole
from preprocess.workers.relay import relay
from trainer.execution.memory import peak_memory_gib

if TYPE_CHECKING:  # the server's parent process reads progress without loading torch
    from preprocess.dataset import PreparedDataset
    from preprocess.prepare import Stages
    from preprocess.progress import StageProgress
    from trainer.loop import Step

SPEED_WINDOW = 20


@dataclass(frozen=True)
class Progress:
    """Progress of a job. `fraction` of the whole job, 0 to 1. The figures are None outside the training stage.

    `phases`: seconds by phase, at the end of the job. `stage`: the activity of which `done` of `total` parts are done;
    None for a message without progress.
    """

    message: str
    fraction: float
    step: int | None = None
    loss: float | None = None
    eta_seconds: float | None = None
    warning: bool = False
    phases: dict[str, float] | None = None
    stage: str | None = None
    done: int = 0
    total: int = 0

    @property
    def note(self) -> str:
        """A short text for the end of a progress bar."""
        return "" if self.loss is None else f"loss {self.loss:.4f}"

    def __str__(self) -> str:
        return f"warning: {self.message}" if self.warning else self.message

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_line(cls, line: str) -> Progress | None:
        """Parse a line of a training's output. Returns None for any other line."""
        try:
            return cls(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            return None


class StepReporter:
    """Writes metrics.jsonl and turns steps into progress lines with loss, learning rates, it/s and ETA."""

    def __init__(
        self,
        path: Path,
        total_steps: int,
        first: float,
        last: float,
        clock: Callable[[], float] = time.monotonic,
        resumed_at: int = 0,
    ) -> None:
        """`first` and `last`: the fractions of the job at which the steps begin and end. `resumed_at`: lines after this
        step are removed from metrics.jsonl."""
        self._path, self._span, self._clock = path, (first, last), clock
        self.total = total_steps
        self._times: deque[float] = deque([clock()], maxlen=SPEED_WINDOW + 1)
        keep_lines(path, resumed_at)

    def report(self, step: Step, diagnostics: Mapping[str, Any] | None = None) -> Progress:
        """Write a line with optional `diagnostics`, and return the progress."""
        self._times.append(self._clock())
        seconds = (self._times[-1] - self._times[0]) / (len(self._times) - 1)
        remaining = seconds * (self.total - step.number)
        row: dict[str, Any] = {
            "step": step.number,
            "loss": step.loss,
            "losses": step.losses,
            "gradient_norms": step.gradient_norms,
            "learning_rates": step.learning_rates,
            "seconds_per_step": round(seconds, 4),
            "peak_memory_gib": peak_memory_gib(),
            **({} if step.loss_scale is None else {"loss_scale": step.loss_scale, "skipped": step.skipped}),
            **(diagnostics or {}),
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        rates = ", ".join(f"{name} {rate:.2e}" for name, rate in step.learning_rates.items())
        first, last = self._span
        return Progress(
            f"step {step.number}/{self.total}: loss {step.loss:.4f}, lr {rates}, {1 / max(seconds, 1e-9):.2f} it/s, "
            f"ETA {_duration(remaining)}",
            fraction=first + (last - first) * step.number / self.total,
            step=step.number,
            loss=step.loss,
            eta_seconds=remaining,
            stage="training",
            done=step.number,
            total=self.total,
        )


def relay_preparation(stages: Stages, first: float, last: float) -> Generator[Progress, None, PreparedDataset]:
    """Convert the stages of data preparation to progress between two fractions of the job.

    The number of stages is unknown in advance, so each takes a third of the remaining range.
    """
    begun = fraction = first
    stage = ""

    def line(report: StageProgress) -> Progress:
        nonlocal begun, fraction, stage
        if report.stage != stage:
            begun, stage = fraction, report.stage
        fraction = begun + (last - begun) / 3 * report.done / report.total
        return stage_progress(report, fraction)

    return relay(stages, line)


def stage_progress(report: StageProgress, fraction: float) -> Progress:
    """Convert a stage's report to progress of the job."""
    return Progress(str(report), fraction, stage=report.stage, done=report.done, total=report.total)


def keep_lines(path: Path, step: int) -> None:
    """Cut a file of JSON lines after the line of `step`. 0 empties or creates it."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if step else []
    write_whole(path, "".join(line for line in lines if _step_of(line) <= step))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except json.JSONDecodeError:  # truncated when the process was killed
        return float("inf")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
