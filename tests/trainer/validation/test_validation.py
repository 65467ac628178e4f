"""Tests of the held-out loss, the best step and early stopping."""

import json
import shutil
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from artifact.artifact import Artifact
from families.family import ModelFamily, SizeConditioning
from job.output_folder import OutputFolder
from job.run import run
from job.steps.length import Length
from job.steps.training import train
from settings.training import TrainingConfig, build_config
from tests.conftest import EXAMPLE
from tests.job.test_resume import CONFIG as RESUME_CONFIG
from tests.job.test_resume import Prepared, prepared, trainings  # noqa: F401 (a fixture)
from tests.samples import samples_of
from trainer.checkpoints.folders import Checkpoints, read_checkpoint
from trainer.checkpoints.training_state import restore
from trainer.data.latent_cache import CachedExample, CachedView
from trainer.validation.best import Best
from trainer.validation.held_out_loss import HeldOutLoss
from trainer.validation.split import split

CONFIG = RESUME_CONFIG.model_copy(update={"validation_steps": 1, "ema_decay": 0.0, "caption_dropout": 0.0})


def examples(concepts: list[str | None], side: int = 16) -> list[CachedExample]:
    size = SizeConditioning((200, 200), (10, 20), (side * 4, side * 4))
    return [
        CachedExample((CachedView(torch.full((8, side, side), float(index)), None, size),), "TOK", concept,
                      (side * 4, side * 4), 1, 1.0)
        for index, concept in enumerate(concepts)
    ]  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_images_are_held_out_and_never_trained() -> None:
    concepts: list[str | None] = ["A"] * 20 + ["B"] + [None] * 10
    for seed in range(5):
        parts = split(examples(concepts), 0.2, 16, generator(seed))
        names = [
            [float(each.views[0].load().moments[0, 0, 0]) for each in part] for part in (parts.trained, parts.held_out)
        ]
        assert not parts.crops and len(names[1]) == 4  # of 21 that show a concept
        assert sorted(names[0] + names[1]) == list(range(31))
        assert {each.concept for each in parts.held_out} == {"A"}  # B keeps its only image


@pytest.mark.parametrize("share", [0.1, 0.25, 0.9])
@pytest.mark.parametrize("concepts", [[*"ABCDEFGHIJ"], ["A"], [*"ABC", None, None]])
def test_where_no_concept_can_spare_an_image_crops_are_held_out(concepts: list[str | None], share: float) -> None:
    parts = split(examples(concepts), share, 16, generator())
    assert parts.crops and len(parts.trained) == len(concepts)
    assert len(parts.held_out) == min(4, len([each for each in concepts if each]))


def test_few_images_give_crops_that_say_where_they_are() -> None:
    data = examples(["A"] * 6)
    ramp = torch.arange(16 * 16.0).view(1, 16, 16).expand(8, 16, 16)
    data = [replace(each, views=(replace(each.views[0].load(), moments=ramp, mask=ramp[:1]),)) for each in data]
    parts = split(data, 0.1, 16, generator())
    assert parts.crops and len(parts.trained) == 6 and len(parts.held_out) == 4
    for example in parts.held_out:
        view = example.views[0].load()
        assert view.moments.shape == (8, 12, 12) and view.size.target == (48, 48)
        assert view.mask is not None and torch.equal(view.mask, view.moments[:1])
        top, left = divmod(int(view.moments[0, 0, 0]), 16)
        assert view.size.crop == (10 + 4 * top, 20 + 4 * left)


@pytest.mark.slow
def test_the_loss_is_the_same_at_any_time_and_one_at_first(base: ModelFamily, prepared: Prepared) -> None:  # noqa: F811
    for training in trainings(base, CONFIG, prepared):
        scorer = training.scorer
        assert isinstance(scorer, HeldOutLoss)
        first = scorer()
        torch.manual_seed(3)
        states = training.trainer.generators.state_dict()
        assert scorer() == first and first["score"] == pytest.approx(1)
        assert all(torch.equal(state, states[name]) for name, state in training.trainer.generators.state_dict().items())
        list(training.trainer.steps())
        after = scorer()
        expected = sum(after[f"loss_{band}"] / first[f"loss_{band}"] for band in range(4)) / 4
        assert after["score"] == pytest.approx(expected) != 1


def test_noisier_bands_are_noisier(base: ModelFamily, prepared: Prepared) -> None:  # noqa: F811
    """ε is easier to predict from noisier latents, so the loss decreases from band to band."""
    _, data = prepared
    figures = HeldOutLoss(base, data[:3], {}, 0.1, Accelerator(cpu=True))()
    assert figures["loss_0"] > figures["loss_1"] > figures["loss_2"] > figures["loss_3"]


def test_best_is_the_lowest_and_patience_ends() -> None:
    best = Best(patience=2)
    seen = [(best.observe(step, score), best.waited_enough) for step, score in enumerate([3.0, 1.0, 1.0, 2.0])]
    assert seen == [(True, False), (True, False), (False, False), (False, True)]
    assert (best.step, best.score) == (1, 1.0)


def test_the_lowest_scores_are_kept_across_a_resume() -> None:
    best = Best(keep=2)
    kept = []
    for step, score in enumerate([3.0, float("nan"), 1.0, 2.0, 1.0, 2.0]):
        best.observe(step, score)
        again = Best(keep=2)
        again.load_state_dict(json.loads(json.dumps(best.state_dict())))
        assert (again.kept, again.step) == (best.kept, best.step)
        best = again
        kept.append(best.kept)
    assert kept == [{0}, {0}, {0, 2}, {2, 3}, {2, 4}, {2, 4}] and best.step == 2
    fewer = Best(keep=1)
    fewer.load_state_dict({"step": 2, "score": 1.0, "since": 0})  # a state from before keep_best
    assert fewer.kept == {2}


