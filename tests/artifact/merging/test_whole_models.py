"""Tests of whole models, which are written from a base and the file of a full fine-tuning, and loaded by diffusers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from artifact.artifact import Artifact
from artifact.errors import ArtifactError
from artifact.merging.onto import merge_onto
from artifact.metadata import ArtifactDescription
from artifact.safetensors_file import read_safetensors
from families.family import ModelFamily
from families.registry import load_base_model
from job.output_folder import OutputFolder
from job.run import run
from job.stages.export import require_model_base
from sampler.sampler import Sampler, SampleRequest
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from tests.conftest import EXAMPLE
from tests.families.loading.single_files import write_single_file
from tests.tiny_models import TINY_MODELS, load_tiny, write_sd15
from tests.trainer.adapters.placing import WEIGHTS, place_adapter

LEVELS = 1
"""Largest difference, of 255 levels: sums in another order may be rounded to the next level."""
REQUEST = SampleRequest("a photo of TOK", num_inference_steps=3, seed=5, guidance_scale=4.0, width=64, height=64)


@torch.no_grad()
def write_full(family: ModelFamily, path: Path, words: bool = True, size: float = 0.02) -> Path:
    """Write the file of a full fine-tuning and return its path. `words`: with a trigger word of two tokens. `size`: of
    the change of each weight."""
    adapter = place_adapter(family, TrainingConfig(adapter="full", learning_rate=1e-5))
    generator = torch.Generator().manual_seed(3)
    for parameter in adapter.parameters(WEIGHTS):
        parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    layers = adapter.layers()
    adapter.remove()
    widths = [encoder.get_input_embeddings().embedding_dim for encoder in family.text_encoders]
    rows = {
        name: 0.3 * torch.randn(2, width, generator=generator)
        for name, width in zip(family.encoder_names, widths, strict=True)
    }
    triggers = {"TOK": ["<s0>", "<s1>"]} if words else {}
    prediction = family.noise_process.prediction_type
    description = ArtifactDescription(family.name, "tiny", "", prediction, triggers, 1)
    artifact = Artifact(layers, rows if words else {}, description)
    artifact.write(path, "fp32", architecture=family.architecture, base_model_version=family.base_model_version)
    return path


def ours(family: ModelFamily, weights: Path | None) -> Any:
    """Return our sampler's image with the file, or without one."""
    sampler = Sampler(family)
    if weights is not None:
        sampler.load(Artifact.read(weights))
    try:
        (image,) = sampler.generate(REQUEST)
    finally:
        sampler.unload()
    return np.asarray(image.convert("RGB"), dtype=np.int16)


def theirs(pipe: Any, prompt: str) -> Any:
    """Return diffusers' image for the same request."""
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(
        prompt, num_inference_steps=3, guidance_scale=4.0, width=64, height=64,
        generator=torch.Generator().manual_seed(5),
    )  # fmt: skip
    return np.asarray(drawn.images[0].convert("RGB"), dtype=np.int16)


