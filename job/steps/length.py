"""The end of a run with `stop_when_settled`: evaluations of samples, and the decisions based on them."""

import math
from collections.abc import Iterator

from evaluation.choice import AS_GOOD
from evaluation.looks import SampleLooks, behind
from trainer.duration import plan_duration
from trainer.trainables.schedules import DECAY
from trainer.training import Training
from trainer.validation.settling import Look, Settling, copies_more


class Length:
    """Evaluates samples when due, and sets the trainer's last step. Does nothing for a run of fixed length."""

    def __init__(self, training: Training, looks: SampleLooks | None = None) -> None:
        """`looks`: None if samples cannot be scored."""
        self._training, self._looks = training, looks

    @property
    def _settling(self) -> Settling | None:
        return None if self._looks is None else self._training.settling

    @property
    def look_seconds(self) -> float | None:
        """Predicted seconds of an evaluation of samples; None without evaluations."""
        return None if self._settling is None or self._looks is None else self._looks.seconds

    def begin(self) -> str | None:
        """Set the length of a new run whose samples cannot be scored. Returns a message about it."""
        training = self._training
        if training.settling is None or self._looks is not None or training.trainer.step > 0:
            return None
        trainer = training.trainer
        fixed = training.config.duration.model_copy(update={"stop_when_settled": False, "max_train_steps": None})
        planned = plan_duration(fixed, training.batches.examples, trainer.generators.share.count).max_train_steps
        assert planned is not None
        end = min(trainer.max_train_steps, planned)
        trainer.end_at(end)
        return (
            f"stop_when_settled has no effect, since samples cannot be scored: the run has {end} steps. Set "
            "evaluation_clip and evaluation_dino to available encoders, or set max_train_steps"
        )

    def due(self, step: int) -> bool:
        """Whether samples are to be scored after this step: at intervals, and after the last one."""
        settling = self._settling
        return settling is not None and (settling.due(step) or step == self._training.trainer.max_train_steps)

    def observe(self, step: int) -> Iterator[str]:
        """Score the samples of this step, and end the run if they have settled. Yields messages."""
        settling, training, looks = self._settling, self._training, self._looks
        assert settling is not None and looks is not None
        with training.averaged(), training.as_used():
            by_concept = looks(training.triggers)
        measures = behind(list(by_concept.values()))
        decided = settling.reason is not None
        improving = training.scorer is not None and training.best.since == 0
        ends = settling.observe(step, measures, improving=improving, by_concept=by_concept)
        yield (
            f"samples at step {step}: {measures.fidelity:.0%} of the similarity of the training images, prompts "
            f"followed {measures.following:.0%} as well as by the base model, other prompts {measures.kept:.0%} kept"
        )
        if ends and not decided:
            yield self._end(step)
        elif not ends and step == training.trainer.max_train_steps:
            yield (
                f"samples have not settled in the {step} steps of this run; continue with --resume, a higher "
                "max_train_steps and stop_when_settled: true, without which all of these steps are trained"
            )

    def _end(self, step: int) -> str:
        """End the run with the decay of the learning rate, which restores some of the loss in prompt following."""
        settling, trainer = self._training.settling, self._training.trainer
        assert settling is not None
        end = min(trainer.max_train_steps, math.ceil(step / (1 - DECAY)) if self._decays else step)
        trainer.end_at(end)
        lost = "prompts are followed less, or samples become copies"
        why = lost if settling.reason == "lost" else "the likeness of samples has settled"
        return f"{why}: the run and its schedules end at step {end}"

    @property
    def _decays(self) -> bool:
        return self._training.config.lr_scheduler == "warmup_stable_decay"

    @property
    def protected(self) -> set[int]:
        """The step whose checkpoint must be kept: that of the best evaluation."""
        settling = self._settling
        return set() if settling is None or settling.best is None else {settling.best.step}

    @property
    def better_than_last(self) -> Look | None:
        """The best evaluation, if it is better than the last one by more than the noise of both, or has fewer
        copies."""
        settling = self._settling
        if settling is None or not settling.looks or settling.best is None:
            return None
        best, last = settling.best, settling.looks[-1]
        noise = math.hypot(best.measures.error, last.measures.error)
        worse = best.measures.quality - last.measures.quality > max(AS_GOOD, noise)
        return best if worse or copies_more(last.measures, best.measures) else None
