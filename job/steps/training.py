"""The training stage of a job: steps with logging, checkpoints and validation scores."""

from collections.abc import Iterator
from contextlib import suppress

from families.family import restoring
from job.controlnet.samples import sample_conditions, write_control_samples, write_prompts
from job.output_folder import OutputFolder
from job.progress import Progress, StepReporter
from job.restoring.samples import originals_of, write_restored
from job.samples import SampleSettings, write_samples_of_step
from job.steps.length import Length
from job.steps.validation import Span, Validation, fraction
from sampler.sampler import Sampler
from trainer.checkpoints.folders import Checkpoints, read_checkpoint
from trainer.checkpoints.schedule import CheckpointSchedule
from trainer.checkpoints.state_file import size_of
from trainer.checkpoints.training_state import capture, restore
from trainer.distributed.processes import Processes
from trainer.distributed.sharded_base import WHOLE, Base
from trainer.distributed.synchronized_steps import synchronized_steps
from trainer.loop import Step
from trainer.monitoring.step_watch import StepWatch
from trainer.trainables.trainable import TrainingDiverged
from trainer.training import Training

KEPT_UNASKED = 1_000_000_000
"""Largest size in bytes of the final state that is kept by default."""


def train(
    training: Training,
    output: OutputFolder,
    samples: SampleSettings,
    base: Base = WHOLE,
    span: Span = (0.0, 1.0),
    length: Length | None = None,
) -> Iterator[Progress]:
    """Train step by step. At the end, the model and weights.safetensors have the state of the best step, or of the last
    one without scores.

    All tasks of a step are done before its first message is yielded, so that they are done once, wherever the caller
    stops. If the training ends early, the current weights are saved first. `base` is unmodified before and after.
    `span`: fractions of the job. `length`: ends the run by evaluations of samples; by default its length is fixed.
    """
    length = length or Length(training)
    trainer = training.trainer
    checkpoints = Checkpoints(output.checkpoints, _last_ones(training))
    validation = Validation(training, output, span)
    work = WorkOfSteps(training, output, samples, checkpoints, validation, length, span)
    steps = synchronized_steps(trainer, Processes(trainer.accelerator), base)
    finished = False
    try:
        yield from work.before()
        while not training.best.waited_enough and (step := next(steps, None)) is not None:
            yield from work.after(step)
        finished = True
    except GeneratorExit:  # between two steps, where the state is consistent
        work.keep_state()
        raise
    finally:
        steps.close()
        if not finished and trainer.step > 0 and (base.answers or not any(each.sharded for each in trainer.trainables)):
            with suppress(TrainingDiverged):  # weights that are not finite are not saved
                training.write(output.weights)
    state_line = _keep_the_end(training, work)
    lines = list(_return_to_the_best(training, length, checkpoints, span[1]))
    training.write(output.weights)
    yield from (*(Progress(line, span[1]) for line in state_line), *lines)


class WorkOfSteps:
    """The tasks after a step: log it, evaluate it, and score, save and sample it when due."""

    def __init__(
        self,
        training: Training,
        output: OutputFolder,
        samples: SampleSettings,
        checkpoints: Checkpoints,
        validation: Validation,
        length: Length,
        span: Span,
    ) -> None:
        trainer = training.trainer
        self._training, self._output, self._samples, self._span = training, output, samples, span
        self._checkpoints, self._validation, self._length = checkpoints, validation, length
        self._watch = StepWatch(training, length.look_seconds)
        self._reporter = StepReporter(output.metrics, trainer.max_train_steps, *span, resumed_at=trainer.step)
        self._schedule = CheckpointSchedule(training.config.output, training.steps_an_epoch, lambda: training.seconds)
        self._saved = trainer.step  # a resumed run already has this checkpoint

    def before(self) -> list[Progress]:
        """Score the base model in a new run. Returns messages."""
        if not self._validation.scores_base:
            return list(self._validation.before_training())
        with self._watch.timing("validation"):
            return list(self._validation.before_training())

    def after(self, step: Step) -> list[Progress]:
        """Perform the tasks. Returns messages, the step itself first."""
        training, config = self._training, self._training.config
        diagnostics, warnings = self._watch.look(step)
        self._reporter.total = training.trainer.max_train_steps
        lines = [self._reporter.report(step, diagnostics)]
        if step.skipped:
            lines.append(
                self._line(
                    f"step {step.number} was skipped: a gradient overflowed in fp16 with a loss scale of "
                    f"{step.loss_scale:g}; the scale is halved",
                    step,
                )
            )
        lines += [self._line(warning, step, warning=True) for warning in warnings]
        lines += self._scores(step)
        if self._schedule.due(step.number) or step.number in self._kept:
            with self._watch.timing("checkpoint"):
                self._write_checkpoint()
        if _is_due(config.sample_steps, step):
            with self._watch.timing("samples"), training.averaged():
                _write_samples(training, self._samples, self._output, step.number)
        if training.best.waited_enough:
            lines.append(self._line(f"no improvement in {training.best.since} validations: stopping early", step))
        return lines

    def _scores(self, step: Step) -> list[Progress]:
        """Score held-out images and samples where they are due, also if the samples end the run with this step."""
        lines = []
        validated = self._validation.due(step.number)
        if validated:
            lines.append(self._validated(step))
        if self._length.due(step.number):
            with self._watch.timing("look"):
                lines += [self._line(line, step) for line in self._length.observe(step.number)]
        if not validated and self._validation.due(step.number):
            lines.append(self._validated(step))
        return lines

    def _validated(self, step: Step) -> Progress:
        with self._watch.timing("validation"):
            return self._validation.observe(step.number)

    def keep_state(self) -> None:
        """Write a checkpoint of the last step, if there is none."""
        if self._saved != self._training.trainer.step:
            self._write_checkpoint(extra=True)

    @property
    def _kept(self) -> set[int]:
        """The steps whose checkpoints must be kept: those with the best scores and the best samples."""
        return self._training.best.kept | self._length.protected

    def _write_checkpoint(self, *, extra: bool = False) -> None:
        self._checkpoints.protected = self._kept
        self._watch.note_time()
        self._checkpoints.write(self._training, extra=extra)
        self._saved = self._training.trainer.step

    def forget_states(self) -> None:
        """Remove checkpoints that were only written at the end of an earlier part of the run."""
        self._checkpoints.remove_extra()

    def _line(self, text: str, step: Step, *, warning: bool = False) -> Progress:
        return Progress(text, fraction(self._training, self._span), step=step.number, warning=warning)