@pytest.mark.parametrize("kind", ["sd15", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_diffusers_draws_from_the_folder_what_the_predictor_does(kind: str, tmp_path: Path) -> None:
    folder = TINY_MODELS[kind](tmp_path / "base")
    family = load_base_model(str(folder), torch.float32)
    weights = write_full(family, tmp_path / "weights.safetensors")
    wanted, bare = ours(family, weights), ours(family, None)
    outcome = merge_onto([weights], [1.0], str(folder), tmp_path / "model")
    assert outcome.left_out == ["TOK is in the model as <s0><s1>"] and outcome.error < 1e-5
    extra = {} if kind == "sd15" else {"add_watermarker": False}
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "model", torch_dtype=torch.float32, **extra)
    assert np.abs(theirs(pipe, "a photo of <s0><s1>") - wanted).max() <= LEVELS
    assert np.abs(bare - wanted).max() > 3 * LEVELS, "the change must show"
    without = theirs(pipe, "a photo of TOK")
    assert np.abs(without - wanted).max() > 3 * LEVELS, "the words must show"
    assert not [name for name in pipe.tokenizer.get_vocab() if name.startswith("<s2")]
    again = load_base_model(str(tmp_path / "model"), torch.float32)
    assert np.abs(ours_of_words(again) - wanted).max() <= LEVELS


def ours_of_words(family: ModelFamily) -> Any:
    """Return our sampler's image for a model that contains the tokens."""
    (image,) = Sampler(family).generate(replace(REQUEST, prompt="a photo of <s0><s1>"))
    return np.asarray(image.convert("RGB"), dtype=np.int16)


def test_diffusers_draws_from_the_single_file_what_the_predictor_does(tmp_path: Path) -> None:
    folder = TINY_MODELS["sdxl"](tmp_path / "base")
    family = load_base_model(str(folder), torch.float32)
    file = write_single_file(family, tmp_path / "base.safetensors")
    weights = write_full(family, tmp_path / "weights.safetensors", words=False)
    wanted = ours(family, weights)
    merge_onto([weights], [1.0], str(file), tmp_path / "model.safetensors", str(folder))
    pipe = StableDiffusionXLPipeline.from_single_file(
        tmp_path / "model.safetensors", config=str(folder), torch_dtype=torch.float32, add_watermarker=False
    )
    assert np.abs(theirs(pipe, "a photo of TOK") - wanted).max() <= LEVELS


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A base whose files are in fp16."""
    folder = write_sd15(tmp_path / "half")
    for path in folder.rglob("*.safetensors"):
        header, tensors = read_safetensors(path)
        save_file({key: each.half() if each.is_floating_point() else each for key, each in tensors.items()},
                  path, dict(header))  # fmt: skip
    return folder


def dtypes(path: Path) -> set[torch.dtype]:
    return {tensor.dtype for tensor in load_file(path).values() if tensor.is_floating_point()}


def test_a_short_training_is_kept_in_fp32_and_rounded_away_in_the_base_s_fp16(half: Path, tmp_path: Path) -> None:
    """Each weight changes by about 1e-5, as in a few steps with a learning rate of 1e-5."""
    family = load_base_model(str(half), torch.float32)
    weights = write_full(family, tmp_path / "weights.safetensors", size=1e-5)
    lost = merge_onto([weights], [1.0], str(half), tmp_path / "as-base").error
    kept = merge_onto([weights], [1.0], str(half), tmp_path / "fp32", precision="fp32").error
    assert lost > 0.1 and kept < 1e-3
    for part in ("unet/diffusion_pytorch_model", "text_encoder/model"):
        assert dtypes(tmp_path / "as-base" / f"{part}.safetensors") == {torch.float16}
        assert dtypes(tmp_path / "fp32" / f"{part}.safetensors") == {torch.float32}
    assert dtypes(tmp_path / "fp32" / "vae" / "diffusion_pytorch_model.safetensors") == {torch.float16}
    before, after = (load_file(each / "text_encoder" / "model.safetensors") for each in (half, tmp_path / "fp32"))
    (table,) = [key for key in before if key.endswith("token_embedding.weight")]
    assert torch.equal(after[table][: len(before[table])], before[table].float())
    assert len(after[table]) == len(before[table]) + 2


def test_a_file_in_another_precision(half: Path, tmp_path: Path) -> None:
    family = load_base_model(str(half), torch.float32)
    file = write_single_file(family, tmp_path / "base.safetensors")
    weights = write_full(family, tmp_path / "weights.safetensors", words=False)
    merge_onto([weights], [1.0], str(file), tmp_path / "bf16.safetensors", str(half), precision="bf16")
    tensors = load_file(tmp_path / "bf16.safetensors")
    assert {key.startswith("first_stage_model.") for key, each in tensors.items() if each.dtype == torch.float32} == {
        True
    }
    assert {each.dtype for key, each in tensors.items() if "diffusion_model" in key} == {torch.bfloat16}


def test_values_beyond_the_precision_are_refused_and_nothing_stays(tmp_path: Path) -> None:
    family = load_tiny("sd15", tmp_path / "base")
    weights = write_full(family, tmp_path / "weights.safetensors", size=1e6)
    with pytest.raises(ArtifactError, match=r"would not be finite in torch\.float16; nothing was written"):
        merge_onto([weights], [1.0], str(tmp_path / "base"), tmp_path / "model", precision="fp16")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "weights.safetensors"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"save_model": "diffusers"}, "save_model has no effect with adapter: lora"),
        ({"save_model_precision": "fp32"}, "save_model_precision has no effect without save_model"),
        (
            {"adapter": "full", "learning_rate": 1e-5, "save_model": "diffusers", "vae": "owner/vae"},
            "own VAE, not the one of vae",
        ),
    ],
)
def test_settings_that_contradict_each_other(settings: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(settings)


def test_bases_that_cannot_be_written_are_refused_before_they_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "base.safetensors").touch()
    full = {"adapter": "full", "learning_rate": 1e-5}
    for base, output, message in (
        ("owner/name", "diffusers", "save_model: owner/name is a hub id.*hf download owner/name"),
        (str(tmp_path / "base.safetensors"), "diffusers", "set save_model: single_file"),
        ("mini-sdxl", "single_file", "set save_model: diffusers"),
    ):
        with pytest.raises(ConfigError, match=message):
            require_model_base(build_config({**full, "base_model": base, "save_model": output}))


def config_of(base: Path, **changes: Any) -> TrainingConfig:
    return TrainingConfig(
        base_model=str(base), adapter="full", learning_rate=1e-4, max_train_steps=3, train_batch_size=2, num_tokens=1,
        class_word="robot", captioner="none", num_validation_images=0, evaluate="false", lr_warmup_steps=0, **changes,
    )  # fmt: skip


@pytest.fixture
def output(tmp_path: Path) -> OutputFolder:
    return OutputFolder.create(tmp_path / "out")


@pytest.mark.slow
def test_a_run_writes_the_whole_model(half: Path, output: OutputFolder, tmp_path: Path) -> None:
    """The model is in fp32, from a base in fp16, with text encoders, trained in mixed precision. Its scheduler has the
    noise settings of the training. It is the base of another training, whose token is added to the first one."""
    trained = {"train_text_encoder": True, "mixed_precision": "bf16"}
    noise = {"prediction_type": "v_prediction", "zero_terminal_snr": True}
    config = config_of(half, save_model="diffusers", save_model_precision="fp32", **noise, **trained)
    lines = [str(progress) for progress in run(config, [EXAMPLE], output)]
    assert any("TOK is in the model as <s0>" in line for line in lines)
    assert dtypes(output.weights) == {torch.float32}
    assert any(name.startswith("lora_te_") for name in Artifact.read(output.weights).layers)
    pipe = StableDiffusionPipeline.from_pretrained(output.model_folder, torch_dtype=torch.float32)
    assert pipe.scheduler.config["rescale_betas_zero_snr"]
    family = load_base_model(str(half), torch.float32, prediction_type="v_prediction", zero_terminal_snr=True)
    assert np.abs(theirs(pipe, "a photo of <s0>") - ours(family, output.weights)).max() <= LEVELS
    again = OutputFolder.create(tmp_path / "again")
    config = config_of(output.model_folder, save_model="diffusers").with_values({"max_train_steps": 1})
    lines = [str(progress) for progress in run(config, [EXAMPLE], again)]
    assert any("TOK is in the model as <s1>" in line for line in lines)
    description = Artifact.read(again.weights).description
    assert description is not None and description.triggers == {"TOK": ["<s0>"]}  # as in every file
    tokenizer = StableDiffusionPipeline.from_pretrained(again.model_folder).tokenizer
    assert {"<s0>", "<s1>"} <= tokenizer.get_vocab().keys()
    inside = load_base_model(str(output.model_folder), torch.float32)
    pipe = StableDiffusionPipeline.from_pretrained(again.model_folder, torch_dtype=torch.float32)
    assert np.abs(theirs(pipe, "a photo of <s1>") - ours(inside, again.weights)).max() <= LEVELS