class Planned:
    """A scorer that returns planned scores."""

    name = "planned score"

    def __init__(self, scores: list[float]) -> None:
        self.scores = scores

    def __call__(self) -> dict[str, float]:
        return {"score": self.scores.pop(0)}

    def state_dict(self) -> dict[str, object]:
        return {}

    def load_state_dict(self, state: dict[str, object]) -> None: ...


@pytest.mark.parametrize(("scores", "best", "last"), [([9, 3, 1, 2, 2, 2], 2, 4), ([9, 5, 4, 3, 2, 1], 5, 5)])
def test_the_best_step_is_returned_and_not_the_last(
    scores: list[float], best: int, last: int, base: ModelFamily, prepared: Prepared, tmp_path: Path,  # noqa: F811
) -> None:  # fmt: skip
    output = OutputFolder.create(tmp_path / "out")
    config = CONFIG.model_copy(update={"early_stopping_patience": 2, "ema_decay": 0.5, "keep_best": 2})
    for training in trainings(base, config, prepared):
        training.scorer = Planned(list(scores))
        messages = [str(progress) for progress in train(training, output, samples_of(training))]
        assert training.trainer.step == best
        training.write(output.weights)
    said = f"returning step {best} instead of the last step {last}" if best != last else "the last step is the best"
    assert said in messages[-1] and ("stopping early" in messages[-2]) == (last < 5)
    lines = [json.loads(line) for line in output.validation.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(last + 1))
    assert Checkpoints(output.checkpoints).due_steps() == ([2, 3] if best == 2 else [4, 5])
    returned = Artifact.read(output.weights)
    checkpoint = Artifact.read(output.checkpoints / f"step_{best:06d}" / "weights.safetensors")
    assert returned.description is not None and returned.description.steps == best
    assert returned.tokens and all(torch.equal(rows, checkpoint.tokens[name]) for name, rows in returned.tokens.items())


def test_a_best_checkpoint_that_was_removed_is_a_warning_and_the_last_step_is_returned(
    base: ModelFamily, prepared: Prepared, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    output = OutputFolder.create(tmp_path / "out")
    for training in trainings(base, CONFIG, prepared):
        training.scorer = Planned([9, 3, 1, 2, 2, 2])
        events = train(training, output, samples_of(training))
        while next(events).step != 3:
            pass
        shutil.rmtree(output.checkpoints / "step_000002")
        last = list(events)[-1]
    assert last.warning and "step_000002 was removed" in last.message and "last step 5 is returned" in last.message
    description = Artifact.read(output.weights).description
    assert description is not None and description.steps == 5


def test_a_resumed_run_keeps_the_best_checkpoint_of_its_earlier_part(
    base: ModelFamily, prepared: Prepared, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    output = OutputFolder.create(tmp_path / "out")
    config = CONFIG.model_copy(update={"keep_best": 1, "checkpointing_steps": 3})
    for training in trainings(base, config, prepared):
        training.scorer = Planned([9, 3, 1, 2])
        events = train(training, output, samples_of(training))
        while next(events).step != 3:
            pass
        assert isinstance(events, Generator)
        events.close()
    assert Checkpoints(output.checkpoints).due_steps() == [2, 3]
    for training in trainings(base, config, prepared):
        training.scorer = Planned([2, 2])
        restore(training, read_checkpoint(output.checkpoints / "step_000003"))
        messages = [str(event) for event in train(training, output, samples_of(training))]
        assert training.trainer.step == 2 and "returning step 2 instead of the last step 5" in messages[-1]


def test_a_step_that_becomes_the_last_one_by_its_samples_is_scored_too(
    base: ModelFamily, prepared: Prepared, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    class EndsAtTwo(Length):
        def due(self, step: int) -> bool:
            return step == 2

        def observe(self, step: int) -> Iterator[str]:
            training.trainer.end_at(step)
            yield "settled"

    output = OutputFolder.create(tmp_path / "out")
    for training in trainings(base, CONFIG.model_copy(update={"validation_steps": 4}), prepared):
        training.scorer = Planned([9, 3])
        list(train(training, output, samples_of(training), length=EndsAtTwo(training)))
    lines = [json.loads(line) for line in output.validation.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2]


@pytest.mark.slow
def test_a_whole_run_says_what_it_validates_on(tmp_path: Path) -> None:
    config = TrainingConfig(
        base_model="mini-sdxl", class_word="figure", max_train_steps=3, train_batch_size=2, rank=2, validation_steps=2,
        num_validation_images=0, learning_rate=1e-3, validation_share=0.3,
    )  # fmt: skip
    messages = [str(event) for event in run(config, [EXAMPLE], OutputFolder.create(tmp_path / "out"))]
    assert "validating on 2 images that are not trained" in messages
    assert sum("loss on held-out images" in message for message in messages) >= 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"early_stopping_patience": 2}, "no effect without validation_steps"),
        ({"keep_best": 4}, "no effect without validation_steps"),
        ({"validation_share": 0.2}, "no effect without validation_steps"),
        ({"validation_steps": 20, "max_train_steps": 10}, "nothing would be validated"),
        ({"validation_steps": 2, "max_train_steps": 6, "early_stopping_patience": 2}, "at step 6 at the earliest"),
    ],
)
def test_settings_without_effect(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_config(values)


def test_a_patience_that_may_end_the_run_is_no_error() -> None:
    build_config({"validation_steps": 2, "max_train_steps": 7, "early_stopping_patience": 2})
