"""Tests of layers of every kind: their change by float64 formulas or another library, round trips, invalid keys."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn

from artifact.artifact import Artifact
from artifact.errors import ArtifactError
from artifact.layers import (
    KEYS,
    DoraLayer,
    FullLayer,
    Layer,
    LohaLayer,
    LokrLayer,
    LoraLayer,
    OftLayer,
    layer_from_tensors,
)
from artifact.names.layer_keys import layers_from_tensors

WEIGHTS = {"linear": (12, 8), "pointwise": (12, 8, 1, 1), "convolution": (12, 8, 3, 3)}


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) * len(shape)))


def lora(shape: tuple[int, ...]) -> LoraLayer:
    out, *inputs = shape
    return LoraLayer(random(3, *inputs), random(out, 3, *(1 for _ in inputs[1:])), 1.5)


def make(kind: str, shape: tuple[int, ...]) -> Layer:
    """Return a random layer for a weight of this shape, with alpha 1.5 and rank 3 if it has any."""
    out, inputs, *kernel = shape
    flat = int(torch.tensor(shape[1:]).prod())
    core = random(3, 3, *(kernel or (1, 1)))
    layers: dict[str, Layer] = {
        "lora": lora(shape),
        "lora-tucker": LoraLayer(random(3, inputs, 1, 1), random(out, 3, 1, 1), 1.5, mid=core),
        "loha": LohaLayer(random(out, 3), random(3, flat), random(out, 3), random(3, flat), 1.5),
        "loha-tucker": LohaLayer(random(3, out), random(3, inputs), random(3, out), random(3, inputs), 1.5, core, core),
        "lokr": LokrLayer(w1=random(4, 2), w2_a=random(3, 3), w2_b=random(3, flat // 2), alpha=1.5),
        "lokr-whole": LokrLayer(w1=random(4, 2), w2=random(3, 4, *kernel), alpha=1.5),
        "lokr-parts": LokrLayer(w1_a=random(4, 3), w1_b=random(3, 2), w2=random(3, 4, *kernel), alpha=1.5),
        "lokr-tucker": LokrLayer(w1=random(4, 2), w2_a=random(3, 3), w2_b=random(3, 4), t2=core, alpha=1.5),
        "dora": DoraLayer(lora(shape), random(out, *(1 for _ in shape[1:])).abs()),
        "dora-inputs": DoraLayer(lora(shape), random(1, inputs, *(1 for _ in kernel)).abs()),
        "full": FullLayer(random(*shape), random(out)),
    }
    return layers[kind]


KINDS = ("lora", "lora-tucker", "loha", "loha-tucker", "lokr", "lokr-whole", "lokr-parts", "lokr-tucker", "dora",
         "dora-inputs", "full")  # fmt: skip


def expected(kind: str, layer: Layer, weight: Tensor) -> Tensor:
    """Return the change by the formulas, in float64."""
    t = {key: value.double() for key, value in layer.tensors().items()}
    scale = 1.5 / 3
    if kind == "lora":
        return scale * torch.einsum("or,ri->oi", t["lora_up.weight"].flatten(1), t["lora_down.weight"].flatten(1))
    if kind == "lora-tucker":
        up, down = t["lora_up.weight"].flatten(1), t["lora_down.weight"].flatten(1)
        return scale * torch.einsum("mnhw,om,ni->oihw", t["lora_mid.weight"], up, down)
    if kind == "loha":
        return scale * (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"])
    if kind == "loha-tucker":
        first = torch.einsum("mnhw,mo,ni->oihw", t["hada_t1"], t["hada_w1_a"], t["hada_w1_b"])
        return scale * first * torch.einsum("mnhw,mo,ni->oihw", t["hada_t2"], t["hada_w2_a"], t["hada_w2_b"])
    if kind == "full":
        return t["diff"]
    if kind.startswith("dora"):
        moved = weight.double() + expected("lora", layer, weight).reshape(weight.shape)
        axis = 1 if kind == "dora-inputs" else 0
        norms = moved.square().sum([other for other in range(weight.ndim) if other != axis], keepdim=True).sqrt()
        return t["dora_scale"] * moved / norms - weight.double()
    w1 = t["lokr_w1"] if "lokr_w1" in t else t["lokr_w1_a"] @ t["lokr_w1_b"]
    if "lokr_t2" in t:
        w2 = torch.einsum("mnhw,mo,ni->oihw", t["lokr_t2"], t["lokr_w2_a"], t["lokr_w2_b"])
    else:
        w2 = t["lokr_w2"] if "lokr_w2" in t else t["lokr_w2_a"] @ t["lokr_w2_b"]
    scale = 1.0 if kind == "lokr-whole" else scale
    blocks = [[w1[row, column] * w2 for column in range(w1.shape[1])] for row in range(w1.shape[0])]
    return scale * torch.cat([torch.cat(row, dim=1) for row in blocks], dim=0)


@pytest.mark.parametrize("shape", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_change_is_what_the_formula_says_and_survives_a_round_trip(kind: str, shape: tuple[int, ...]) -> None:
    if "tucker" in kind and len(shape) == 2:
        pytest.skip("a Tucker core belongs to convolutions")
    layer, weight = make(kind, shape), random(*shape)
    delta = layer.delta(weight)
    assert layer.fits(weight.shape) and delta.shape == weight.shape and delta.dtype == torch.float32
    torch.testing.assert_close(delta.double(), expected(kind, layer, weight).reshape(shape), rtol=1e-4, atol=1e-5)
    assert not layer.changes_nothing
    assert not layer.fits(torch.Size((13, *shape[1:]))) and not layer.fits(torch.Size((shape[0], 9, *shape[2:])))
    assert set(layer.tensors()) <= set(KEYS)
    back = layer_from_tensors(layer.tensors())
    assert type(back) is type(layer) and (back.rank, back.alpha) == (layer.rank, layer.alpha)
    assert torch.equal(back.delta(weight), delta)


def test_dora_by_its_own_norm_changes_nothing() -> None:
    weight = random(12, 8)
    layer = DoraLayer(LoraLayer(random(3, 8), torch.zeros(12, 3), 3.0), weight.norm(dim=1, keepdim=True))
    torch.testing.assert_close(layer.delta(weight), torch.zeros_like(weight), atol=1e-6, rtol=0)
    assert layer.changes_nothing


@pytest.mark.parametrize("shape", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=3, lora_alpha=6, target_modules=["layer"], init_lora_weights=False),
        LoHaConfig(r=3, alpha=6, target_modules=["layer"], init_weights=False),
        LoHaConfig(r=3, alpha=6, target_modules=["layer"], init_weights=False, use_effective_conv2d=True),
        LoKrConfig(r=1, alpha=2, target_modules=["layer"], init_weights=False, use_effective_conv2d=True),
        LoKrConfig(r=1, alpha=2, target_modules=["layer"], init_weights=False, decompose_both=True),
    ],
    ids=["lora", "loha", "loha-tucker", "lokr-tucker", "lokr-parts"],
)
def test_pefts_tensors_mean_what_peft_computes(config: object, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    out, inputs, *kernel = shape
    model = nn.ModuleDict({"layer": nn.Conv2d(inputs, out, kernel[0]) if kernel else nn.Linear(inputs, out)})
    inject_adapter_in_model(config, model, adapter_name="default")
    wrapped: Any = model["layer"]
    tensors = {
        name.removesuffix(".default").replace(".default.", "."): parameter.detach()
        for name, parameter in wrapped.named_parameters()
        if "default" in name
    }
    tensors["alpha"] = torch.tensor(float(wrapped.scaling["default"] * wrapped.r["default"]))
    (layer,) = layers_from_tensors({f"layer.{key}": value for key, value in tensors.items()}, "x").values()
    torch.testing.assert_close(layer.delta(wrapped.base_layer.weight), wrapped.get_delta_weight("default").detach())


@pytest.mark.parametrize("side", [2, 4, 8])
def test_rotations_are_what_peft_computes(side: int) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"layer": nn.Linear(8, 12)})
    config = OFTConfig(r=0, oft_block_size=side, target_modules=["layer"], init_weights=False)
    inject_adapter_in_model(config, model, adapter_name="default")
    wrapped: Any = model["layer"]
    layer = OftLayer(wrapped.oft_R["default"].weight.detach())
    weight, inputs = wrapped.base_layer.weight, random(5, 8)
    expected = wrapped(inputs) - wrapped.base_layer(inputs)
    torch.testing.assert_close(inputs @ layer.delta(weight).T, expected, rtol=1e-4, atol=1e-5)
    assert layer.fits(weight.shape) and not layer.fits(torch.Size((12, 9))) and not layer.changes_nothing
    back = layer_from_tensors(layer.tensors())
    assert isinstance(back, OftLayer) and back.side == side and torch.equal(back.delta(weight), layer.delta(weight))


def test_small_rotations_keep_lengths() -> None:
    layer = OftLayer(0.05 * random(2, 6))
    rotations = layer.rotations(torch.device("cpu"))
    identity = torch.eye(4).expand(2, 4, 4)
    torch.testing.assert_close(rotations @ rotations.transpose(1, 2), identity, atol=1e-3, rtol=0)
    assert OftLayer(torch.zeros(2, 6)).changes_nothing


@pytest.mark.parametrize("kernel", [(), (3, 3)], ids=["linear", "convolution"])
def test_pefts_magnitude_lies_along_the_outputs(kernel: tuple[int, ...]) -> None:
    magnitude = random(8).abs().reshape(8) if not kernel else random(1, 8, 1, 1).abs()
    layers = layers_from_tensors(
        {
            "unet.a.lora_A.weight": random(3, 8, *kernel),
            "unet.a.lora_B.weight": random(8, 3, *(1 for _ in kernel)),
            "unet.a.lora_magnitude_vector": magnitude,
        },
        "peft.safetensors",
    )
    layer = layers["unet.a"]
    assert isinstance(layer, DoraLayer) and layer.axis == 0  # for a square weight, the shape (8,) is ambiguous
    assert layer.dora_scale.shape == (8, 1, *(1 for _ in kernel))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"lora_up.weight": random(3, 2)}, "a lacks lora_down.weight"),
        ({"alpha": torch.tensor(1.0)}, "a has alpha, which is not a complete layer"),
        ({"hada_w1_a": random(4, 2), "hada_w1_b": random(2, 4), "hada_w2_a": random(4, 2)}, "a lacks hada_w2_b"),
        ({"lokr_w1": random(2, 2)}, "a lacks lokr_w2"),
        ({"lokr_w1": random(2, 2), "lokr_w2_a": random(2, 2)}, "a lacks lokr_w2_b"),
        ({"lokr_w1": random(2, 2), "lokr_w1_a": random(2, 2), "lokr_w2": random(2, 2)}, "both lokr_w1 and its factors"),
        ({"diff_b": random(4)}, "a lacks diff"),
        ({"dora_scale": random(4, 1)}, "a has a dora_scale, but no layer that it scales"),
        ({"lora_down.weight": random(2, 4), "lora_up.weight": random(4, 2), "diff": random(4, 4)}, "a has diff "),
        ({"lora_down.weight": random(2, 4), "lora_A.weight": random(2, 4)}, "a has lora_down.weight twice"),
        ({"lora_down.weight": torch.tensor(1.0), "lora_up.weight": random(4, 2)}, "which is not a valid LoRA"),
        ({"lora_down.weight": random(0, 4), "lora_up.weight": random(4, 0)}, "a has rank 0"),
        ({"lora_down.weight": random(2, 4), "lora_up.weight": random(4, 2), "alpha": random(2)}, "alpha of shape"),
        ({"lora_down.weight": random(2, 4), "lora_up.weight": random(4, 2), "alpha": torch.tensor(math.inf)}, "finite"),
        ({"lora_down.weight": torch.ones(2, 4, dtype=torch.int8)}, "a.lora_down.weight has the type torch.int8"),
        ({"oft_R.weight": random(2, 4)}, "an oft_R.weight of the invalid shape"),
        ({"oft_R.weight": random(2, 3), "diff": random(4, 4)}, "diff together"),
        ({"oft_blocks": random(2, 2)}, "not a plain LoRA: a.oft_blocks"),
    ],
)  # fmt: skip
def test_incomplete_and_foreign_key_sets_are_errors_that_name_the_key(
    tensors: dict[str, Tensor], message: str, tmp_path: Path
) -> None:
    save_file({f"a.{key}": tensor for key, tensor in tensors.items()}, tmp_path / "a.safetensors")
    with pytest.raises(ArtifactError, match=message):
        Artifact.read(tmp_path / "a.safetensors")


SHAPES = st.lists(st.integers(0, 4), max_size=5).map(tuple)
GROUPS = st.dictionaries(st.sampled_from(KEYS), SHAPES, min_size=1, max_size=8)
LIKELY = st.sampled_from(
    [
        ("lora_down.weight", "lora_up.weight"), ("lora_down.weight", "lora_up.weight", "lora_mid.weight"),
        ("lora_down.weight", "lora_up.weight", "dora_scale"), ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
        ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"), ("lokr_w1", "lokr_w2"),
        ("lokr_w1", "lokr_w2_a", "lokr_w2_b", "lokr_t2"), ("diff", "diff_b"),
    ]
).flatmap(lambda keys: st.fixed_dictionaries(dict.fromkeys(keys, SHAPES)))  # fmt: skip


@settings(deadline=None, max_examples=600)
@given(group=GROUPS | LIKELY, shape=SHAPES.filter(lambda shape: shape and min(shape) > 0))
def test_hostile_shapes_are_refused_or_fit(group: dict[str, tuple[int, ...]], shape: tuple[int, ...]) -> None:
    """Any shapes lead to an ArtifactError, a layer that does not fit, or a change with the weight's shape."""
    try:
        (layer,) = layers_from_tensors({f"a.{key}": torch.ones(value) for key, value in group.items()}, "f").values()
    except ArtifactError:
        return
    if layer.fits(torch.Size(shape)):
        assert layer.delta(torch.ones(shape)).shape == shape
    assert layer.changes_nothing in (True, False)


def test_a_hundred_thousand_keys_are_read_in_seconds() -> None:
    tensors = {f"layer{index}.{key}": torch.ones(1, 1) for index in range(50_000) for key in ("lora_A.weight", "odd")}
    with pytest.raises(ArtifactError, match="not a plain LoRA: layer0.odd"):
        layers_from_tensors(tensors, "f")
