"""Tests of full fine-tuning: fp32 weights under autocast, text encoders, the base model's weights in main memory, and
resuming bit for bit."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from artifact.layers import FullLayer, Layer
from families.family import ModelFamily
from families.precision.autocast import compute_dtype, compute_in
from families.registry import load_base_model
from tests.families.golden_curves import curve_config, curve_training
from tests.tiny_models import load_tiny
from trainer.checkpoints.folders import Checkpoints, read_checkpoint
from trainer.checkpoints.training_state import restore
from trainer.resolution import resolve
from trainer.training import Training

FULL: dict[str, Any] = {
    "adapter": "full", "rank": 16, "alpha": None, "learning_rate": 1e-4, "train_text_encoder": True,
    "max_train_steps": 3, "lr_warmup_steps": 0, "train_batch_size": 1, "gradient_accumulation_steps": 1,
    "prior_matching_weight": 1.0, "prior_matching_interval": 1, "prior_matching_on": "everything", "ema_decay": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="module")
def family(folder: Path) -> ModelFamily:
    """A tiny SDXL that computes in bf16."""
    family = load_tiny("sdxl", folder)
    compute_in(family, torch.bfloat16)
    return family


@contextmanager
def fully(family: ModelFamily, folder: Path, **changes: Any) -> Iterator[Training]:
    with curve_training(family, curve_config(str(folder), **FULL | changes)) as training:
        yield training


def weights_of(family: ModelFamily) -> list[Tensor]:
    models: list[Any] = [family.denoiser, *family.text_encoders]
    return [value.clone() for model in models for value in model.state_dict().values()]


def equal(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


def test_layers_compute_in_bf16_and_changes_too_small_for_bf16_are_kept(family: ModelFamily, folder: Path) -> None:
    """The prior loss is 0 at first, because the base model's prediction must not use casts of weights that were made
    before the weights were exchanged."""
    outputs = set()
    hooks = []
    for model in (family.denoiser, *family.text_encoders):
        assert compute_dtype(model) == torch.bfloat16
        for module in model.modules():
            if isinstance(module, nn.Linear):
                hooks.append(module.register_forward_hook(lambda module, inputs, output: outputs.add(output.dtype)))
    with fully(family, folder, learning_rate=1e-6, ema_decay=0.0, max_train_steps=2) as training:
        steps = list(training.trainer.steps())
        layers = training.parts.layers()
        values = {each.dtype for trainable in training.trainer.trainables for each in trainable.parameters}
    for hook in hooks:
        hook.remove()
    assert outputs == {torch.bfloat16} and values == {torch.float32}
    assert steps[0].losses["prior_matching"] == 0 and steps[-1].losses["prior_matching"] > 0
    changes = torch.cat([layer.parameters[0].flatten() for layer in layers.values()])
    assert (changes != 0).float().mean() > 0.5 and changes.abs().max() < 1e-5


@pytest.mark.slow
def test_losses_are_near_those_in_fp32(family: ModelFamily, folder: Path) -> None:
    with fully(family, folder) as training:
        mixed = next(training.trainer.steps()).losses["mse"]
    whole = load_base_model(str(folder), torch.float32)
    compute_in(whole, torch.float32)
    assert compute_dtype(whole.denoiser) == torch.float32
    with fully(whole, folder) as training:
        exact = next(training.trainer.steps()).losses["mse"]
    assert mixed != exact and mixed == pytest.approx(exact, rel=2e-2)


def assert_the_base_is_exchanged_in_place(training: Training, before: list[Tensor]) -> None:
    """Asserts that the base weights replace the trained ones in the same memory, so that a device never holds both."""
    denoiser = training.family.denoiser
    trained = [parameter.clone() for parameter in denoiser.parameters()]
    places = [parameter.data_ptr() for parameter in denoiser.parameters()]
    with training.parts.off():
        assert equal(list(denoiser.state_dict().values()), before[: len(trained)])
        assert [parameter.data_ptr() for parameter in denoiser.parameters()] == places
    assert equal(list(denoiser.parameters()), trained) and not equal(trained, before[: len(trained)])
    assert [parameter.data_ptr() for parameter in denoiser.parameters()] == places


def test_text_encoders_are_trained_but_for_the_embeddings_and_layers_that_are_not_used(
    family: ModelFamily, folder: Path
) -> None:
    before = weights_of(family)
    with fully(family, folder) as training:
        rates = next(training.trainer.steps()).learning_rates
        assert rates["text_encoders"] == rates["lora"]
        assert_the_base_is_exchanged_in_place(training, before)
        tables = [encoder.get_input_embeddings() for encoder in family.text_encoders]
        assert not any(table.base_layer.weight.requires_grad for table in tables)
        layers: dict[str, Layer] = training.parts.layers()
    assert equal(weights_of(family), before)
    of_text = {name for name in layers if name.startswith("lora_te")}
    assert {"lora_te1_text_model_encoder_layers_0_layer_norm1", "lora_te2_text_projection"} <= of_text
    last = family.text_encoders[0].config.num_hidden_layers - 1
    assert not {name for name in of_text if f"te1_text_model_encoder_layers_{last}" in name or "embedding" in name}
    assert "lora_te1_text_model_final_layer_norm" not in of_text
    assert all(isinstance(layer, FullLayer) and not layer.changes_nothing for layer in layers.values())


@pytest.mark.slow
def test_it_resumes_bit_for_bit(family: ModelFamily, folder: Path, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    with fully(family, folder) as training:
        for step in training.trainer.steps():
            if step.number == 1:
                checkpoints.write(training)
        losses, trained = step.losses, weights_of(family)
    with fully(family, folder) as training:
        restore(training, read_checkpoint(checkpoints.path(1)))
        assert list(training.trainer.steps())[-1].losses == losses
        assert equal(weights_of(family), trained)


def test_text_encoders_have_a_rate_of_their_own_where_it_is_given(family: ModelFamily, folder: Path) -> None:
    config = curve_config(str(folder), **FULL | {"text_encoder_learning_rate": 3e-6})
    assert resolve(config, family).text_encoder_learning_rate == 3e-6
    assert curve_config(str(folder), **FULL).resolved_text_encoder_learning_rate == 1e-4
