"""Tests of T-LoRA: the number of components at each timestep, predictions compared with those of LoRAs with as many
components, gradients, its file, and what can read it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from artifact.artifact import Artifact
from artifact.conversion.convert import convert
from artifact.errors import ArtifactError
from artifact.layers import Layer, LoraLayer, TimedLoraLayer
from artifact.merging.merge import merge
from artifact.merging.onto import merge_onto
from artifact.merging.resize import resize
from artifact.metadata import ArtifactDescription
from artifact.names.components import place_names
from artifact.placement.placing import PlacedArtifacts
from artifact.placement.timesteps import TimestepClock
from families.family import ModelFamily
from job.verification.verify import Probe
from settings.record import ConfigError
from settings.training import build_config
from tests.trainer.adapters.test_adapters import adapted, config, disturb
from trainer.adapters.adapter import Adapter
from trainer.adapters.starting import CannotHold
from trainer.adapters.t_lora import component_times

RANK, LEAST = 4, 1
T_LORA = config(adapter="t-lora", rank=RANK, t_lora_min_rank=LEAST, alpha=6.0, lora_targets="cross-attention-kv")


@pytest.mark.parametrize(("rank", "least"), [(16, 1), (8, 4), (5, 3), (1, 1)])
def test_the_counts_are_those_of_the_formula(rank: int, least: int) -> None:
    start, end = component_times(rank, least).double().unbind(1)
    for tau in [number / 97 for number in range(98)]:
        acting = int(((start <= tau) & (tau < end)).sum())
        exact = (1 - tau) * (rank - least + 1)
        wanted = least if tau == 1 else math.ceil(exact - 1e-6) + least - 1
        assert acting == max(wanted, least)
    assert int(((start <= 0) & (end > 0)).sum()) == rank  # the last one acts below τ = 1 / (rank - least + 1)


def test_each_image_has_the_lora_of_its_timestep(base: ModelFamily) -> None:
    """Each image's prediction is that of a plain LoRA with as many components. Components that are not used get no
    gradient."""
    probe = Probe.make(base, "a red star")
    steps, counts = [0, 400, 990], [4, 3, 1]  # ⌈.6 · 4⌉ = 3, ⌈.01 · 4⌉ = 1
    noised, prompts = probe.noised[:1].repeat(3, 1, 1, 1), base.encode_prompts(["a red star"] * 3)
    with adapted(base, T_LORA) as parts:
        disturb(parts)
        together = base.denoise(noised, torch.tensor(steps), prompts, probe.sizes[:1] * 3)
        layers = parts.layers()
        alone = base.denoise(noised[:1], torch.tensor([990]), base.encode_prompts(["a red star"]), probe.sizes[:1])
        alone.square().mean().backward()
        downs = [each for each in parts["lora"].parameters if each.shape[0] == RANK]
        assert downs and all(each.grad is not None for each in downs)
        assert all(each.grad[:1].any() and not each.grad[1:].any() for each in downs if each.grad is not None)
    with torch.no_grad():
        for row, (step, count) in enumerate(zip(steps, counts, strict=True)):
            for placed in (cut(layers, count), layers):  # the file's layers do the same, also with a scalar timestep
                on_base = PlacedArtifacts(base, [Artifact(placed, {}, None)])
                try:
                    found = predict(base, noised[:1], step, probe)
                finally:
                    on_base.remove()
                torch.testing.assert_close(found[0], together[row].detach(), rtol=1e-4, atol=1e-4)
        bare = predict(base, noised[:1], 0, probe)
    assert (bare[0] - together[0]).norm() > 0.05 * bare.norm()


def cut(layers: Any, count: int) -> dict[str, Layer]:
    found: dict[str, Layer] = {}
    for name, layer in layers.items():
        plain = layer.direction
        found[name] = LoraLayer(plain.down[:count], plain.up[:, :count], plain.scale * count)
    return found


def predict(base: ModelFamily, noised: Tensor, step: int, probe: Probe) -> Tensor:
    """Returns a prediction for a timestep without a batch dimension, as diffusers' pipelines pass it."""
    original = base.denoiser.forward
    base.denoiser.forward = lambda sample, timestep, **rest: original(sample, timestep[0], **rest)
    try:
        prompts = base.encode_prompts(["a red star"])
        return base.denoise(noised, torch.tensor([step]), prompts, probe.sizes[:1])
    finally:
        base.denoiser.forward = original


