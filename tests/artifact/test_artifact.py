"""Tests of the LoRA file: a plain LoRA for other tools, with all other data in its header; errors for invalid files."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors import safe_open
from safetensors.torch import save_file

from artifact.artifact import Artifact
from artifact.errors import ArtifactError
from artifact.layers import LoraLayer
from artifact.metadata import ArtifactDescription
from artifact.names.kohya import kohya_name
from artifact.placement.placing import PlacedArtifacts
from artifact.safetensors_file import read_safetensors, write_safetensors
from families.family import ModelFamily
from families.loading.fingerprint import fingerprint
from families.loading.sources import EMBEDDED_BASE_FOLDER
from sampler.sampler import Sampler, SampleRequest

PATHS = (
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0",
    "up_blocks.0.attentions.2.transformer_blocks.0.attn2.to_k",
    "down_blocks.1.attentions.1.transformer_blocks.0.ff.net.0.proj",
    "down_blocks.0.resnets.1.conv1",
    "mid_block.resnets.0.conv2",
    "up_blocks.2.resnets.0.conv_shortcut",
)


def make_artifact(base: ModelFamily, rank: int = 4, alpha: float = 2.0, size: float = 0.2) -> Artifact:
    """Return a random LoRA on the modules of PATHS, with random token embeddings."""
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for path in PATHS:
        out_features, *inputs = base.denoiser.get_submodule(path).weight.shape
        layers[kohya_name(path, 2)] = LoraLayer(
            size * torch.randn(rank, *inputs, generator=generator),
            size * torch.randn(out_features, rank, *(1 for _ in inputs[1:]), generator=generator),
            alpha,
        )
    tokens = {
        name: torch.randn(2, encoder.get_input_embeddings().embedding_dim, generator=generator)
        for name, encoder in zip(base.encoder_names, base.text_encoders, strict=True)
    }
    description = ArtifactDescription(
        family="sdxl",
        base_model="mini-sdxl",
        base_fingerprint=fingerprint(base.denoiser),
        prediction_type="epsilon",
        triggers={"TOK": ["<s0>", "<s1>"]},
        steps=7,
        config={"resolution": 64, "seed": 3},
    )
    return Artifact(layers, tokens, description)


def unet_inputs(base: ModelFamily) -> dict[str, Any]:
    """Return random arguments for the base's UNet."""
    return {
        "sample": torch.randn(1, 4, 16, 16),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": torch.randn(1, 77, base.denoiser.config.cross_attention_dim),
        "added_cond_kwargs": {"text_embeds": torch.randn(1, 96), "time_ids": torch.full((1, 6), 64.0)},
    }


def write(artifact: Artifact, path: Path, base: ModelFamily, precision: str = "fp32") -> Path:
    artifact.write(path, precision, architecture=base.architecture, base_model_version=base.base_model_version)
    return path


def test_what_is_written_is_read_back(base: ModelFamily, tmp_path: Path) -> None:
    artifact = make_artifact(base)
    back = Artifact.read(write(artifact, tmp_path / "weights.safetensors", base))
    assert back.description == artifact.description
    assert back.layers.keys() == artifact.layers.keys()
    for name, layer in artifact.layers.items():
        written, read = layer.tensors(), back.layers[name].tensors()
        assert written.keys() == read.keys() and all(torch.equal(written[key], read[key]) for key in written)
    for name, rows in artifact.tokens.items():
        assert torch.equal(back.tokens[name], rows)
    assert not list(tmp_path.glob("*.unfinished"))


