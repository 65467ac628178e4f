"""Tests of artifacts of every kind on the base: their effect, several at once, failed loads, and the restored base."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from artifact.artifact import Artifact
from artifact.errors import ArtifactError
from artifact.layers import DoraLayer, FullLayer, Layer, LohaLayer, LokrLayer, LoraLayer
from artifact.metadata import ArtifactDescription
from artifact.names.components import DENOISER, Place, components, module_places, place_names
from artifact.placement.placing import PlacedArtifacts
from artifact.placement.weight_changes import WeightChanges
from families.family import ModelFamily
from sampler.sampler import Sampler, SampleRequest

LINEAR = Place(DENOISER, "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q")
CONVOLUTION = Place(DENOISER, "down_blocks.0.resnets.1.conv1")
TEXT = Place("text_encoder", "encoder.layers.0.self_attn.q_proj")
TEXT_2 = Place("text_encoder_2", "text_model.encoder.layers.1.mlp.fc1")
PLACES = (LINEAR, CONVOLUTION, TEXT, TEXT_2)
KINDS = ("lora", "dora", "loha", "lokr", "full")


def module_at(base: ModelFamily, place: Place) -> Any:
    return components(base)[place.component].get_submodule(place.path)


def make_layer(kind: str, weight: Tensor, seed: int = 0) -> Layer:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return 0.3 * torch.randn(shape, generator=generator)

    out, *inputs = weight.shape
    flat = weight[0].numel()
    lora = LoraLayer(random(2, *inputs), random(out, 2, *(1 for _ in inputs[1:])), 1.0)
    if kind == "lora":
        return lora
    if kind == "dora":
        return DoraLayer(lora, 1.1 * weight.flatten(1).norm(dim=1).reshape(out, *(1 for _ in inputs)))
    if kind == "loha":
        return LohaLayer(random(out, 2), random(2, flat), random(out, 2), random(2, flat), 1.0)
    if kind == "lokr":
        return LokrLayer(w1=random(2, 2), w2_a=random(out // 2, 2), w2_b=random(2, flat // 2), alpha=1.0)
    return FullLayer(random(*weight.shape), random(out))


def make(base: ModelFamily, kind: str, seed: int = 0, trigger: str = "TOK") -> Artifact:
    names = place_names(base)
    layers = {names[place]: make_layer(kind, module_at(base, place).weight, seed) for place in PLACES}
    generator = torch.Generator().manual_seed(seed)
    tokens = {
        name: torch.randn(2, encoder.get_input_embeddings().embedding_dim, generator=generator)
        for name, encoder in zip(base.encoder_names, base.text_encoders, strict=True)
    }
    return Artifact(layers, tokens, ArtifactDescription("sdxl", "mini", "", "epsilon", {trigger: ["<s0>", "<s1>"]}, 1))


def state(base: ModelFamily) -> dict[str, Tensor]:
    return {
        f"{component}.{name}": value.clone()
        for component, module in components(base).items()
        for name, value in module.state_dict().items()
    }


@torch.no_grad()
def output(base: ModelFamily, place: Place) -> Tensor:
    module = module_at(base, place)
    weight = getattr(module, "base_layer", module).weight
    shape = (3, weight.shape[1]) if weight.ndim == 2 else (1, weight.shape[1], 5, 5)
    return module(torch.randn(shape, generator=torch.Generator().manual_seed(5)))


@torch.no_grad()
def expected_output(base: ModelFamily, place: Place, layers: Mapping[Layer, float]) -> Tensor:
    """Return the module's output with Σ scale · delta added to a copy of its weight."""
    module = module_at(base, place)
    weight, bias = module.weight, module.bias
    try:
        module.weight = torch.nn.Parameter(weight + sum(scale * layer.delta(weight) for layer, scale in layers.items()))
        for layer, scale in layers.items():
            if isinstance(layer, FullLayer) and bias is not None and layer.diff_bias is not None:
                module.bias = torch.nn.Parameter(module.bias + scale * layer.diff_bias)
        return output(base, place)
    finally:
        module.weight, module.bias = weight, bias


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_the_modules_by_scale_times_delta(kind: str, base: ModelFamily) -> None:
    artifact = make(base, kind)
    if kind == "full":  # attention has no biases here
        artifact = replace(artifact, layers=dict(_without_odd_biases(base, artifact.layers)))
    names = place_names(base)
    layers = {place: artifact.layers[names[place]] for place in PLACES}
    before = state(base)
    wanted = {place: expected_output(base, place, {layers[place]: 0.7}) for place in PLACES}
    placed = PlacedArtifacts(base, [artifact], [0.7])
    for place in PLACES:
        torch.testing.assert_close(output(base, place), wanted[place], rtol=1e-4, atol=1e-5)
    placed.set_scales(0.0)
    plain = {place: output(base, place) for place in PLACES}
    placed.remove()
    for place in PLACES:
        torch.testing.assert_close(output(base, place), plain[place], rtol=1e-6, atol=1e-6)
    after = state(base)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def _without_odd_biases(base: ModelFamily, layers: Mapping[str, Layer]) -> Mapping[str, Layer]:
    places = module_places(base)
    return {
        name: layer if module_at(base, places[name]).bias is not None else FullLayer(cast(FullLayer, layer).diff)
        for name, layer in layers.items()
    }