def _last_ones(training: Training) -> int | None:
    """Return the number of last checkpoints to keep, in addition to the best ones; None: all."""
    config = training.config
    only_best = config.keep_best is not None or (config.stop_when_settled and not config.output.writes_checkpoints)
    return config.keep_checkpoints or (1 if only_best else None)


def _is_due(every: int | None, step: Step) -> bool:
    return every is not None and step.number % every == 0


def _keep_the_end(training: Training, work: WorkOfSteps) -> list[str]:
    """Keep the last step's state, or return the reason why not. A resumed run keeps the same checkpoints as an
    uninterrupted one."""
    keep = training.config.keep_state
    size = size_of(capture(training)) + sum(each.bytes_in_shards for each in training.trainer.trainables)
    if keep is None and size >= KEPT_UNASKED:
        work.forget_states()
        return [f"the final state takes {size / 1e9:.1f} GB and is not kept; set keep_state: true to keep it"]
    if keep is False:
        work.forget_states()
    else:
        work.keep_state()
    return []


def _write_samples(training: Training, samples: SampleSettings, output: OutputFolder, step: int) -> None:
    if restoring(training.family) is not None:
        originals, folder = originals_of(training, samples), output.samples_of_step(step)
        write_restored(originals, samples, training.family, folder)
        write_prompts(originals.captions, output.step_prompts)
        return
    if training.controlnet is None:
        with training.as_used():
            write_samples_of_step(samples, Sampler(training.family), output, step, training.triggers)
        return
    conditions = sample_conditions(training, samples)
    write_control_samples(samples, conditions, training, output.samples_of_step(step))
    write_prompts([each.prompt for each in conditions], output.step_prompts)


def _return_to_the_best(
    training: Training, length: Length, checkpoints: Checkpoints, fraction: float
) -> Iterator[Progress]:
    """Restore the step with the best score on held-out images, otherwise the one with the best samples. Yields
    messages: a warning if its checkpoint was removed."""
    best, last = training.best, training.trainer.step
    if best.step is not None:
        assert training.scorer is not None
        step, why = best.step, f"its {training.scorer.name} is {best.score:.4f}, the lowest"
    elif (look := length.better_than_last) is not None:
        step, why = look.step, "its samples are better"
    else:
        return
    if step == last:
        yield Progress(f"the last step is the best: {why}", fraction)
        return
    if not checkpoints.path(step).is_dir():
        gone = f"{checkpoints.path(step)} was removed, although {why}: the last step {last} is returned instead"
        yield Progress(gone, fraction, warning=True)
        return
    _restore_weights(training, checkpoints, step)
    yield Progress(f"returning step {step} instead of the last step {last}: {why}", fraction)


def _restore_weights(training: Training, checkpoints: Checkpoints, step: int) -> None:
    """Restore the weights of an earlier step. The records of the whole run are kept."""
    settling, end = training.settling, training.trainer.max_train_steps
    known = None if settling is None else settling.state_dict()
    restore(training, read_checkpoint(checkpoints.path(step)))
    training.trainer.max_train_steps = end
    if settling is not None and known is not None:
        settling.load_state_dict(known)
