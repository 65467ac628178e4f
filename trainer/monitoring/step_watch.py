"""Checks after every step: weight change, collapse, memory and time."""

from dataclasses import asdict
from typing import Any

from trainer.loop import Step
from trainer.monitoring.collapse_guard import CollapseGuard
from trainer.monitoring.time_budget import TimeBudget
from trainer.training import Training


class StepWatch:
    """Measures the weights, collects warnings for the user, and ends the run at the time limit."""

    def __init__(self, training: Training) -> None:
        config, trainer = training.config, training.trainer
        self._training = training
        fresh = config.init_weights is None  # else it has moved far before the first step
        self._guard = CollapseGuard(
            config.collapse_guard if fresh else "off",
            config.collapse_limit,
            trainer.trainables[0],
            trainer.max_train_steps,
        )
        minutes = config.max_train_minutes
        self._budget = TimeBudget(None if minutes is None else 60 * minutes, training.seconds)
        self._memory_measures = self._taken()
        self._said_why = False

    def look(self, step: Step) -> tuple[dict[str, Any] | None, list[str]]:
        """Return additional metrics for metrics.jsonl (None when not due), and warnings."""
        seen = self._training.observer.look() if step.number % self._training.config.diagnostics_steps == 0 else None
        collapse = self._guard.check(step.number, seen.weight_change) if seen else None
        warnings = [collapse, self._memory(), self._recording(), self._time(step)]
        return asdict(seen) if seen else None, [warning for warning in warnings if warning]

    def _memory(self) -> str | None:
        if self._taken() == self._memory_measures:
            return None
        self._memory_measures = parts, checkpointing = self._taken()
        how = "with gradient checkpointing, " if checkpointing else ""
        return f"out of memory: from here on each micro-batch goes {how}in {parts} parts; the effective batch stays"

    def _recording(self) -> str | None:
        recorded = self._training.passes.recorded
        if self._said_why or recorded is None or recorded.problem is None:
            return None
        self._said_why = True
        return f"cuda_graphs: goes on without, for a pass could not be recorded ({recorded.problem})"

    def _taken(self) -> tuple[int, bool]:
        return self._training.trainer.accumulation.parts, self._training.passes.checkpointing.on

    def _time(self, step: Step) -> str | None:
        trainer = self._training.trainer
        self._training.seconds = self._budget.spent
        end = self._budget.end(step.number, trainer.max_train_steps)
        if end == trainer.max_train_steps:
            return None
        trainer.end_at(end)
        return f"the time given does not do for more: the run and its schedules end at step {end}"