def test_every_tensor_is_kohyas_and_the_header_is_what_other_tools_look_for(base: ModelFamily, tmp_path: Path) -> None:
    path = write(make_artifact(base), tmp_path / "weights.safetensors", base, "fp16")
    with safe_open(path, framework="pt") as file:
        names, header = set(file.keys()), file.metadata()
        assert {file.get_tensor(name).dtype for name in names if "lora_" in name.split(".", 1)[1]} == {torch.float16}
    suffixes = ("lora_down.weight", "lora_up.weight", "alpha")
    assert names == {f"{kohya_name(path_, 2)}.{suffix}" for path_ in PATHS for suffix in suffixes}
    assert header["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert header["modelspec.trigger_phrase"] == "TOK"
    assert (header["ss_network_dim"], header["ss_network_alpha"]) == ("4", "2.0")
    assert header["ss_base_model_version"] == "sdxl_base_v1-0"
    assert json.loads(header["lora_trainer"])["steps"] == 7


def test_embeddings_for_other_tools(base: ModelFamily, tmp_path: Path) -> None:
    make_artifact(base).write_embeddings(tmp_path / "embeddings.safetensors")
    with safe_open(tmp_path / "embeddings.safetensors", framework="pt") as file:
        assert {name: file.get_tensor(name).shape[0] for name in file.keys()} == {"clip_l": 2, "clip_g": 2}  # noqa: SIM118


def test_values_that_are_not_finite_are_never_written(base: ModelFamily, tmp_path: Path) -> None:
    artifact = make_artifact(base, size=1e6)  # beyond fp16
    with pytest.raises(ArtifactError, match="not finite; nothing was written"):
        write(artifact, tmp_path / "weights.safetensors", base, "fp16")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": torch.zeros(1)}, "not a plain LoRA: a"),
        ({"a.lora_down.weight": torch.zeros(2, 3)}, "a lacks lora_up.weight"),
        ({"base_model.model.a.lora_A.weight": torch.zeros(2, 3)}, "is an adapter file of peft, without its alpha"),
        ({"a.lora_down.weight": torch.zeros(2, 3), "a.lora_up.weight": torch.zeros(3, 4)}, "which is not a valid LoRA"),
        ({"a.lora_down.weight": torch.full((2, 3), torch.nan), "a.lora_up.weight": torch.zeros(3, 2)}, "not finite"),
    ],
)
def test_files_that_are_no_lora(tensors: dict[str, torch.Tensor], message: str, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(ArtifactError, match=message):
        Artifact.read(tmp_path / "other.safetensors")


@pytest.mark.parametrize("data", [b"", b"hello", b"\x80\x04}q\x00.", b"\xff" * 100])
def test_files_that_are_no_safetensors(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(data)
    with pytest.raises(ArtifactError, match="not a readable .safetensors file"):
        Artifact.read(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("header", [{"lora_trainer": "{"}, {"lora_trainer": "{}"}, {"lora_trainer": "[]"}])
def test_a_damaged_header(header: dict[str, str], tmp_path: Path) -> None:
    tensors = {"a.lora_down.weight": torch.zeros(2, 3), "a.lora_up.weight": torch.zeros(3, 2)}
    save_file(tensors, tmp_path / "weights.safetensors", metadata=header)
    with pytest.raises(ArtifactError, match="header is damaged"):
        Artifact.read(tmp_path / "weights.safetensors")


def test_a_lora_of_another_base_is_refused_and_the_base_stays(base: ModelFamily) -> None:
    request = SampleRequest("a red star", num_inference_steps=2)
    sampler = Sampler(base)
    before = sampler.generate(request)[0].tobytes()
    artifact = make_artifact(base)
    name, layer = next(iter(artifact.layers.items()))
    assert isinstance(layer, LoraLayer)
    for layers, tokens, message in (
        ({"lora_unet_nowhere": layer}, artifact.tokens, "do not exist in this base"),
        ({name: LoraLayer(layer.down[:, :5], layer.up, 1.0)}, artifact.tokens, "do not match the base"),
        (artifact.layers, {"clip_l": artifact.tokens["clip_l"]}, "no token embeddings for clip_g"),
        (artifact.layers, {name: torch.zeros(2, 5) for name in artifact.tokens}, "do not match this base"),
    ):
        with pytest.raises(ArtifactError, match=message):
            sampler.load(Artifact(layers, tokens, artifact.description))
        assert sampler.generate(request)[0].tobytes() == before


def test_loading_and_unloading_leave_exactly_the_base(base: ModelFamily) -> None:
    request = SampleRequest("a photo of TOK", num_inference_steps=2)
    sampler, artifact = Sampler(base), make_artifact(base)
    before = sampler.generate(request)[0].tobytes()
    for _ in range(2):
        sampler.load(artifact)
        assert sampler.generate(request)[0].tobytes() != before
        sampler.unload()
        assert sampler.generate(request)[0].tobytes() == before


@torch.no_grad()
def test_alpha_over_rank_times_scale_is_the_effect(base: ModelFamily) -> None:
    artifact = make_artifact(base, rank=4, alpha=2.0)
    layer, module = artifact.layers[kohya_name(PATHS[0], 2)], base.denoiser.get_submodule(PATHS[0])
    assert isinstance(layer, LoraLayer)
    x = torch.randn(3, layer.down.shape[1])
    expected = module(x) + 0.7 * (2.0 / 4) * x @ layer.down.T @ layer.up.T
    placed = PlacedArtifacts(base, [artifact])
    placed.set_scales(0.7)
    torch.testing.assert_close(base.denoiser.get_submodule(PATHS[0])(x), expected)
    placed.remove()


@torch.no_grad()
def test_diffusers_opens_the_file_as_it_is(base: ModelFamily, tmp_path: Path) -> None:
    """diffusers loads every layer, and the UNet's output is the same as with our loader."""
    path = write(make_artifact(base, size=1.0), tmp_path / "weights.safetensors", base)
    inputs = unet_inputs(base)
    placed = PlacedArtifacts(base, [Artifact.read(path)])
    ours = base.denoiser(**inputs).sample
    placed.remove()

    pipeline = StableDiffusionXLPipeline.from_pretrained(EMBEDDED_BASE_FOLDER, dtype=torch.float32)
    plain = pipeline.unet(**inputs).sample
    pipeline.load_lora_weights(path)
    theirs = pipeline.unet(**inputs).sample
    assert sum("lora_A" in name for name, _ in pipeline.unet.named_parameters()) == len(PATHS)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    assert (theirs - plain).abs().max() > 1e-2


def test_the_fingerprint_is_the_same_in_half_precision(base: ModelFamily) -> None:
    import copy

    half = copy.deepcopy(base.denoiser).to(torch.bfloat16)
    assert fingerprint(half) == fingerprint(base.denoiser)
    next(half.parameters()).data[0] += 1
    assert fingerprint(half) != fingerprint(base.denoiser)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_says_who_may_read_a_file(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_safetensors({"a": torch.zeros(2)}, tmp_path / "weights.safetensors", {"key": "value"})
    finally:
        os.umask(before)
    assert (tmp_path / "weights.safetensors").stat().st_mode & 0o777 == mode
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.safetensors"
    write_safetensors({"a": torch.zeros(2)}, path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("artifact.safetensors_file.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_safetensors({"a": torch.ones(2)}, path)
    assert [each.name for each in tmp_path.iterdir()] == ["weights.safetensors"]
    assert torch.equal(read_safetensors(path).tensors["a"], torch.zeros(2))
