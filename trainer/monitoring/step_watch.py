"""Checks after every step: weight change, collapse, memory and time."""

from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any, Literal

from trainer.loop import Step
from trainer.monitoring.collapse_guard import CollapseGuard
from trainer.monitoring.time_budget import TimeBudget, WorkBetween
from trainer.training import Training

Kind = Literal["validation", "look", "checkpoint", "samples"]
"""Operations between steps."""


class StepWatch:
    """Measures the weights, collects warnings for the user, and ends the run at the time limit."""

    def __init__(self, training: Training, look_seconds: float | None = None) -> None:
        """`look_seconds`: seconds for scoring the samples of a step, if known."""
        config, trainer = training.config, training.trainer
        self._training = training
        fresh = config.init_weights is None  # otherwise the weights differ considerably before the first step
        self._guard = CollapseGuard(
            config.collapse_guard if fresh else "off",
            config.collapse_limit,
            trainer.trainables[0],
            trainer.max_train_steps,
        )
        minutes = config.max_train_minutes
        self._between = _between_steps(training)
        self._between["look"].seconds = look_seconds
        self._budget = TimeBudget(
            None if minutes is None else 60 * minutes, training.seconds, between=tuple(self._between.values())
        )
        self._memory_measures = self._taken()
        self._said_why = False

    def look(self, step: Step) -> tuple[dict[str, Any] | None, list[str]]:
        """Return additional metrics for metrics.jsonl (None when not due), and warnings."""
        seen = self._training.observer.look() if step.number % self._training.config.diagnostics_steps == 0 else None
        collapse = self._guard.check(step.number, seen.weight_change) if seen else None
        warnings = [collapse, self._memory(), self._recording(), self._time(step)]
        return asdict(seen) if seen else None, [warning for warning in warnings if warning]

    def timing(self, kind: Kind) -> AbstractContextManager[None]:
        """Measure an operation between two steps inside this context, so that the time limit includes it."""
        return self._budget.timing(self._between[kind])

    def note_time(self) -> None:
        """Update `Training.seconds`, for a checkpoint."""
        self._training.seconds = self._budget.spent

    def _memory(self) -> str | None:
        if self._taken() == self._memory_measures:
            return None
        self._memory_measures = parts, checkpointing = self._taken()
        how = "with gradient checkpointing, " if checkpointing else ""
        return (
            f"out of memory: from now on micro-batches run {how}in {parts} parts; the effective batch size does not "
            "change"
        )

    def _recording(self) -> str | None:
        recorded = self._training.passes.recorded
        if self._said_why or recorded is None or recorded.problem is None:
            return None
        self._said_why = True
        return f"cuda_graphs: disabled, because a pass could not be captured ({recorded.problem})"

    def _taken(self) -> tuple[int, bool]:
        return self._training.trainer.accumulation.parts, self._training.passes.checkpointing.on

    def _time(self, step: Step) -> str | None:
        trainer = self._training.trainer
        self.note_time()
        settling = self._training.settling
        if settling is not None and settling.reason is not None:
            self._between["look"].every = None  # except the last one
        before = trainer.max_train_steps
        end = self._budget.end(step.number, before)
        if end == before:
            return None
        trainer.end_at(end)
        why = "the time limit does not allow more steps" if end < before else "steps have become faster"
        return f"{why}: the run and its schedules end at step {end}"


def _between_steps(training: Training) -> dict[Kind, WorkBetween]:
    config, settling = training.config, training.settling
    scored = training.scorer is not None and config.validation_steps is not None
    return {
        "validation": WorkBetween(config.validation_steps if scored else None, at_end=scored),
        "look": WorkBetween(None if settling is None else settling.interval, at_end=settling is not None),
        "checkpoint": WorkBetween(_checkpoint_interval(training)),
        "samples": WorkBetween(config.sample_steps),
    }


def _checkpoint_interval(training: Training) -> int | None:
    """Steps from one checkpoint to the next, rounded for epochs; None without one, and for minutes."""
    config = training.config
    if config.checkpointing_epochs is None:
        return config.checkpointing_steps
    return max(1, round(config.checkpointing_epochs * training.steps_an_epoch))
