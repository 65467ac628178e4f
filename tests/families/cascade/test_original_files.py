"""Tests of the original code's LoRA files, where layers have numbers, and queries, keys and values are one layer."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from artifact.artifact import Artifact
from artifact.errors import ArtifactError
from families.cascade.family import Cascade
from families.cascade.stage import CascadeUNet
from families.family import ModelFamily
from sampler.sampler import Sampler
from tests.families.test_family_files import predict
from tests.tiny_cascade import WIDTH, tiny_stage_c, write_cascade
from tests.tiny_models import opened

RANK = 2


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> ModelFamily:
    """A tiny base with as many blocks as the published 1B model."""
    family = opened(write_cascade(tmp_path_factory.mktemp("cascade") / "base"))
    assert isinstance(family, Cascade)
    torch.manual_seed(1)
    stage = tiny_stage_c(down_num_layers_per_block=(4, 12), up_num_layers_per_block=(12, 4))
    family.denoiser = CascadeUNet.from_config(stage.config).eval().requires_grad_(False)
    family.denoiser.load_state_dict(stage.state_dict())
    return family


def numbered(count: int = 64) -> dict[str, Tensor]:
    """Return tensors as the original code saves them: for each block the output projection, then queries, keys and
    values as one layer."""
    generator, tensors = torch.Generator().manual_seed(0), dict[str, Tensor]()
    for number in range(count):
        rows = WIDTH * (3 if number % 2 else 1)
        tensors[f"weights.{number}.lora_down"] = 0.3 * torch.randn(RANK, WIDTH, generator=generator)
        tensors[f"weights.{number}.lora_up"] = 0.3 * torch.randn(rows, RANK, generator=generator)
    return tensors


def test_it_does_what_the_original_does(family: ModelFamily, tmp_path: Path) -> None:
    """The original code finds the layers by traversing the model: `attn` of each block, which contains out_proj."""
    tensors = numbered()
    save_file(tensors, tmp_path / "lora.safetensors")
    bare = predict(family)
    sampler = Sampler(family)
    sampler.load(Artifact.read(tmp_path / "lora.safetensors"))
    ours = predict(family)
    sampler.unload()
    assert torch.equal(predict(family), bare) and (ours - bare).norm() > 0.01 * bare.norm()

    before = {name: value.clone() for name, value in family.denoiser.state_dict().items()}
    attentions = [module for name, module in family.denoiser.named_modules() if name.endswith(".attention")]
    assert len(attentions) == 32
    for number, attention in enumerate(attentions):
        out, joined = (
            tensors[f"weights.{index}.lora_up"] @ tensors[f"weights.{index}.lora_down"] / RANK
            for index in (2 * number, 2 * number + 1)
        )
        attention.to_out[0].weight += out
        for layer, rows in zip((attention.to_q, attention.to_k, attention.to_v), joined.chunk(3), strict=True):
            layer.weight += rows
    theirs = predict(family)
    family.denoiser.load_state_dict(before)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_new_words_have_the_files_name(tmp_path: Path) -> None:
    rows = torch.randn(2, WIDTH)
    words = {"embeddings.embeddings": rows, "embeddings.indices": torch.tensor([49408, 49409])}
    save_file(numbered(128) | words, tmp_path / "fernando.safetensors")
    artifact = Artifact.read(tmp_path / "fernando.safetensors")
    assert list(artifact.triggers) == ["fernando"] and torch.equal(artifact.tokens["clip_g"], rows)
    assert len(artifact.layers) == 256


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (numbered(8), "16 tensors of numbered layers; .* two for each of 64 or 128"),
        ({key: each for key, each in numbered().items() if key != "weights.3.lora_up"}, "127 tensors of numbered"),
        (numbered() | {"weights.1.lora_up": torch.zeros(7, RANK)}, "in_proj has the invalid shape"),
        (
            numbered() | {"embeddings.embeddings": torch.zeros(1, WIDTH), "embeddings.indices": torch.tensor([2368])},
            "tokens of the base model's vocabulary",
        ),
        (numbered() | {"weights.x": torch.zeros(1)}, "not a plain LoRA: weights.x"),
    ],
)
def test_what_cannot_be_placed_is_named(tensors: dict[str, Tensor], said: str, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(ArtifactError, match=said):
        Artifact.read(tmp_path / "lora.safetensors")
