"""Tests that diffusers loads all layers of each family's LoRA file, and that its prediction is the same."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from artifact.artifact import Artifact
from artifact.layers import LoraLayer
from artifact.metadata import ArtifactDescription
from artifact.names.kohya import file_names
from families.family import ModelFamily, SizeConditioning
from sampler.sampler import Sampler
from settings.sections.adapter import AdapterSection
from tests.tiny_models import SIDE, load_tiny
from trainer.adapters.targets import denoiser_targets


def random_lora(family: ModelFamily) -> Artifact:
    """Return a LoRA with random values on every layer that the family adapts, with alpha half the rank."""
    generator, layers = torch.Generator().manual_seed(0), {}
    names, kinds = file_names(family), [kind for kind, endings in family.adapter_modules.items() if endings]
    for path in denoiser_targets(family, AdapterSection(lora_targets="+".join(kinds))):
        outputs, *inputs = family.denoiser.get_submodule(path).weight.shape
        down = 0.2 * torch.randn(4, *inputs, generator=generator)
        up = 0.2 * torch.randn(outputs, 4, *(1 for _ in inputs[1:]), generator=generator)
        layers[names[path]] = LoraLayer(down, up, 2.0)
    description = ArtifactDescription(family.name, "tiny", "", family.noise_process.prediction_type, {}, 1)
    return Artifact(layers, {}, description)


def latent_shape(family: ModelFamily, count: int = 1) -> torch.Size:
    """Return the latents' shape (B, C, h, w) for `count` images of a tiny base's native size."""
    cached = family.encode_image(torch.zeros(1, 3, SIDE, SIDE)).shape
    return torch.Size((count, *family.latent_shape(cached)[1:]))


@contextmanager
def warnings_of(library: str) -> Iterator[list[str]]:
    """Collect the library's log messages from level WARNING inside this context."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(library)
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


@torch.no_grad()
def predict(family: ModelFamily) -> torch.Tensor:
    noised = torch.randn(latent_shape(family), generator=torch.Generator().manual_seed(0))
    size = SizeConditioning((64, 64), (0, 0), (64, 64))
    return family.denoise(noised, torch.tensor([500]), family.encode_prompts(["a red star"]), [size])


NO_TEXT_ENCODER = "found with the prefix='text_encoder"
"""diffusers logs this for every file without layers of text encoders."""
SLOW_ONES = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("sd2-v", "sdxl")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd15", "sd3", "flux1", "flux2", "qwen_image", "z-image", *SLOW_ONES])
def test_diffusers_opens_each_familys_file_as_it_is(kind: str, tmp_path: Path) -> None:
    family = load_tiny(kind, tmp_path / "base")
    bare, artifact, path = predict(family), random_lora(family), tmp_path / "weights.safetensors"
    artifact.write(path, "fp32", architecture=family.architecture, base_model_version=family.base_model_version)
    with safe_open(path, framework="pt") as file:
        header, names = file.metadata(), list(file.keys())
    assert header["modelspec.architecture"] == f"{family.architecture}/lora"
    stability = "https://github.com/Stability-AI/generative-models"
    assert header["modelspec.implementation"] == (stability if kind == "sdxl" else "diffusers")
    assert (
        header.get("modelspec.prediction_type")
        == {"flow": None, "epsilon": "epsilon", "v_prediction": "v"}[family.noise_process.prediction_type]
    )
    assert all(name.startswith("transformer." if family.layer_naming == "peft" else "lora_unet_") for name in names)

    sampler = Sampler(family)
    sampler.load(Artifact.read(path))
    ours = predict(family)
    sampler.unload()
    assert torch.equal(predict(family), bare)

    with warnings_of("diffusers") as warnings:
        family.pipeline().load_lora_weights(str(tmp_path), weight_name=path.name)
    assert [line for line in warnings if NO_TEXT_ENCODER not in line] == []
    theirs = predict(family)
    placed = [name for name, _ in family.denoiser.named_parameters() if ".lora_A." in name]
    assert len(placed) == len(artifact.layers)
    assert (ours - bare).norm() > 0.01 * bare.norm()
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)
