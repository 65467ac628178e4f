"""The training stage of a job: steps with logging, checkpoints and validation scores."""

import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from job.output_folder import OutputFolder
from job.progress import Progress, StepReporter, keep_lines
from job.samples import SampleSettings, write_samples_of_step
from sampler.sampler import Sampler
from trainer.checkpoints.folders import Checkpoints, read_checkpoint
from trainer.checkpoints.training_state import restore
from trainer.distributed.processes import Processes
from trainer.distributed.sharded_base import WHOLE, Base
from trainer.distributed.synchronized_steps import synchronized_steps
from trainer.monitoring.step_watch import StepWatch
from trainer.training import Training

Span = tuple[float, float]
"""Fractions of the job at which something begins and ends."""


def train(
    training: Training, output: OutputFolder, samples: SampleSettings, base: Base = WHOLE, span: Span = (0.0, 1.0)
) -> Iterator[Progress]:
    """Step by step. At the end the best step's state is on the model: the last one's where nothing is scored.

    Whatever ends it early, what was trained so far is saved first. `base` is apart before and after. `span`: fractions
    of the job.
    """
    trainer, config = training.trainer, training.config
    reporter = StepReporter(output.metrics, trainer.max_train_steps, *span, resumed_at=trainer.step)
    checkpoints = Checkpoints(output.checkpoints, config.keep_checkpoints)
    validation = Validation(training, output, span)
    watch = StepWatch(training)
    steps = synchronized_steps(trainer, Processes(trainer.accelerator), base)
    finished = False
    try:
        yield from validation.before_training()
        for step in steps:
            diagnostics, warnings = watch.look(step)
            reporter.total = trainer.max_train_steps
            yield reporter.report(step, diagnostics)
            for warning in warnings:
                yield Progress(warning, _fraction(training, span), step=step.number, warning=True)
            better = False
            if validation.due(step.number):
                better = yield from validation.observe(step.number)
            if better or (config.checkpointing_steps and step.number % config.checkpointing_steps == 0):
                checkpoints.protected = {training.best.step} if training.best.step else set()
                checkpoints.write(training)
            if config.sample_steps and step.number % config.sample_steps == 0:
                write_samples_of_step(samples, Sampler(training.family), output, step.number, training.triggers)
            if training.best.waited_enough:
                stopped = f"no better step in {training.best.since} validations: stopping early"
                yield Progress(stopped, _fraction(training, span), step=step.number)
                break
        finished = True
    except GeneratorExit:  # between two steps: only there the state is whole
        checkpoints.write(training)
        raise
    finally:
        steps.close()
        if not finished and trainer.step > 0:
            training.write(output.weights)
    yield from _return_to_the_best(training, checkpoints, span[1])


@dataclass
class Validation:
    """Scores steps when they are due. Does nothing without a scorer."""

    training: Training
    output: OutputFolder
    span: Span

    def due(self, step: int) -> bool:
        """Every `validation_steps`, and at the end."""
        config = self.training.config
        if self.training.scorer is None or config.validation_steps is None:
            return False
        return step % config.validation_steps == 0 or step == self.training.trainer.max_train_steps

    def before_training(self) -> Iterator[Progress]:
        """Of a fresh run, the base's own score, which later ones are relative to."""
        if self.training.scorer is None:
            return
        keep_lines(self.output.validation, self.training.trainer.step)
        if self.training.trainer.step == 0:
            yield self._line(0, self._measure(0))

    def observe(self, step: int) -> Generator[Progress, None, bool]:
        """Score a step. Returns whether it is the best up to now."""
        figures = self._measure(step)
        better = self.training.best.observe(step, figures["score"])
        yield self._line(step, figures)
        return better

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
        return Progress(said, _fraction(self.training, self.span), step=step or None)


def _fraction(training: Training, span: Span) -> float:
    return span[0] + (span[1] - span[0]) * training.trainer.step / training.trainer.max_train_steps


def _return_to_the_best(training: Training, checkpoints: Checkpoints, fraction: float) -> Iterator[Progress]:
    best, last = training.best, training.trainer.step
    if best.step is None:
        return
    assert training.scorer is not None
    what = f"its {training.scorer.name} is {best.score:.4f}, the lowest"
    if best.step == last:
        yield Progress(f"the last step is the best: {what}", fraction)
        return
    restore(training, read_checkpoint(checkpoints.path(best.step)))
    yield Progress(f"returning step {best.step} and not the last one, {last}: {what}", fraction)
