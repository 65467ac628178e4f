"""Tests of EDM's noise process (Karras et al. 2022): formulas, diffusers' schedulers, and a base in SDXL's layout."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EDMDPMSolverMultistepScheduler, EDMEulerScheduler

from artifact.artifact import Artifact
from families.errors import BaseModelError
from families.family import ModelFamily
from families.noise.edm_process import EDMProcess
from families.noise.noise_process import Draw
from families.registry import load_base_model
from job.output_folder import OutputFolder
from job.run import run
from sampler.sampler import RequestError, Sampler, SampleRequest
from settings.record import ConfigError
from settings.training import build_config
from tests.conftest import EXAMPLE
from tests.families.golden_curves import cached_examples, curve_config, curve_training, resumed, undisturbed
from tests.families.noise.test_processes import SHAPE, seeded
from tests.tiny_models import opened, write_sdxl
from trainer.losses.weighting import of_epsilon
from trainer.resolution import resolve
from trainer.validation.held_out_loss import HeldOutLoss

MEAN, DEVIATION = [-1.6, 0.4, 0.1, -2.0], [8.4, 6.1, 5.6, 7.2]
"""Statistics of the latents of Playground 2.5's VAE."""
KINDS: dict[str, dict[str, Any]] = {
    "playground": {},
    "cosxl": {
        "prediction_type": "v_prediction",
        "sigma_schedule": "exponential",
        "sigma_data": 1.0,
        "sigma_max": 120.0,
    },
}
each_kind = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS.keys())


def write_edm(folder: Path, scheduler: str = "EDMEulerScheduler") -> Path:
    """Write the tiny SDXL with a scheduler of EDM, and the statistics of Playground 2.5's latents."""
    write_sdxl(folder)
    noise = {"EDMEulerScheduler": EDMEulerScheduler, "EDMDPMSolverMultistepScheduler": EDMDPMSolverMultistepScheduler}
    noise[scheduler]().save_pretrained(folder / "scheduler")
    _change(folder / "model_index.json", scheduler=["diffusers", scheduler])
    _change(folder / "vae" / "config.json", latents_mean=MEAN, latents_std=DEVIATION)
    return folder


def _change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_edm(tmp_path_factory.mktemp("edm"))


@pytest.fixture
def edm(folder: Path) -> ModelFamily:
    return opened(folder)


@each_kind
def test_it_is_karras_formulas(options: dict[str, Any]) -> None:
    """For any output F, λ·|D(F) - x_0|² is |F - F*|², with table 1 written out. So F* itself yields x_0 and n."""
    process = EDMProcess.from_scheduler(EDMEulerScheduler(**options))
    data, sign = process.sigma_data, -1 if options.get("prediction_type") == "v_prediction" else 1
    x0, noise, found = (torch.randn(3, 2, 4, 4, generator=seeded(each), dtype=torch.float64) for each in (0, 1, 2))
    for sigma in (0.01, 0.5, 3.0, 60.0):
        timesteps = torch.full((3,), math.log(sigma) / 4, dtype=torch.float64)
        draw = Draw(timesteps, noise)
        x = x0 + sigma * noise
        skip, out = data**2 / (sigma**2 + data**2), sign * sigma * data / math.sqrt(sigma**2 + data**2)
        torch.testing.assert_close(process.corrupt(x0, draw), x / math.sqrt(sigma**2 + data**2))
        noised, target = process.corrupt(x0, draw), process.target(x0, draw)
        torch.testing.assert_close(target, (x0 - skip * x) / out)
        denoised = skip * x + out * found
        torch.testing.assert_close(process.to_x0(noised, found, timesteps), denoised)
        torch.testing.assert_close(process.to_noise(noised, found, timesteps), (x - denoised) / sigma)
        weight = (sigma**2 + data**2) / (sigma * data) ** 2
        torch.testing.assert_close(weight * (denoised - x0).square(), (found - target).square())
        assert process.snr(timesteps).tolist() == pytest.approx([data**2 / sigma**2] * 3)
        of_noise = ((x - denoised) / sigma - noise).square()  # the squared error of ε for the output F
        share = of_epsilon(process, timesteps).view(-1, 1, 1, 1)
        torch.testing.assert_close(share * (found - target).square(), of_noise)


def test_sigmas_are_drawn_as_in_table_1() -> None:
    process = EDMProcess()
    draws = [process.draw(torch.zeros(20_000, 1, 1, 1), seeded(seed), seeded(9)) for seed in (1, 1, 2)]
    logarithms = 4 * draws[0].timesteps
    assert abs(logarithms.mean() + 1.2) < 0.03 and abs(logarithms.std() - 1.2) < 0.03
    assert logarithms.min() >= math.log(0.002) - 1e-5 and logarithms.max() <= math.log(80) + 1e-5
    assert torch.equal(draws[0].timesteps, draws[1].timesteps) and not torch.equal(
        draws[0].timesteps, draws[2].timesteps
    )
    assert draws[0].timesteps.dtype == torch.float32 and torch.equal(draws[0].noise, draws[2].noise)


