"""Tests of the number of steps, given as steps, epochs or minutes or chosen from the images, and of out-of-memory
handling."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from families.family import ModelFamily, SizeConditioning
from job.output_folder import OutputFolder
from job.resume import resumed_config
from job.steps.training import train
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from tests.job.test_resume import CONFIG as RESUME_CONFIG
from tests.job.test_resume import Prepared, prepared, tensors, trainings  # noqa: F401 (a fixture)
from tests.samples import samples_of
from trainer.checkpoints.training_state import capture, restore
from trainer.data.latent_cache import CachedExample, CachedView
from trainer.duration import describe, plan_duration, with_duration
from trainer.execution.accumulation import OutOfMemory
from trainer.monitoring.step_watch import _between_steps
from trainer.monitoring.time_budget import TimeBudget, WorkBetween
from trainer.optimizers.settings import OptimizerSettings
from trainer.trainables.schedules import ScheduleSettings
from trainer.trainables.trainable import Trainable

CONFIG = RESUME_CONFIG.model_copy(update={"caption_dropout": 0.0, "ema_decay": 0.0, "lr_warmup_steps": 0})


def examples(*counts: int) -> list[CachedExample]:
    """Returns examples; `counts` has the number of images of each bucket."""
    size = SizeConditioning((8, 8), (0, 0), (8, 8))
    view = CachedView(torch.zeros(2, 1, 1), None, size)
    return [
        CachedExample((view,), "TOK", "TOK", (64, 64 + index), 1, 1.0)
        for index, count in enumerate(counts)
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("values", "counts", "steps", "batch", "warmup"),
    [
        ({}, (10,), 500, 4, 50),
        ({}, (40,), 1000, 4, 100),
        ({}, (1000,), 3000, 4, 100),
        ({}, (2,), 500, 2, 50),
        ({"gradient_accumulation_steps": 4}, (200,), 1250, 4, 100),
        ({"train_batch_size": 8}, (80,), 1000, 8, 100),
        ({"max_train_steps": 70}, (10,), 70, 4, 7),
        ({"max_train_epochs": 3, "train_batch_size": 4}, (5, 6), 12, 4, 1),
        ({"max_train_epochs": 3, "train_batch_size": 4, "gradient_accumulation_steps": 5}, (5, 6), 3, 4, 0),
        ({"max_train_epochs": 3, "lr_warmup_steps": 2}, (10,), 9, 4, 2),
    ],
)
def test_what_is_left_out_follows_from_the_images(
    values: dict[str, Any], counts: tuple[int, ...], steps: int, batch: int, warmup: int
) -> None:
    config = build_config(values)
    planned = config.planned(plan_duration(config.duration, examples(*counts)))
    assert (planned.max_train_steps, planned.train_batch_size, planned.lr_warmup_steps) == (steps, batch, warmup)
    assert f"{steps} steps of" in describe(planned.duration, sum(counts))


def test_two_lengths_contradict() -> None:
    with pytest.raises(ConfigError, match="leave one of them out"):
        build_config({"max_train_steps": 10, "max_train_epochs": 2})
    build_config({"max_train_steps": 10, "max_train_minutes": 2})


def test_a_resumed_run_may_count_epochs_anew() -> None:
    config = build_config({"max_train_epochs": 3})
    saved = config.planned(plan_duration(config.duration, examples(10)))
    longer = resumed_config(saved, TrainingConfig(max_train_epochs=6))
    assert plan_duration(longer.duration, examples(10)).max_train_steps == 18


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("spent", "limit", "expected"), [(0.0, 1000.0, 100), (0.0, 60.0, 60), (30.0, 60.0, 30)])
def test_minutes_shorten_the_run(spent: float, limit: float, expected: int) -> None:
    clock = Clock()
    budget = TimeBudget(limit, spent, clock)
    step, total = 0, 100
    while step < total:
        clock.now += 1.0
        step += 1
        total = budget.end(step, total)
    assert step == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(("every", "takes", "at_end", "limit", "known"), [
    (10, 15.0, True, 200.0, None),  # the work takes longer than the steps between
    (25, 40.0, True, 130.0, None),  # half of the time has passed when the work is first measured
    (10, 15.0, False, 200.0, None),
    (30, 50.0, True, 85.0, 50.0),  # there is no time to do the work a second time
    (1, 2.0, True, 50.0, None),
])  # fmt: skip
def test_what_is_done_between_steps_counts(
    every: int, takes: float, at_end: bool, limit: float, known: float | None
) -> None:
    """With work between its steps, a run ends within its time limit and close to it, and its last step is known early
    enough for schedules to end there."""
    clock = Clock()
    work = WorkBetween(every, at_end, known)
    budget = TimeBudget(limit, 0.0, clock, [work])
    step, total, announced = 0, 1000, 0
    while step < total:
        clock.now += 1.0
        step += 1
        end = budget.end(step, total)
        if end != total:
            total, announced = end, step
        if step % every == 0 or (at_end and step == total):
            with budget.timing(work):
                clock.now += takes
    spent = clock.now - 100.0
    assert limit - takes - 2 <= spent <= limit
    assert announced <= max(every + 1, 0.75 * step)


def test_a_slow_beginning_shortens_the_run_for_a_while_only() -> None:
    clock = Clock()
    budget = TimeBudget(100.0, 0.0, clock)
    step, total, ends = 0, 1000, []
    while step < total:
        clock.now += 3.0 if step < 8 else 0.5
        step += 1
        if step == 70:
            total = 75  # the run ends early because samples have settled
        end = budget.end(step, total)
        ends += [end] if end != total else []
        total = end
    assert ends[0] < 40 and max(ends) > 80 and step == 75


@pytest.mark.slow
def test_schedules_end_where_time_ends(
    base: ModelFamily, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    clock = Clock()

    class Budget(TimeBudget):
        def __init__(self, seconds: float | None, spent: float, between: Sequence[WorkBetween]) -> None:
            super().__init__(seconds, spent, clock, between)

    monkeypatch.setattr("trainer.monitoring.step_watch.TimeBudget", Budget)
    config = CONFIG.model_copy(update={"max_train_steps": 50, "max_train_minutes": 12.5 / 60, "lr_scheduler": "linear"})
    for training in trainings(base, config, prepared):
        messages = []
        for event in train(training, OutputFolder.create(tmp_path / "out"), samples_of(training)):
            messages.append(str(event))
            clock.now += 1.0 if event.loss is not None else 0.0
        assert training.trainer.step == training.trainer.max_train_steps < 16
        assert all(each.learning_rate == 0 for each in training.trainer.trainables)
        assert sum("the run and its schedules end at step" in message for message in messages) >= 1
        assert "ETA 0:00:00" in [message for message in messages if "loss" in message][-1]


def test_a_shorter_run_warms_up_for_as_large_a_part_of_it() -> None:
    """A time limit that shortens a run must also shorten the warm-up that was planned for the longer run."""
    schedule = ScheduleSettings("cosine", warmup_steps=50)
    settings = OptimizerSettings("adamw", 1e-3, 0.0, 1.0)
    trainable = Trainable(
        "lora", [nn.Parameter(torch.zeros(2))], optimizer=settings, schedule=schedule, max_grad_norm=1, total_steps=500
    )
    trainable.end_at(40)
    rates = []
    for _ in range(40):
        rates.append(trainable.learning_rate)
        trainable.parameters[0].grad = torch.ones(2)
        trainable.update()
    assert rates.index(max(rates)) == 4 and max(rates) == 1e-3  # the warm-up is a tenth of the steps, as planned
    assert rates[-1] < 1e-5 and trainable.learning_rate == 0


def failing(base: ModelFamily, fits: int) -> Any:
    """Returns a `denoise` that raises an out-of-memory error for more than `fits` images."""
    denoise = base.denoise

    def limited(noised: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(noised) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory (a pretence)")
        return denoise(noised, *rest)

    return limited


@pytest.mark.slow
def test_out_of_memory_halves_and_goes_on_with_the_same_batch(
    base: ModelFamily, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    config = CONFIG.model_copy(update={"train_batch_size": 6, "max_train_steps": 3})
    taken: list[list[str]] = []
    for fits in (6, 2):
        monkeypatch.setattr(base, "denoise", failing(base, fits))
        for training in trainings(base, config, prepared):
            output = OutputFolder.create(tmp_path / str(fits))
            messages = [str(event) for event in train(training, output, samples_of(training))]
            parts = training.trainer.accumulation.parts
            taken.append([str(training.batches.state_dict())])
            assert capture(training)["parts"] == parts == (1 if fits == 6 else 4)
        assert any("in 4 parts" in message for message in messages) == (fits == 2)
        monkeypatch.undo()
    assert taken[0] == taken[1]


def test_parts_give_the_gradient_of_the_whole(base: ModelFamily, prepared: Prepared) -> None:  # noqa: F811
    """Every image has the same weight, also in parts of different sizes. Each image has the same timestep and noise in
    every division."""
    gradients: list[list[torch.Tensor]] = []
    for parts in (1, 2, 4):
        for training in trainings(base, CONFIG, prepared):
            trainer = training.trainer
            batch = next(trainer.batches)
            draw = base.noise_process.draw(batch.moments[:, :4], torch.Generator(), torch.Generator())
            pieces = batch.split(parts)
            assert sum(len(piece.captions) for piece in pieces) == len(batch.captions)
            first = 0
            for piece in pieces:
                count = len(piece.captions)
                part = type(draw)(draw.timesteps[first : first + count], draw.noise[first : first + count])
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(type(base.noise_process), "draw", lambda *_, part=part: part)
                    patch.setattr(trainer, "_normal", lambda name, batch: torch.zeros_like(batch.moments[:, :4]))
                    trainer.backward(piece, count / len(batch.captions))
                first += count
            gradients.append([parameter.grad.clone() for each in trainer.trainables for parameter in each.parameters
                              if parameter.grad is not None])  # fmt: skip
    for other in gradients[1:]:
        for one, two in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-6)


def test_a_single_image_that_does_not_fit_is_an_error(
    base: ModelFamily, prepared: Prepared, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setattr(base, "denoise", failing(base, 0))
    for training in trainings(base, CONFIG, prepared):
        before = list(tensors([each.parameters for each in training.trainer.trainables]))
        with pytest.raises(OutOfMemory, match="lower resolution"):
            next(training.trainer.steps())
        after = list(tensors([each.parameters for each in training.trainer.trainables]))
        assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "values",
    [{"ema_decay": 0.9, "ema_start": 500}, {"checkpointing_steps": 501}, {"validation_steps": 501},
     {"lr_warmup_steps": 500}, {"sample_steps": 501},
     {"ema_decay": 0.9, "ema_interval": 251}, {"validation_steps": 125, "early_stopping_patience": 3}],
)  # fmt: skip
def test_what_lies_beyond_the_planned_end_is_an_error_as_with_a_given_one(values: dict[str, Any]) -> None:
    *_, name = values
    config = build_config(values)
    with pytest.raises(ConfigError, match=f"{name} .(50[01]|251|3). ?.*max_train_steps .500."):
        config.planned(plan_duration(config.duration, examples(10)))
    with pytest.raises(ConfigError, match=name):
        build_config({**values, "max_train_steps": 500})


@pytest.mark.parametrize(
    ("values", "most", "steps"),
    [({"max_train_steps": 5}, 1, 6), ({"max_train_steps": 5, "gradient_accumulation_steps": 2}, 3, 6), ({}, 166, 501)],
)
def test_epochs_between_checkpoints_that_exceed_the_steps_are_an_error(
    values: dict[str, Any], most: int, steps: int
) -> None:
    """An epoch of 10 images has 3 micro-batches. `most`: epochs that fit; `steps`: of one epoch more."""
    with_duration(build_config({**values, "checkpointing_epochs": most}), examples(10))
    config = build_config({**values, "checkpointing_epochs": most + 1})
    with pytest.raises(ConfigError, match=rf"checkpointing_epochs \({most + 1}\) are {steps} steps and exceed"):
        with_duration(config, examples(10))


@pytest.mark.parametrize(("limit", "end"), [(None, 2), (9.0, 5)])
def test_a_higher_time_limit_continues_a_run_that_it_has_ended(
    limit: float | None, end: int, base: ModelFamily, prepared: Prepared  # noqa: F811
) -> None:  # fmt: skip
    config = CONFIG.model_copy(update={"max_train_minutes": 5.0})
    for training in trainings(base, config, prepared):
        training.trainer.end_at(2)
        list(training.trainer.steps())
        state = capture(training)
    raised = resumed_config(build_config(state["config"]), TrainingConfig(max_train_minutes=limit))
    for training in trainings(base, raised, prepared):
        restore(training, state)
        assert (training.trainer.step, training.trainer.max_train_steps) == (2, end)


@pytest.mark.parametrize(("given", "open_end"), [({}, False), ({"stop_when_settled": True}, True)])
def test_more_steps_are_a_fixed_end_unless_samples_are_to_end_the_run(given: dict[str, Any], open_end: bool) -> None:
    saved = build_config({"stop_when_settled": True, "max_train_steps": 900})
    longer = resumed_config(saved, TrainingConfig(max_train_steps=1200, **given))
    assert (longer.max_train_steps, longer.stop_when_settled) == (1200, open_end)


def test_a_resumed_run_may_get_its_full_length_although_its_evaluation_was_set() -> None:
    saved = build_config({"stop_when_settled": True, "max_train_steps": 900, "evaluation_samples": 1})
    fixed = resumed_config(saved, TrainingConfig(stop_when_settled=False))
    assert (fixed.stop_when_settled, fixed.max_train_steps) == (False, 900)


def test_the_time_limit_includes_checkpoints_of_epochs(base: ModelFamily, prepared: Prepared) -> None:  # noqa: F811
    config = CONFIG.model_copy(update={"checkpointing_epochs": 2, "max_train_steps": 9})
    for training in trainings(base, config, prepared):
        assert _between_steps(training)["checkpoint"].every == round(2 * training.steps_an_epoch) > 1
