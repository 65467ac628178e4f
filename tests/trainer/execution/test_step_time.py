"""Tests of the estimate of a step's time: operations are those of the formulas, and a device's rate is known or
measured."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from families.family import ModelFamily, SizeConditioning
from families.precision.stored_blocks import Storage
from settings.training import build_config
from tests.tiny_models import load_tiny
from trainer.adapters.peft_adapter import PeftAdapter
from trainer.adapters.targets import denoiser_targets
from trainer.execution.operations import OperationCount
from trainer.execution.throughput import PEAK_OPERATIONS, Throughput, known_card, throughput
from trainer.memory_plan import Choice, MemoryPlan, Workload, predicted

RANK = 4
CONFIG = build_config({"rank": RANK})
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> ModelFamily:
    return load_tiny("flux1", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def one(family: ModelFamily) -> MemoryPlan:
    return planned(family, 1, 64)


def planned(family: ModelFamily, images: int, side: int, **choice: Any) -> MemoryPlan:
    work = Workload(images, side, family.encode_prompts(["a dog"]))
    return predicted(family, CONFIG.adapters, work, Choice(**{"images": images, "checkpointing": False} | choice))


def test_products_and_the_attention_of_a_cpu_are_counted() -> None:
    """A layer has 2·n·in·out operations, attention 4·H·L²·D; attention's backward pass has five products instead of
    two."""
    layer, values = nn.Linear(8, 16, bias=False), torch.ones(3, 8)
    query = torch.ones(1, 2, 10, 4, requires_grad=True)
    with OperationCount() as counter:
        layer(values)
        functional.scaled_dot_product_attention(query, query, query).sum().backward()
    products = 2 * 3 * 8 * 16
    attention = 4 * 2 * 10 * 10 * 4
    assert counter.total == products + attention + attention * 5 // 2


def test_a_step_of_flux1_has_the_operations_of_its_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every frozen layer counts forward, and backward where its input depends on trained weights. The two factors of a
    LoRA also count for the gradients of their own weights."""
    family, images, side = load_tiny("flux1", tmp_path), 2, 64
    plan = planned(family, images, side)
    paths = denoiser_targets(family, CONFIG.adapters)
    PeftAdapter(family.denoiser, "lora", RANK, float(RANK), paths, torch.Generator().manual_seed(0))
    found: Counter[str] = Counter()

    def layer(module: nn.Module, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        assert isinstance(module, nn.Linear)
        positions = math.prod(inputs[0].shape[:-1])
        back = int(inputs[0].requires_grad)
        found["layers"] += 2 * positions * module.in_features * module.out_features * (1 + back)
        if module in adapted:
            found["down"] += 2 * positions * module.in_features * RANK * (2 + back)
            found["up"] += 2 * positions * RANK * module.out_features * 3

    def attention(query: torch.Tensor, key: torch.Tensor, *values: Any, **options: Any) -> torch.Tensor:
        forward = 4 * math.prod(query.shape) * key.shape[-2]
        found["attention"] += forward + forward * 5 // 2
        return real(query, key, *values, **options)

    adapted = {family.denoiser.get_submodule(path).base_layer for path in paths}
    for name, module in family.denoiser.named_modules():
        if isinstance(module, nn.Linear) and "lora_" not in name:
            module.register_forward_hook(layer)
    prompts = family.encode_prompts(["a dog"]).repeated(images)
    cached = family.encode_image(torch.zeros(images, 3, side, side))
    noised = torch.zeros(family.latent_shape(cached.shape))
    timesteps = family.noise_process.timesteps_at(torch.full((images,), 0.5), noised.shape)
    sizes = [SizeConditioning((side, side), (0, 0), (side, side))] * images
    real = functional.scaled_dot_product_attention
    monkeypatch.setattr(functional, "scaled_dot_product_attention", attention)
    family.denoise(noised, timesteps, prompts, sizes)
    assert found["attention"] > 0 and found["down"] > 0
    assert plan.operations == found.total()


def test_the_estimate_grows_with_images_pixels_and_batches(family: ModelFamily, one: MemoryPlan) -> None:
    rate = throughput(CPU, torch.float32)
    assert math.isfinite(rate.seconds(one.operations)) and rate.seconds(one.operations) > 0
    work = Workload(2, 64, family.encode_prompts(["a dog"]), batches=3)
    image_by_image = predicted(family, CONFIG.adapters, work, Choice(1, False))
    assert rate.seconds(image_by_image.operations) == pytest.approx(6 * rate.seconds(one.operations))
    assert planned(family, 1, 128).operations > one.operations
    assert "an estimate" in rate.said(one.operations)


def test_what_is_computed_again_counts_and_how_weights_are_stored_does_not(
    family: ModelFamily, one: MemoryPlan
) -> None:
    assert planned(family, 1, 64, checkpointing=True).operations > 1.2 * one.operations
    assert planned(family, 1, 64, storage=Storage("int8")).operations == one.operations


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", None),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("Tesla T4", None),
    ],
)
def test_cards_are_known_by_whole_words(name: str, card: str | None) -> None:
    assert known_card(name) == card


def test_a_known_card_is_not_measured_and_other_precisions_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "NVIDIA L4")
    monkeypatch.setattr("trainer.execution.throughput.measured_products", lambda *_: 5e12)
    cuda = torch.device("cuda")
    assert throughput(cuda, torch.bfloat16) == Throughput(PEAK_OPERATIONS["L4"], "the peak of an L4 in bf16")
    assert throughput(cuda, torch.float32).peak == 5e12
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "NVIDIA X1")
    assert throughput(cuda, torch.bfloat16).peak == 5e12
    assert replace(throughput(CPU, torch.float32), peak=1e12).seconds(27 * 10**10) == pytest.approx(1.0)
