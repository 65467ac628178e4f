"""Tests of CUDA graphs of the denoiser: which passes are recorded and when, and that training is the same. On a CPU a
fake recorder notes its calls, and a replay calls the module; the last test needs a GPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from families.family import ModelFamily
from families.registry import load_base_model
from preprocess.dataset import PreparedDataset
from settings.training import TrainingConfig
from tests.families.golden_curves import cached_examples, curve_config, curve_training
from tests.families.test_family_files import predict
from tests.tiny_models import TINY_MODELS
from trainer.building import build_training
from trainer.execution.cuda_graphs import PASSES_BEFORE, RecordedPasses, RecordedSteps, records
from trainer.loop import Step
from trainer.monitoring.step_watch import StepWatch
from trainer.resolution import resolve
from trainer.training import Training

CUDA = torch.device("cuda")


class Pretended:
    """A fake recorder: notes the recorded passes and their memory pool; a replay runs the module."""

    def __init__(self, refuses: Exception | None = None) -> None:
        self.recorded: list[tuple[tuple[torch.Size, ...], Any]] = []
        self.replays = self.replays_of_encoders = 0
        self._refuses = refuses

    def __call__(self, module: nn.Module, tensors: tuple[Tensor, ...], pool: Any) -> Callable[..., Any]:
        if self._refuses is not None:
            raise self._refuses
        self.recorded.append((tuple(each.shape for each in tensors), pool))

        def replay(*given: Tensor) -> Any:
            self.replays += 1
            assert [each.shape for each in given] == [each.shape for each in tensors]
            return module(*given)

        return replay

    def of_encoders(self, module: nn.Module, tensors: tuple[Tensor, ...], pool: Any) -> Callable[..., Any]:
        def replay(*given: Tensor) -> Any:
            self.replays_of_encoders += 1
            return module(*given)

        return replay


PRIOR = {"prior_matching_weight": 0.5, "prior_matching_interval": 1, "prior_matching_on": "everything"}


@pytest.fixture(params=[*(pytest.param(name, marks=pytest.mark.slow) for name in ("sd15", "sdxl")), "sd3"])
def tiny(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ModelFamily, str]:
    base = str(TINY_MODELS[request.param](tmp_path / "base"))
    return load_base_model(base, torch.float32), base


@contextmanager
def recording(family: ModelFamily, config: TrainingConfig, recorder: Pretended) -> Iterator[Training]:
    with curve_training(family, config) as training:
        pools = iter(range(100))
        trainer = training.trainer
        passes = RecordedPasses(family.denoiser, record=recorder, new_pool=lambda: next(pools))
        encoders = [RecordedPasses(each, record=recorder.of_encoders, new_pool=list) for each in family.text_encoders]
        training.passes.recorded = RecordedSteps(trainer.accumulation, [passes, *encoders], trainer.trainables)
        trainer.accumulation = training.passes.recorded
        yield training
        assert not any("forward" in vars(module) for module in (family.denoiser, *family.text_encoders))


def plain_steps(family: ModelFamily, config: TrainingConfig) -> list[Step]:
    with curve_training(family, config) as training:
        return list(training.trainer.steps())


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, PRIOR])
def test_the_training_is_the_same_and_each_kind_is_recorded_once(
    tiny: tuple[ModelFamily, str], settings: dict[str, Any]
) -> None:
    family, base = tiny
    config = curve_config(base, max_train_steps=5, **settings)
    recorder = Pretended()
    with recording(family, config, recorder) as training:
        steps = list(training.trainer.steps())
    assert steps == plain_steps(family, config)
    passes = 2 if settings else 1  # with gradients, per micro-batch
    assert [pool for _, pool in recorder.recorded] == list(range(passes))  # both wait for their gradients: two pools
    assert recorder.replays == passes * (5 * 2 - PASSES_BEFORE)
    assert recorder.replays_of_encoders > 0


def test_another_batch_is_recorded_in_the_same_memory(tiny: tuple[ModelFamily, str]) -> None:
    family, base = tiny
    recorder = Pretended()
    with recording(family, curve_config(base, max_train_steps=8), recorder) as training:
        steps = training.trainer.steps()
        for _ in range(4):
            next(steps)
        training.trainer.accumulation.parts = 2  # as after an out-of-memory error
        list(steps)
    batches = [shapes[0][0] for shapes, _ in recorder.recorded]
    assert sorted(set(batches)) == [1, 2] and len(batches) == 2
    assert {pool for _, pool in recorder.recorded} == {0}


def test_what_cannot_be_recorded_runs_as_it_is_and_is_said(tiny: tuple[ModelFamily, str]) -> None:
    family, base = tiny
    config = curve_config(base, max_train_steps=4)
    with recording(family, config, Pretended(RuntimeError("operation not permitted\nwhen capturing"))) as training:
        watch = StepWatch(training)
        steps, warnings = [], []
        for step in training.trainer.steps():
            steps.append(step)
            warnings += watch.look(step)[1]
    assert steps == plain_steps(family, config)
    assert warnings == [
        "cuda_graphs: disabled, because a pass could not be captured (RuntimeError: operation not permitted when "
        "capturing)"
    ]


def test_passes_without_gradients_are_not_touched(tiny: tuple[ModelFamily, str]) -> None:
    recorder = Pretended()
    passes = RecordedPasses(tiny[0].denoiser, record=recorder, new_pool=lambda: 0)
    expected = predict(tiny[0])
    with passes.in_use(), torch.no_grad():
        for _ in range(PASSES_BEFORE + 2):
            assert torch.equal(predict(tiny[0]), expected)
    assert not recorder.recorded


@pytest.mark.parametrize(("settings", "expected"), [
    ({}, True),
    ({"cuda_graphs": "never"}, False),
    ({"adapter_dropout": 0.1}, False),
    ({"gradient_checkpointing": "always"}, False),
    ({"adapter": "full", "learning_rate": 1e-5, "mixed_precision": "no"}, False),
])  # fmt: skip
def test_only_where_every_pass_is_alike(settings: dict[str, Any], expected: bool) -> None:
    config = TrainingConfig(**settings)
    kind = {"trains_base": config.trains_base, "passes_differ": config.needs_first_activations}
    assert records(config.speed, CUDA, **kind) == expected
    assert not records(config.speed, torch.device("cpu"), **kind)


def steps_on_a_gpu(base: str, **settings: Any) -> list[Step]:
    family = load_base_model(base, torch.bfloat16).to(CUDA)
    examples = [
        replace(example, views=tuple(
            replace(view.load(), moments=view.load().moments.to(CUDA), mask=None) for view in example.views
        ))
        for example in cached_examples()
    ]  # fmt: skip
    config = resolve(curve_config(base, max_train_steps=6, **settings), family)
    dataset = PreparedDataset(Path(), (), (), ())
    training = build_training(config, family, dataset, examples, Accelerator(mixed_precision="bf16"))
    steps = list(training.trainer.steps())
    if settings.get("cuda_graphs") != "never":
        assert training.passes.recorded is not None and training.passes.recorded.problem is None
    training.remove()
    return steps


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3"])
@pytest.mark.parametrize("settings", [{}, PRIOR, {"adapter": "dora"}, {"adapter": "loha"}])
def test_replayed_passes_train_as_others_do(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """A step has two micro-batches: a gradient in replayed memory would be counted twice."""
    base = str(TINY_MODELS[name](tmp_path / "base"))
    replayed, plain = (steps_on_a_gpu(base, cuda_graphs=graphs, **settings) for graphs in ("auto", "never"))
    for one, other in zip(replayed, plain, strict=True):
        assert one.losses == pytest.approx(other.losses, rel=1e-3, abs=1e-6)
        assert one.gradient_norms == pytest.approx(other.gradient_norms, rel=0.05)