def test_several_artifacts_of_several_kinds_add_up_each_at_its_scale(base: ModelFamily) -> None:
    artifacts = [make(base, "lora", 1), make(base, "loha", 2, "HAT"), make(base, "lora", 3), make(base, "dora", 4, "X")]
    scales, names = (0.5, -0.3, 1.0, 0.8), place_names(base)
    wanted = {
        place: expected_output(
            base,
            place,
            {artifact.layers[names[place]]: scale for artifact, scale in zip(artifacts, scales, strict=True)},
        )
        for place in PLACES
    }
    placed = PlacedArtifacts(base, artifacts, scales)
    try:
        for place in PLACES:
            torch.testing.assert_close(output(base, place), wanted[place], rtol=1e-4, atol=1e-5)
        assert placed.triggers == {"TOK": ["<s0>", "<s1>"], "HAT": ["<s2>", "<s3>"], "TOK2": ["<s4>", "<s5>"],
                                   "X": ["<s6>", "<s7>"]}  # fmt: skip
        assert placed.notes == ["two LoRAs have the trigger word TOK: write TOK2 for that of LoRA 3"]
        row = base.text_encoders[0].get_input_embeddings().weight[base.tokenizers[0].convert_tokens_to_ids("<s4>")]
        assert torch.equal(row, artifacts[2].tokens["clip_l"][0])
    finally:
        placed.remove()


def test_ten_swaps_leave_the_base_bit_by_bit(base: ModelFamily) -> None:
    request = SampleRequest("a red star", num_inference_steps=2)
    sampler, before = Sampler(base), state(base)
    image = sampler.generate(request)[0].tobytes()
    kinds = ("lora", "dora", "loha", "lokr", "lora")
    for swap in range(10):
        sampler.load_several([(make(base, kinds[swap % 5], swap), 1.0), (make(base, kinds[(swap + 1) % 5], swap), 0.5)])
    assert sampler.generate(request)[0].tobytes() != image
    sampler.unload()
    after = state(base)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert sampler.generate(request)[0].tobytes() == image


def test_a_failed_load_leaves_what_was_loaded(base: ModelFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    request = SampleRequest("a photo of TOK", num_inference_steps=1)
    sampler, good = Sampler(base), make(base, "lora")
    sampler.load(good, 0.9)
    image = sampler.generate(request)[0].tobytes()
    layer = next(iter(good.layers.values()))
    name = place_names(base)[LINEAR]
    bad = {
        "do not exist in this base": replace(good, layers={"lora_unet_nowhere": layer}),
        "two layers for": replace(good, layers={name: layer, f"unet.{LINEAR.path}": layer}),
        "do not match this base": replace(good, tokens={key: torch.zeros(2, 5) for key in good.tokens}),
        "does not match the base model's bias": replace(
            good, layers={name: FullLayer(torch.zeros_like(module_at_weight(base, LINEAR)), torch.zeros(3))}
        ),
    }
    for message, artifact in bad.items():
        with pytest.raises(ArtifactError, match=message):
            sampler.load_several([(good, 1.0), (artifact, 1.0)])
        assert sampler.generate(request)[0].tobytes() == image
    with monkeypatch.context() as patch:  # an error in the middle, such as out of memory
        calls = []
        apply = WeightChanges.apply

        def fail_once(self: WeightChanges, scales: list[float]) -> None:
            calls.append(scales)
            if len(calls) == 1:
                raise MemoryError
            apply(self, scales)

        patch.setattr(WeightChanges, "apply", fail_once)
        with pytest.raises(MemoryError):
            sampler.load(make(base, "loha"))
    assert sampler.generate(request)[0].tobytes() == image
    sampler.unload()


def module_at_weight(base: ModelFamily, place: Place) -> Tensor:
    module = module_at(base, place)
    return getattr(module, "base_layer", module).weight


def test_small_changes_survive_bf16_in_the_mean() -> None:
    module = torch.nn.Linear(512, 512, bias=False).to(torch.bfloat16)
    weight = module.weight.data.clone()
    change = 0.0005 * weight.float()  # at most an eighth of a step: rounding to nearest would remove all changes
    changes = WeightChanges([("module", module, [(0, FullLayer(change))])])
    changes.apply([1.0])
    moved = module.weight.data.float() - weight.float()
    assert (moved * change).sum() / change.square().sum() == pytest.approx(1.0, abs=0.1)
    first = module.weight.data.clone()
    changes.apply([1.0])
    assert torch.equal(module.weight.data, first)
    changes.undo()
    assert torch.equal(module.weight.data, weight)