def test_the_clock_writes_in_place_and_knows_reversed_time() -> None:
    """A recorded pass (CUDA graph) reads the tensor that it was recorded with, so the clock must write into it."""

    class Denoiser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x

    denoiser = Denoiser()
    clock = TimestepClock(denoiser, (1.0, 0.0))
    denoiser(torch.zeros(2, 1), torch.tensor([1.0, 0.25]))
    first = clock.tau
    assert first.tolist() == [0.0, 0.75]
    denoiser(torch.zeros(2, 1), t=torch.tensor([0.0, 0.5]))
    assert clock.tau is first and first.tolist() == [1.0, 0.5]
    denoiser(torch.zeros(2, 1), 0.125)
    assert clock.tau.tolist() == [0.875]
    clock.remove()
    denoiser(torch.zeros(2, 1), torch.tensor([1.0, 1.0]))
    assert clock.tau.tolist() == [0.875] and first.tolist() == [1.0, 0.5]


def test_its_file_keeps_the_times_and_a_plain_lora_holds_the_mean(base: ModelFamily, tmp_path: Path) -> None:
    with adapted(base, T_LORA) as parts:
        disturb(parts)
        layers = parts.layers()
    path, plain, target = (tmp_path / f"{name}.safetensors" for name in ("timed", "plain", "target"))
    description = ArtifactDescription(base.name, "mini-sdxl", "", "epsilon", {}, 1)
    Artifact(layers, {}, description).write(path, "fp16", architecture="a", base_model_version="b")
    read = Artifact.read(path)
    assert {layer.kind for layer in read.layers.values()} == {"timed-lora"}
    for layer in read.layers.values():
        assert isinstance(layer, TimedLoraLayer) and torch.equal(layer.times, component_times(RANK, LEAST))
        direction = layer.direction
        shares = [1.0, 0.75, 0.5, 0.25]  # share of the timesteps at which each component is used
        parts_of = [direction.up[:, [i]].float() @ direction.down[[i]].float() * shares[i] for i in range(RANK)]
        torch.testing.assert_close(layer.delta(torch.zeros(parts_of[0].shape)), 1.5 * torch.stack(parts_of).sum(0))
    outcome = resize(path, plain, RANK, base="mini-sdxl")
    assert outcome.error < 1e-5 and "are only used in a part of the timesteps" in str(outcome)
    assert "are only used in a part of the timesteps" in str(merge_onto([path], [1.0], "mini-sdxl", tmp_path / "onto"))
    for name, layer in Artifact.read(plain).layers.items():
        weight = torch.zeros(layer.up.shape[0], layer.down.shape[1]) if isinstance(layer, LoraLayer) else torch.zeros(1)
        torch.testing.assert_close(layer.delta(weight), read.layers[name].delta(weight), rtol=1e-3, atol=1e-4)
    with pytest.raises(ArtifactError, match="timed-lora layer, which diffusers cannot load"):
        convert(path, target, "diffusers")
    with pytest.raises(ArtifactError, match="timed-lora layer, not a plain LoRA"):
        merge([path], [1.0], target)


def test_what_it_can_start_from(base: ModelFamily) -> None:
    with adapted(base, T_LORA) as parts:
        disturb(parts)
        layers = parts.layers()
    places = {name: place for place, name in place_names(base).items()}
    with adapted(base, T_LORA) as parts:
        adapter = parts["lora"]
        assert isinstance(adapter, Adapter)
        for name, layer in layers.items():
            place = places[name]
            assert isinstance(layer, TimedLoraLayer)
            assert adapter.start(place, layer) is None
        found = adapter.layers()
        assert all(
            torch.allclose(*pair)
            for name in layers
            for pair in zip(layers[name].parameters, found[name].parameters, strict=True)
        )
        assert isinstance(layer, TimedLoraLayer)
        with pytest.raises(CannotHold, match="from those of this t-lora"):
            adapter.start(place, layer.direction)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"t_lora_min_rank": 4}, "t_lora_min_rank has no effect with adapter: lora"),
        ({"adapter": "t-lora", "rank": 4, "t_lora_min_rank": 4}, "equal to rank it is adapter: lora"),
    ],
)
def test_what_has_no_meaning_is_an_error(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(values)
