"""Tests of the training loop on the embedded base model: what is trained, what stays unchanged, and what is
reproducible."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from accelerate import Accelerator

from artifact.artifact import Artifact
from artifact.layers import LoraLayer
from families.family import ModelFamily
from families.registry import load_base_model
from job.output_folder import OutputFolder
from job.run import run
from job.verification.verify import Probe, VerificationFailed, verify
from preprocess.prepare import prepare
from settings.sections.adapter import LoraTargets
from settings.training import TrainingConfig
from tests.conftest import EXAMPLE
from trainer.building import build_training
from trainer.data.latent_cache import cache_examples
from trainer.resolution import base_requirements, resolve
from trainer.trainables.trainable import TrainingDiverged
from trainer.training import Training

CONFIG = TrainingConfig(
    base_model="mini-sdxl", class_word="figure", max_train_steps=4, train_batch_size=4, rank=4, learning_rate=2e-3,
    token_learning_rate=2e-2, num_validation_images=0, caption_dropout=0.3,
    lora_targets="attention", prior_matching_weight=0.0,
)  # fmt: skip


@pytest.fixture
def training(base: ModelFamily, tmp_path: Path) -> Iterator[Training]:
    """A training on the example images, placed on the shared base model and removed after the test."""
    yield from placed(base, CONFIG, tmp_path)


def placed(base: ModelFamily, config: TrainingConfig, folder: Path, data: Path = EXAMPLE) -> Iterator[Training]:
    config = resolve(config, base)
    dataset = prepare([data], config, folder / "dataset", base_requirements(base, config, config.num_tokens))
    training = build_training(config, base, dataset, list(cache_examples(dataset, base)), Accelerator(cpu=True))
    try:
        yield training
    finally:
        training.remove()


def trained_state(base: ModelFamily, config: TrainingConfig, folder: Path) -> dict[str, torch.Tensor]:
    """Returns every trained tensor after the run."""
    for training in placed(base, config, folder):
        list(training.trainer.steps())
        artifact = training.artifact()
    state = dict(artifact.tokens)
    for name, layer in artifact.layers.items():
        state |= {f"{name}.{key}": tensor for key, tensor in layer.tensors().items() if key != "alpha"}
    return state


def test_only_adapter_and_tokens_are_trained_and_all_in_fp32(training: Training) -> None:
    family, config = training.family, training.config
    lora = {name for name, parameter in family.denoiser.named_parameters() if parameter.requires_grad}
    assert lora and all("lora_" in name for name in lora)
    attentions = sum(name.endswith("to_q") for name, _ in family.denoiser.named_modules())
    assert len(lora) == attentions * 4 * 2  # q, k, v, out; down and up
    for encoder, rows in zip(family.text_encoders, training.tokens.parameters, strict=True):
        assert [parameter.shape for parameter in encoder.parameters() if parameter.requires_grad] == [rows.shape]
        assert rows.shape[0] == config.num_tokens
    trained = [parameter for trainable in training.trainer.trainables for parameter in trainable.parameters]
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in family.vae.parameters())


def test_a_fresh_adapter_changes_nothing(base: ModelFamily, tmp_path: Path) -> None:
    probe = Probe.make(base, "a red star on a blue background")
    before = probe.predict(base, {})
    for training in placed(base, CONFIG, tmp_path):
        assert torch.equal(probe.predict(base, training.triggers), before)


def test_steps_train_everything_and_leave_the_base_alone(base: ModelFamily, tmp_path: Path) -> None:
    probe = Probe.make(base, "a red star on a blue background")
    before = probe.predict(base, {})
    for training in placed(base, CONFIG, tmp_path):
        start = training.tokens.rows()
        steps = list(training.trainer.steps())
        assert [step.number for step in steps] == [1, 2, 3, 4]
        assert all(step.loss > 0 and step.gradient_norms["lora"] > 0 for step in steps)
        assert not any(layer.changes_nothing for layer in training.artifact().layers.values())
        assert all(not torch.equal(*pair) for pair in zip(start, training.tokens.rows(), strict=True))
    assert torch.equal(probe.predict(base, {}), before)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_tensors_and_another_seed_others(base: ModelFamily, tmp_path: Path) -> None:
    first = trained_state(base, CONFIG, tmp_path / "1")
    torch.manual_seed(12345)  # the global generator must have no influence
    second = trained_state(base, CONFIG, tmp_path / "2")
    other = trained_state(base, CONFIG.model_copy(update={"seed": 1}), tmp_path / "3")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_accumulated_micro_batches_are_one_large_batch(base: ModelFamily, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"max_train_steps": 2, "caption_dropout": 0.0})
    large = trained_state(base, config, tmp_path / "1")
    halves = config.model_copy(update={"train_batch_size": 2, "gradient_accumulation_steps": 2})
    small = trained_state(base, halves, tmp_path / "2")
    for name in large:
        torch.testing.assert_close(small[name], large[name], rtol=0.05, atol=5e-4)


def test_schedules_end_where_the_run_ends(training: Training) -> None:
    rates = [step.learning_rates for step in training.trainer.steps()]
    assert rates[0] == {"lora": 2e-3, "tokens": 2e-2}  # a run of four steps has no warm-up
    assert training.trainer.trainables[0].learning_rate == pytest.approx(0, abs=1e-9)


def test_a_loss_that_is_not_finite_stops_before_the_update(training: Training) -> None:
    before = training.artifact()
    training.trainer.batches = (
        replace(batch, moments=torch.full_like(batch.moments, torch.nan)) for batch in training.trainer.batches
    )
    with pytest.raises(TrainingDiverged, match="diverged at step 1, where values are not finite"):
        list(training.trainer.steps())
    after = training.artifact()
    assert all(
        torch.equal(*pair)
        for name in before.layers
        for pair in zip(before.layers[name].parameters, after.layers[name].parameters, strict=True)
    )


def test_images_that_fill_up_a_batch_count_less_and_the_loss_is_a_mean_all_the_same(training: Training) -> None:
    trainer = training.trainer
    batch = next(trainer.batches)
    trainer.backward(batch, 0.0)  # makes the generators
    before, found = trainer.generators.state_dict(), []
    for filling in (1.0, 0.25):
        trainer.trainables[0].optimizer.zero_grad()
        trainer.generators.load_state_dict(before)
        losses = trainer.backward(replace(batch, filling=filling), 1.0)
        gradients = [cast(torch.Tensor, each.grad).clone() for each in trainer.trainables[0].parameters]
        found.append((losses, gradients))
    (full, whole), (filled, less) = found
    assert torch.equal(full["mse"], filled["mse"])
    assert all(torch.allclose(one, 4 * other, rtol=1e-4, atol=1e-9) for one, other in zip(whole, less, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("spoil", ["zeroed", "scaled", "base"])
def test_verification_catches_a_file_that_is_not_the_model(spoil: str, base: ModelFamily, tmp_path: Path) -> None:
    probe = Probe.make(base, "a photo of TOK")
    untouched = probe.predict(base, {})
    for training in placed(base, CONFIG, tmp_path):
        list(training.trainer.steps())
        trained = probe.predict(base, training.triggers)
        artifact = training.artifact()
    name, layer = next(iter(artifact.layers.items()))
    assert isinstance(layer, LoraLayer)
    if spoil == "zeroed":
        layers = {**artifact.layers, name: replace(layer, up=torch.zeros_like(layer.up))}
    elif spoil == "scaled":
        layers = {key: replace(cast(LoraLayer, value), alpha=2 * layer.alpha) for key, value in artifact.layers.items()}
    else:
        layers, untouched = dict(artifact.layers), untouched + 1e-4
    path = tmp_path / "weights.safetensors"
    Artifact(layers, artifact.tokens, artifact.description).write(
        path, "fp16", architecture=base.architecture, base_model_version=base.base_model_version
    )
    messages = {
        "zeroed": r"FAILED +1 +≤ 0 +of \d+ layers were trained, but have no effect in the file",
        "scaled": r"FAILED .*differs from the trained model(.|\n)*layers that differ most",
        "base": "itself was altered",
    }
    with pytest.raises(VerificationFailed, match=messages[spoil]):
        verify(path, base, probe, untouched, trained, artifact)


def test_prior_matching_is_nothing_at_first_and_leaves_the_adapter_trainable(base: ModelFamily, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"prior_matching_weight": 1.0})
    for training in placed(base, config, tmp_path):
        steps = list(training.trainer.steps())
        assert steps[0].losses["prior_matching"] == pytest.approx(0, abs=1e-10)  # a new adapter changes nothing
        assert steps[-1].losses["prior_matching"] > 0
        assert all(step.gradient_norms["lora"] > 0 for step in steps)


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["attention", "attention+feed-forward", "attention+feed-forward+convolutions"])
def test_every_choice_of_layers_is_trained_saved_and_read_back(targets: LoraTargets, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"lora_targets": targets, "max_train_steps": 2})
    output = OutputFolder.create(tmp_path / "out")
    list(run(config, [EXAMPLE], output))  # the run ends with the verification
    names = Artifact.read(output.weights).layers
    assert any("attn2" in name for name in names)
    assert any("ff_net" in name for name in names) == (targets != "attention")
    assert any("in_layers_2" in name for name in names) == targets.endswith("convolutions")


def test_closing_the_run_early_saves_a_whole_artifact(tmp_path: Path) -> None:
    output = OutputFolder.create(tmp_path / "out")
    progress = run(CONFIG, [EXAMPLE], output)
    next(event for event in progress if event.step == 2)
    progress.close()
    description = Artifact.read(output.weights).description
    assert description is not None and description.steps == 2


def test_the_run_reports_its_progress_in_order(tmp_path: Path) -> None:
    events = list(run(CONFIG, [EXAMPLE], OutputFolder.create(tmp_path / "out")))
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    steps = [event for event in events if event.step is not None]
    assert [event.step for event in steps] == [1, 2, 3, 4]
    assert all(event.loss is not None and event.eta_seconds is not None for event in steps)
    assert steps[-1].eta_seconds == 0


def test_a_base_in_a_folder_is_the_base_by_name() -> None:
    from families.loading.fingerprint import fingerprint
    from families.loading.sources import EMBEDDED_BASE_FOLDER

    named, folder = (load_base_model(name, torch.float32) for name in ("mini-sdxl", str(EMBEDDED_BASE_FOLDER)))
    assert fingerprint(named.denoiser) == fingerprint(folder.denoiser)
    assert (named.native_resolution, named.size_multiple) == (64, 16)