@each_kind
@pytest.mark.parametrize("scheduler_class", [EDMEulerScheduler, EDMDPMSolverMultistepScheduler])
def test_it_is_what_diffusers_schedulers_sample(scheduler_class: type, options: dict[str, Any]) -> None:
    """Timesteps and the denoiser's inputs are equal. With the true prediction, one step leads to the latents."""
    scheduler: Any = scheduler_class(**options)
    process = EDMProcess.from_scheduler(scheduler)
    scheduler.set_timesteps(9)
    fractions = torch.linspace(1, 0, 9)
    torch.testing.assert_close(process.timesteps_at(fractions, SHAPE), scheduler.timesteps, atol=1e-5, rtol=0)
    assert process.timestep_ends == pytest.approx((float(scheduler.timesteps[-1]), float(scheduler.timesteps[0])))
    x0, noise = torch.randn(2, 4, 8, 8, generator=seeded(0)), torch.randn(2, 4, 8, 8, generator=seeded(1))
    scheduler.set_timesteps(1)
    timestep = scheduler.timesteps[0]
    draw = Draw(timestep.expand(2), noise)
    x = x0 + scheduler.sigmas[0] * noise
    torch.testing.assert_close(scheduler.scale_model_input(x, timestep), process.corrupt(x0, draw))
    stepped = scheduler.step(process.target(x0, draw), timestep, x).prev_sample
    torch.testing.assert_close(stepped, x0, atol=2e-4, rtol=0)


def test_other_schedulers_are_refused() -> None:
    with pytest.raises(ValueError, match="DDIMScheduler is not a scheduler of EDM"):
        EDMProcess.from_scheduler(DDIMScheduler())


@pytest.mark.parametrize("scheduler", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_a_base_is_recognised_and_sampled_by_its_own_scheduler(scheduler: str, tmp_path: Path) -> None:
    family = opened(write_edm(tmp_path, scheduler))
    assert isinstance(family.noise_process, EDMProcess) and family.noise_process.prediction_type == "edm"
    assert type(family.pipeline().scheduler).__name__ == scheduler
    assert family.timestep_ends == family.noise_process.timestep_ends
    (picture,) = Sampler(family).generate(SampleRequest("a star", width=64, height=64, num_inference_steps=3))
    assert picture.size == (64, 64) and len(set(picture.convert("L").tobytes())) > 1
    with pytest.raises(RequestError, match="'euler' is not supported by this base model; choose one of base"):
        Sampler(family).check(SampleRequest("a star", scheduler="euler"))


def test_latents_are_normalised_by_channel_as_diffusers_does(edm: ModelFamily) -> None:
    moments = edm.encode_image(torch.rand(1, 3, 64, 64, generator=seeded(0)) * 2 - 1)
    mean, deviation = (torch.tensor(each).view(1, 4, 1, 1) for each in (MEAN, DEVIATION))
    expected = (moments[:, :4] - mean) / deviation * edm.vae.config.scaling_factor
    latents = edm.latents(moments, torch.zeros(1, 4, 16, 16))
    torch.testing.assert_close(latents, expected)
    pixels = edm.vae.decode(moments[:, :4]).sample
    torch.testing.assert_close(edm.decode(latents), pixels, atol=1e-4, rtol=1e-4)


def test_what_has_no_meaning_for_it_is_refused(folder: Path, edm: ModelFamily) -> None:
    with pytest.raises(BaseModelError, match=r"zero_terminal_snr: the noise schedule of this base model is EDM's"):
        load_base_model(str(folder), torch.float32, zero_terminal_snr=True)
    assert resolve(build_config({"base_model": str(folder)}), edm).loss_weighting == "uniform"
    asked = curve_config(str(folder), loss_weighting="debiased")
    with pytest.raises(ConfigError, match="debiased only supports ε-prediction, but the noise schedule of .* is EDM's"):
        resolve(asked, edm)


@pytest.mark.slow
def test_it_learns(folder: Path, edm: ModelFamily) -> None:
    """The loss on training images at fixed noise falls below 0.9 of the base's."""
    config = curve_config(str(folder), max_train_steps=25, rank=16, alpha=16, learning_rate=1e-2)
    with curve_training(edm, config) as training:
        score = HeldOutLoss(edm, cached_examples(4), training.triggers, 0.1, training.trainer.accelerator)
        assert score()["score"] == 1
        list(training.trainer.steps())
        assert score()["score"] < 0.9


def test_it_resumes_bit_for_bit(folder: Path, edm: ModelFamily, tmp_path: Path) -> None:
    config = curve_config(str(folder), max_train_steps=3)
    whole = undisturbed(edm, config, tmp_path)
    with resumed(edm, config, whole) as training:
        assert [step.losses for step in training.trainer.steps()] == whole.losses
        assert all(torch.equal(*pair) for pair in zip(training.tokens.rows(), whole.rows, strict=True))


def test_a_training_end_to_end(folder: Path, edm: ModelFamily, tmp_path: Path) -> None:
    config = build_config({
        "base_model": str(folder), "max_train_steps": 3, "train_batch_size": 2, "rank": 4, "num_validation_images": 1,
        "num_inference_steps": 2, "resolution": 64, "class_word": "figure",
    })  # fmt: skip
    output = OutputFolder.create(tmp_path / "out")
    events = [event.message for event in run(config, [EXAMPLE], output)]
    assert any(message.startswith("verified") for message in events) and (output.samples / "00.png").is_file()
    description = Artifact.read(output.weights).description
    assert description is not None and description.prediction_type == "edm"
