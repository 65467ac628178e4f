"""Tests that gradient checkpointing gives the same training with less memory, and starts by itself when not even one
image fits."""

from pathlib import Path
from typing import Any

import pytest
import torch

from families.family import ModelFamily
from families.registry import load_base_model
from settings.record import ConfigError
from settings.training import build_config
from tests.families.golden_curves import curve_config, curve_training
from tests.tiny_models import TINY_MODELS, load_tiny, opened
from trainer.execution.accumulation import OutOfMemory
from trainer.execution.gradient_checkpointing import GradientCheckpointing
from trainer.loop import Step
from trainer.monitoring.step_watch import StepWatch


def curve(family: ModelFamily, base: str, **settings: Any) -> tuple[list[Step], bool]:
    """Returns two steps, and whether gradient checkpointing was on at their end."""
    with curve_training(family, curve_config(base, max_train_steps=2, lr_warmup_steps=1, **settings)) as training:
        steps = list(training.trainer.steps())
        on = training.passes.checkpointing.on
    assert not any(getattr(module, "gradient_checkpointing", False) for module in family.denoiser.modules())
    return steps, on


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {}) for name in ("sd15", "sdxl", "flux1", "flux2", "z-image")),
        *((name, {"prior_matching_weight": 0.5}) for name in ("sdxl", "sd3")),
    ],
)
def test_the_training_is_the_same_bit_for_bit(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    base = str(TINY_MODELS[name](tmp_path / "base"))
    family = opened(Path(base))
    kept, off = curve(family, base, gradient_checkpointing="never", **settings)
    computed_again, on = curve(family, base, gradient_checkpointing="always", **settings)
    assert kept == computed_again
    assert (off, on) == (False, True)


def test_less_is_kept_for_the_backward_pass(tmp_path: Path) -> None:
    family = load_tiny("sdxl", tmp_path / "base")
    sizes = []
    for wanted in ("never", "always"):
        with curve_training(family, curve_config(str(tmp_path / "base"), gradient_checkpointing=wanted)) as training:
            saved: list[int] = []

            def keep(tensor: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
                saved.append(tensor.numel())
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                next(training.trainer.steps())
        sizes.append(sum(saved))
    assert sizes[1] < sizes[0]


class Full:
    """A `denoise` with memory for two images with gradient checkpointing, and for none without it. `hopeless`: for none
    in both cases."""

    def __init__(self, family: ModelFamily, hopeless: bool = False) -> None:
        self._family, self._denoise, self._hopeless = family, family.denoise, hopeless

    def __call__(self, noised: torch.Tensor, *rest: Any) -> torch.Tensor:
        on = any(getattr(module, "gradient_checkpointing", False) for module in self._family.denoiser.modules())
        if self._hopeless or len(noised) > (2 if on else 0):
            raise torch.OutOfMemoryError("CUDA out of memory (a pretence)")
        return self._denoise(noised, *rest)


@pytest.fixture
def sdxl(tmp_path: Path) -> tuple[ModelFamily, str]:
    base = str(TINY_MODELS["sdxl"](tmp_path / "base"))
    return load_base_model(base, torch.float32), base


@pytest.mark.slow
def test_auto_begins_when_one_image_does_not_fit(
    sdxl: tuple[ModelFamily, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    family, base = sdxl
    monkeypatch.setattr(family, "denoise", Full(family))
    with curve_training(family, curve_config(base, max_train_steps=3, train_batch_size=4)) as training:
        watch = StepWatch(training)
        said = [watch.look(step)[1] for step in training.trainer.steps()]
    assert said == [
        ["out of memory: from now on micro-batches run with gradient checkpointing, in 2 parts; "
         "the effective batch size does not change"],
        [],
        [],
    ]  # fmt: skip


@pytest.mark.parametrize(("wanted", "hopeless", "remedy"), [
    ("never", False, "set gradient_checkpointing: always"),
    ("auto", True, "lower resolution"),
])  # fmt: skip
def test_when_nothing_helps_the_error_says_what_would(
    sdxl: tuple[ModelFamily, str], wanted: str, hopeless: bool, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, base = sdxl
    monkeypatch.setattr(family, "denoise", Full(family, hopeless))
    with (
        curve_training(family, curve_config(base, gradient_checkpointing=wanted)) as training,
        pytest.raises(OutOfMemory, match=remedy) as caught,
    ):
        next(training.trainer.steps())
    assert ("always" in str(caught.value)) == (wanted == "never")


def test_it_starts_once(sdxl: tuple[ModelFamily, str]) -> None:
    checkpointing = GradientCheckpointing([sdxl[0].denoiser], "auto")
    assert [checkpointing.start(), checkpointing.start()] == [True, False]
    assert not GradientCheckpointing([sdxl[0].denoiser], "never").start()


@pytest.mark.parametrize("settings", [
    {"adapter_dropout": 0.1},
    {"mask": "subject", "class_word": "dog", "token_attention_weight": 0.1},
])  # fmt: skip
def test_not_where_a_second_pass_would_differ(
    sdxl: tuple[ModelFamily, str], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout would draw again in the second pass, so the gradient would be that of another pass."""
    with pytest.raises(ConfigError, match="gradient_checkpointing"):
        build_config({"gradient_checkpointing": "always", **settings})
    monkeypatch.setattr(sdxl[0], "denoise", Full(sdxl[0]))
    with curve_training(sdxl[0], curve_config(sdxl[1], **settings)) as training, pytest.raises(OutOfMemory):
        next(training.trainer.steps())
