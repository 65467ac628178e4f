"""Memory plans: what is counted without values is what a real step takes, and the first choice that fits is taken."""

from pathlib import Path

import pytest
import torch

from families.family import ModelFamily, SizeConditioning
from families.registry import load_base_model
from settings.record import ConfigError
from settings.training import build_config
from tests.tiny_models import TINY_MODELS, load_tiny
from trainer.adapters.peft_adapter import PeftAdapter
from trainer.adapters.targets import denoiser_targets
from trainer.execution.peak_memory import PeakMemory, StepMemory
from trainer.memory_plan import MemoryPlan, Workload, plan, predicted

IMAGES = 2
SLOW = pytest.mark.slow
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


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "kind", ["flux1", *(pytest.param(kind, marks=SLOW) for kind in ("sd15", "sdxl", "sd3", "flux2", "z-image"))]
)
def test_a_real_step_takes_what_was_predicted(kind: str, checkpointing: bool, tmp_path: Path) -> None:
    family = load_base_model(str(TINY_MODELS[kind](tmp_path)), torch.float32)
    work = workload(family)
    found = predicted(family, CONFIG.adapters, work, checkpointing=checkpointing)
    assert next(iter(family.denoiser.parameters())).is_meta == (
        kind in ("flux1", "flux2", "z-image")
    )  # nothing was loaded for it
    real = counted(family.to(torch.device("cpu")), work, checkpointing=checkpointing)
    moments = found.step.trained // 2
    assert found.step.peak - moments == pytest.approx(real, rel=0.001)


@pytest.mark.slow
def test_checkpointing_saves_memory_and_images_take_it(tmp_path: Path) -> None:
    family = load_tiny("sdxl", tmp_path)
    work = workload(family)
    plain, checkpointed = (predicted(family, CONFIG.adapters, work, checkpointing=on) for on in (False, True))
    one = predicted(family, CONFIG.adapters, Workload(1, work.side, work.features), checkpointing=False)
    assert checkpointed.peak < plain.peak and one.peak < plain.peak
    assert plain.step.weights == checkpointed.step.weights == sum(p.nbytes for p in family.denoiser.parameters())


class TestChoice:
    """Predictions are given here: (images, checkpointing) → bytes."""

    @pytest.fixture(autouse=True)
    def given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        needs = {(4, False): 900, (4, True): 500, (1, True): 300, (1, False): 400}

        def give(_: object, __: object, work: Workload, *, checkpointing: bool) -> MemoryPlan:
            step = StepMemory(weights=200, trained=10, peak=needs[work.images, checkpointing])
            return MemoryPlan(step, 0, checkpointing, work.images)

        monkeypatch.setattr("trainer.memory_plan.predicted", give)

    @pytest.mark.parametrize(
        ("setting", "free", "chosen"),
        [
            ("auto", 1100, (4, False)),
            ("auto", 800, (4, True)),
            ("auto", 400, (1, True)),
            ("never", 800, (1, False)),
            ("always", 1100, (4, True)),
        ],
    )
    def test_the_first_that_fits(self, setting: str, free: int, chosen: tuple[int, bool]) -> None:
        config = build_config({"gradient_checkpointing": setting})
        found = plan(None, config.adapters, config.speed, Workload(4, 64, None), free)  # type: ignore[arg-type]
        assert found is not None and (found.images, found.checkpointing) == chosen

    def test_the_smallest_where_none_fits(self) -> None:
        config = build_config({})
        found = plan(None, config.adapters, config.speed, Workload(4, 64, None), 250)  # type: ignore[arg-type]
        assert found is not None and (found.images, found.checkpointing) == (1, True) and not found.fits(250)

    def test_weights_that_are_larger_than_the_memory_are_an_error(self) -> None:
        config = build_config({})
        with pytest.raises(
            ConfigError, match=r"^base_model: its weights take .* are free on the GPU\. Train on a smaller"
        ):
            plan(None, config.adapters, config.speed, Workload(4, 64, None), 100)  # type: ignore[arg-type]

    def test_without_an_adapter_there_is_none(self) -> None:
        config = build_config({"adapter": "none"})
        assert plan(None, config.adapters, config.speed, Workload(4, 64, None), 1) is None  # type: ignore[arg-type]
