"""Tests of memory plans: bytes that are counted without values are those of a real step, and the first choice that fits
is used."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from families.family import ModelFamily, SizeConditioning
from families.precision.stored_blocks import Storage, place
from families.precision.stored_linear import StoredLinear
from families.registry import load_base_model
from settings.record import ConfigError
from settings.training import build_config
from tests.tiny_models import TINY_MODELS, load_tiny
from trainer.adapters.peft_adapter import PeftAdapter
from trainer.adapters.targets import denoiser_targets
from trainer.execution.peak_memory import PeakMemory, StepCost, weights_on_device
from trainer.memory_plan import Choice, MemoryPlan, Workload, plan, predicted, remedies

IMAGES = 2
SLOW = pytest.mark.slow
CHECKPOINTED = ("sd15", "sdxl", "sd3", "flux1", "flux2", "z-image", "cascade")
"""Families that are tested with gradient checkpointing: what a block keeps and what it computes again depends on the
family. Without it, all activations are counted in the same way."""
CONFIG = build_config({"rank": 4, "lora_targets": "attention+feed-forward"})


def workload(family: ModelFamily) -> Workload:
    return Workload(IMAGES, 2 * family.size_multiple, family.encode_prompts(["a dog"]))


def counted(family: ModelFamily, work: Workload, *, checkpointing: bool) -> int:
    """Bytes at the peak of a real step: frozen and trained weights, activations, gradients."""
    family.denoiser.train()
    if checkpointing:
        family.denoiser.enable_gradient_checkpointing()
    paths = denoiser_targets(family, CONFIG.adapters)
    adapter = PeftAdapter(family.denoiser, "lora", 4, 4.0, paths, torch.Generator().manual_seed(0))
    cached = family.encode_image(torch.zeros(IMAGES, 3, work.side, work.side))
    noised = torch.zeros(family.latent_shape(cached.shape))
    timesteps = family.noise_process.timesteps_at(torch.full((IMAGES,), 0.5), noised.shape)
    sizes = [SizeConditioning((work.side, work.side), (0, 0), (work.side, work.side))] * IMAGES
    memory = PeakMemory()
    for parameter in family.denoiser.parameters():
        memory.watch(parameter)
    with memory:
        family.denoise(noised, timesteps, work.features.repeated(IMAGES), sizes).pow(2).mean().backward()
    assert all(parameter.grad is not None for parameter in adapter.parameters)
    return memory.peak


@pytest.mark.parametrize(
    ("kind", "checkpointing"),
    [
        ("flux1", False),
        pytest.param("sdxl", False, marks=SLOW),
        *(pytest.param(kind, True, marks=SLOW) for kind in CHECKPOINTED),
    ],
)
def test_a_real_step_takes_what_was_predicted(kind: str, checkpointing: bool, tmp_path: Path) -> None:
    family = load_base_model(str(TINY_MODELS[kind](tmp_path)), torch.float32)
    work = workload(family)
    found = predicted(family, CONFIG.adapters, work, Choice(IMAGES, checkpointing))
    assert next(iter(family.denoiser.parameters())).is_meta == (
        kind in ("flux1", "flux2", "z-image", "cascade")
    )  # the prediction has loaded nothing
    real = counted(family.to(torch.device("cpu")), work, checkpointing=checkpointing)
    moments = found.step.trained // 2
    assert found.step.peak - moments == pytest.approx(real, rel=0.001)


def test_checkpointing_saves_memory_and_images_take_it(tmp_path: Path) -> None:
    family = load_tiny("flux1", tmp_path)
    work = workload(family)
    plain, checkpointed = (predicted(family, CONFIG.adapters, work, Choice(IMAGES, on)) for on in (False, True))
    one = predicted(family, CONFIG.adapters, work, Choice(1, False))
    assert checkpointed.peak < plain.peak and one.peak < plain.peak
    assert plain.step.weights == checkpointed.step.weights == sum(p.nbytes for p in family.denoiser.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    "storage",
    [
        Storage("int8"),
        Storage("nf4"),
        Storage("bf16", offloaded=True),
    ],
    ids=str,
)
def test_a_base_in_fewer_bits_takes_what_was_predicted(storage: Storage, tmp_path: Path) -> None:
    family = load_base_model(str(TINY_MODELS["flux1"](tmp_path)), torch.bfloat16)
    work = workload(family)
    plain, found = (
        predicted(family, CONFIG.adapters, work, Choice(IMAGES, True, each)) for each in (Storage(), storage)
    )
    assert found.step.weights < 0.7 * plain.step.weights
    assert weights_on_device(family.denoiser, storage) == found.step.weights
    place(family, storage, torch.device("cpu"))
    again = predicted(family, CONFIG.adapters, work, Choice(IMAGES, True, storage))  # as after class images
    assert again == found
    elsewhere = 0
    if storage.offloaded:
        layers = [module for module in family.denoiser.modules() if isinstance(module, StoredLinear)]
        elsewhere = sum(stored.nbytes for layer in layers for stored in layer.stored)
    real = counted(family, work, checkpointing=True) - elsewhere
    assert found.step.peak - found.step.trained // 2 == pytest.approx(real, rel=0.02)


FAMILY = cast(ModelFamily, SimpleNamespace(denoiser=None))


class TestChoice:
    """Tables replace the predictions: bytes of a step by (images, checkpointing), bytes of weights by storage."""

    @pytest.fixture(autouse=True)
    def given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        needs = {(4, False): 700, (4, True): 300, (1, True): 100, (1, False): 200}
        weights = {Storage("bf16"): 200, Storage("int8"): 100, Storage("nf4"): 50}

        self.passes: list[Choice] = []

        def give(_: object, __: object, ___: object, choice: Choice) -> MemoryPlan:
            self.passes.append(choice)
            weight = weights.get(choice.storage, 10)
            step = StepCost(weight, trained=10, peak=weight + needs[choice.images, choice.checkpointing], operations=1)
            return MemoryPlan(step, 0, choice)

        monkeypatch.setattr("trainer.memory_plan.predicted", give)
        monkeypatch.setattr("trainer.memory_plan.weights_on_device", lambda _, storage: weights.get(storage, 10))

    @pytest.mark.parametrize(
        ("settings", "free", "chosen"),
        [
            ({}, 1100, Choice(4, False)),
            ({}, 800, Choice(4, True)),
            ({}, 400, Choice(1, True)),
            ({"gradient_checkpointing": "never"}, 800, Choice(1, False)),
            ({"gradient_checkpointing": "always"}, 1100, Choice(4, True)),
            ({}, 300, Choice(1, True, Storage("int8"))),
            ({}, 200, Choice(1, True, Storage("nf4"))),
            ({}, 150, Choice(1, True, Storage("nf4", offloaded=True))),
            ({"base_precision": "int8"}, 1100, Choice(4, False, Storage("int8"))),
            ({"base_precision": "int8"}, 150, Choice(1, True, Storage("int8", offloaded=True))),
            ({"base_precision": "bf16"}, 300, Choice(1, True, Storage("bf16", offloaded=True))),
            ({"offload": "always"}, 1100, Choice(4, False, Storage("bf16", offloaded=True))),
            ({"adapter": "dora"}, 400, Choice(1, True)),
        ],
    )
    def test_the_first_that_fits(self, settings: dict[str, object], free: int, chosen: Choice) -> None:
        config = build_config(settings)
        found = plan(FAMILY, config.adapters, config.speed, Workload(4, 64, None), free)  # type: ignore[arg-type]
        assert found is not None and found.choice == chosen

    def test_what_cannot_fit_takes_no_pass(self) -> None:
        config = build_config({})
        plan(FAMILY, config.adapters, config.speed, Workload(4, 64, None), 140)  # type: ignore[arg-type]
        tried = [(choice.images, choice.checkpointing, choice.storage.precision) for choice in self.passes]
        assert tried == [(4, False, "int8"), (4, True, "int8"), (1, True, "int8"), (1, True, "nf4")]

    @pytest.mark.parametrize(
        ("settings", "least", "remedies_"),
        [
            ({}, Choice(1, True, Storage("nf4", offloaded=True)), ["a smaller resolution or rank"]),
            (
                {"base_precision": "int8", "offload": "never"},
                Choice(1, True, Storage("int8")),
                ["base_precision: nf4", "offload: auto"],
            ),
            ({"adapter": "dora"}, Choice(1, True), ["adapter: lora"]),
        ],
    )
    def test_the_smallest_and_its_remedies_where_none_fits(
        self, settings: dict[str, object], least: Choice, remedies_: list[str]
    ) -> None:
        config = build_config(settings)
        free = 205 if least.storage.precision == "bf16" else 105
        found = plan(FAMILY, config.adapters, config.speed, Workload(4, 64, None), free)  # type: ignore[arg-type]
        assert found is not None and found.choice == least and not found.fits(free)
        said = remedies(config.adapters, config.speed, found)
        assert all(remedy in said for remedy in remedies_) and said.endswith("or use a larger GPU")

    def test_weights_that_are_larger_than_the_memory_are_an_error(self) -> None:
        config = build_config({"base_precision": "bf16", "offload": "never"})
        with pytest.raises(
            ConfigError,
            match=r"^base_model: its weights take .* are free on the GPU\. Set base_precision: nf4, offload: auto, ",
        ):
            plan(FAMILY, config.adapters, config.speed, Workload(4, 64, None), 100)  # type: ignore[arg-type]

    def test_without_an_adapter_there_is_none(self) -> None:
        config = build_config({"adapter": "none"})
        assert plan(FAMILY, config.adapters, config.speed, Workload(4, 64, None), 1) is None  # type: ignore[arg-type]
