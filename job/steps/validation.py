"""Scores on held-out images during training."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from job.output_folder import OutputFolder
from job.progress import Progress, keep_lines
from trainer.training import Training

Span = tuple[float, float]
"""Fractions of the job at the beginning and end."""


@dataclass
class Validation:
    """Scores steps when they are due. Does nothing without a scorer."""

    training: Training
    output: OutputFolder
    span: Span

    def due(self, step: int) -> bool:
        """Whether a step is to be scored: every `validation_steps`, and the last one."""
        config = self.training.config
        if self.training.scorer is None or config.validation_steps is None:
            return False
        return step % config.validation_steps == 0 or step == self.training.trainer.max_train_steps

    @property
    def scores_base(self) -> bool:
        """Whether `before_training` scores the base: in a new run."""
        return self.training.scorer is not None and self.training.trainer.step == 0

    def before_training(self) -> Iterator[Progress]:
        """Score the base model in a new run. Later scores are relative to it."""
        if self.training.scorer is None:
            return
        keep_lines(self.output.validation, self.training.trainer.step)
        if self.scores_base:
            yield self._line(0, self._measure(0))

    def observe(self, step: int) -> Progress:
        """Score a step. Returns a message."""
        figures = self._measure(step)
        self.training.best.observe(step, figures["score"])
        return self._line(step, figures)

    def _measure(self, step: int) -> dict[str, float]:
        assert self.training.scorer is not None
        with self.training.averaged():
            figures = self.training.scorer()
        with self.output.validation.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        return figures

    def _line(self, step: int, figures: dict[str, float]) -> Progress:
        assert self.training.scorer is not None
        best = self.training.best
        suffix = "" if best.step is None else f" (best: {best.score:.4f} at step {best.step})"
        said = f"{self.training.scorer.name}: {figures['score']:.4f}{suffix}"
        return Progress(said, fraction(self.training, self.span), step=step or None)


def fraction(training: Training, span: Span) -> float:
    """Return the finished share of the job."""
    return span[0] + (span[1] - span[0]) * training.trainer.step / training.trainer.max_train_steps
