"""Tests of modifiers of noise and prompts against their formulas, and of trainings with them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn import functional

from families.family import ModelFamily, PromptFeatures
from families.noise.diffusion_process import DiffusionProcess
from families.noise.edm_process import EDMProcess
from families.noise.flow_matching import FlowMatching
from families.noise.noise_process import Draw, NoiseProcess
from settings.record import ConfigError
from settings.training import build_config
from tests.trainer.test_training import CONFIG, placed
from trainer.noise.composition import training_noise
from trainer.noise.conditioning import NoisyPrompts
from trainer.noise.offset import NoiseOffset
from trainer.noise.perturbation import InputPerturbation
from trainer.noise.pyramid import PyramidNoise
from trainer.noise.timestep_range import TimestepRange
from trainer.noise.wrapped import WrappedProcess
from trainer.objective_rules import require_objective
from trainer.randomness import NamedGenerators

SHAPE = torch.Size((4, 4, 8, 8))

PROCESS = DiffusionProcess(torch.linspace(0.99, 0.01, 1000), "epsilon")
LATENTS = torch.randn(64, 4, 16, 16, generator=torch.Generator().manual_seed(5))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(process: NoiseProcess, latents: Tensor = LATENTS) -> Draw:
    return process.draw(latents, seeded(1), seeded(2))


@pytest.mark.parametrize("process", [PROCESS, FlowMatching(3.0)])
def test_a_wrapped_process_is_the_process(process: DiffusionProcess | FlowMatching) -> None:
    wrapped = WrappedProcess(process)
    draw, timesteps = drawn(process), drawn(process).timesteps
    assert torch.equal(drawn(wrapped).noise, draw.noise) and torch.equal(drawn(wrapped).timesteps, timesteps)
    assert torch.equal(wrapped.corrupt(LATENTS, draw), process.corrupt(LATENTS, draw))
    assert torch.equal(wrapped.target(LATENTS, draw), process.target(LATENTS, draw))
    assert torch.equal(wrapped.to_x0(LATENTS, draw.noise, timesteps), process.to_x0(LATENTS, draw.noise, timesteps))
    assert torch.equal(wrapped.snr(timesteps), process.snr(timesteps))
    assert torch.equal(
        wrapped.timesteps_at(torch.tensor([0.5]), SHAPE), process.timesteps_at(torch.tensor([0.5]), SHAPE)
    )
    for name in ("prediction_type", "num_timesteps", "zero_terminal_snr"):
        assert getattr(wrapped, name) == getattr(process, name)


@pytest.mark.parametrize(("iterations", "discount"), [(1, 0.3), (3, 0.5), (10, 0.9)])
def test_the_pyramid_is_the_formula(iterations: int, discount: float) -> None:
    """The levels end when a side is one latent: for sides of 16 there are at most 4."""
    process, generator = PyramidNoise(PROCESS, iterations, discount), seeded(2)
    total = torch.randn(LATENTS.shape, generator=generator)
    sides = []
    for level in range(1, iterations + 1):
        side = max(1, int(16 / (2 + 2 * torch.rand((), generator=generator).item()) ** level))
        coarse = torch.randn((64, 4, side, side), generator=generator)
        total += discount**level * functional.interpolate(coarse, (16, 16), mode="bilinear")
        sides.append(side)
        if side == 1:
            break
    assert len(sides) <= 4 and (iterations < 10 or sides[-1] == 1)
    moved = drawn(process)
    torch.testing.assert_close(moved.noise, torch.stack([image / image.std() for image in total]))
    assert torch.equal(moved.timesteps, drawn(PROCESS).timesteps)
    assert torch.equal(process.target(LATENTS, moved), moved.noise)


def test_pyramid_noise_has_more_of_what_is_coarse() -> None:
    def coarse(process: NoiseProcess) -> float:
        noise = drawn(process).noise
        return float(functional.avg_pool2d(noise, 8).var() / noise.var())

    processes = (PROCESS, PyramidNoise(PROCESS, 6, 0.3), PyramidNoise(PROCESS, 6, 0.9))
    plain, weak, strong = (coarse(each) for each in processes)
    assert plain == pytest.approx(1 / 64, rel=0.2) and plain < weak < strong


def test_the_offset_is_one_number_for_each_image_and_channel() -> None:
    plain, moved = drawn(PROCESS), drawn(NoiseOffset(PROCESS, 0.5))
    offset = moved.noise - plain.noise
    torch.testing.assert_close(offset, offset[..., :1, :1].expand_as(offset), atol=1e-6, rtol=0)
    assert offset[..., 0, 0].std().item() == pytest.approx(0.5, rel=0.15)
    assert torch.equal(moved.timesteps, plain.timesteps)
    process = NoiseOffset(PROCESS, 0.5)
    assert torch.equal(process.target(LATENTS, moved), moved.noise)  # the model learns to predict it


def test_the_perturbation_is_in_the_input_alone() -> None:
    process, draw = InputPerturbation(PROCESS, 0.3, seeded(3)), drawn(PROCESS)
    difference = process.corrupt(LATENTS, draw) - PROCESS.corrupt(LATENTS, draw)
    scale = 0.3 * (1 - PROCESS.alphas_cumprod[draw.timesteps]).sqrt()
    torch.testing.assert_close(difference.std(dim=(1, 2, 3)), scale, rtol=0.15, atol=0)
    assert torch.equal(process.target(LATENTS, draw), PROCESS.target(LATENTS, draw))


@pytest.mark.parametrize("process", [PROCESS, FlowMatching()])
@pytest.mark.parametrize(("low", "high", "bias"), [(0.2, 0.6, None), (0.5, 1.0, 1.0), (0.0, 0.3, -1.0)])
def test_timesteps_stay_in_their_range(
    process: DiffusionProcess | FlowMatching, low: float, high: float, bias: float | None
) -> None:
    many = torch.zeros(4000, 1, 1, 1)
    timesteps = drawn(TimestepRange(process, low, high, bias), many).timesteps.double() / 1000
    assert low <= timesteps.min() and timesteps.max() <= high
    middle = (0 if bias is None else bias) + torch.randn(100_000, generator=seeded(9), dtype=torch.float64)
    share = 0.5 if bias is None else middle.sigmoid().mean().item()
    assert timesteps.mean().item() == pytest.approx(low + (high - low) * share, abs=0.02)
    assert torch.equal(drawn(TimestepRange(process, low, high, bias)).noise, drawn(process).noise)


@pytest.mark.parametrize("low", [0.067, 0.081, 0.6])
def test_rounding_never_reaches_the_upper_limit(low: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """For these limits the sum rounds to 1, and there is no timestep T."""
    largest = torch.tensor([1 - 2**-24])
    monkeypatch.setattr(torch, "rand", lambda *_, **__: largest)
    (timestep,) = drawn(TimestepRange(PROCESS, low, 1.0), torch.zeros(1, 1, 1, 1)).timesteps
    assert timestep == PROCESS.num_timesteps - 1


SHIFT = 3.0


@pytest.mark.parametrize(
    ("settings", "middle"),
    [
        ({"timestep_sampling": "uniform"}, lambda normal: Normal(0.0, 1.0).cdf(normal)),
        ({"timestep_sampling": "logit_normal"}, torch.sigmoid),
        ({"timestep_sampling": "sigmoid", "timestep_bias": 1.0}, lambda normal: torch.sigmoid(normal + 1)),
        ({"timestep_sampling": "shift"}, lambda normal: shifted(torch.sigmoid(normal))),
        ({"timestep_sampling": "shift", "timestep_bias": -1.0}, lambda normal: shifted(torch.sigmoid(normal - 1))),
        ({"timestep_bias": 1.0}, lambda normal: shifted(torch.sigmoid(normal + 1))),
        ({"min_timestep": 0.2}, lambda normal: shifted(0.2 + 0.8 * torch.sigmoid(normal))),
    ],
)
def test_the_distributions_have_the_quantiles_of_their_names(
    settings: dict[str, object], middle: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    family = SimpleNamespace(noise_process=FlowMatching(SHIFT))
    process = training_noise(build_config(settings).noise, cast(ModelFamily, family), NamedGenerators(0))
    sigmas = drawn(process, torch.zeros(20_000, 1, 1, 1)).timesteps / 1000
    places = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    torch.testing.assert_close(sigmas.quantile(places), middle(Normal(0.0, 1.0).icdf(places)), rtol=0, atol=0.012)


@pytest.mark.parametrize("process", [EDMProcess(), EDMProcess(rho=None)])
def test_a_range_of_edm_has_the_quantiles_of_its_own_distribution(process: EDMProcess) -> None:
    family, many = SimpleNamespace(noise_process=process), torch.zeros(20_000, 1, 1, 1)
    ranged = training_noise(build_config({"min_timestep": 0.2, "max_timestep": 0.9}).noise, cast(ModelFamily, family),
                            NamedGenerators(0))  # fmt: skip
    steps = torch.linspace(0, 1, 100_001)
    schedule = process.timesteps_at(steps, many.shape)
    places = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    own = steps[torch.searchsorted(schedule, drawn(process, many).timesteps.quantile(places))]
    found = steps[torch.searchsorted(schedule, drawn(ranged, many).timesteps.quantile(places))]
    torch.testing.assert_close(found, 0.2 + 0.7 * own, rtol=0, atol=0.012)


def shifted(u: torch.Tensor) -> torch.Tensor:
    return SHIFT * u / (1 + (SHIFT - 1) * u)


def test_a_shift_needs_flow_matching(base: ModelFamily) -> None:
    config = build_config({"timestep_sampling": "shift"})
    with pytest.raises(
        ConfigError, match="^timestep_sampling: shift only supports flow matching, but mini-sdxl has no shift"
    ):
        require_objective(config.objective, config.noise, "mini-sdxl", base)
    with pytest.raises(ConfigError, match="timestep_bias has no effect with timestep_sampling: uniform"):
        build_config({"timestep_sampling": "uniform", "timestep_bias": 0.5})


def features(prompts: Sequence[str]) -> PromptFeatures:
    embeds = torch.randn(len(prompts), 77, 160, generator=seeded(4)) * torch.tensor([0.0, *[3.0] * 199])[:, None, None]
    return PromptFeatures(embeds, torch.ones(len(prompts), 8))


def test_half_of_the_prompts_get_noise_of_their_own_deviation() -> None:
    plain = features([""] * 200)
    noisy = NoisyPrompts(features, 0.1, seeded(6))([""] * 200)
    difference = (noisy.prompt_embeds - plain.prompt_embeds).std(dim=(1, 2))
    assert difference[0] == 0  # zeros have no deviation: the empty prompt is unchanged
    changed = difference[difference > 0]
    assert len(changed) / 199 == pytest.approx(0.5, abs=0.12)
    torch.testing.assert_close(changed, torch.full_like(changed, 0.3), rtol=0.05, atol=0)
    assert torch.equal(noisy.pooled_prompt_embeds, plain.pooled_prompt_embeds)  # type: ignore[arg-type]


def losses_with(settings: dict[str, float], base: ModelFamily, folder: Path) -> list[float]:
    """Returns the losses of two steps."""
    for training in placed(base, CONFIG.model_copy(update={**settings, "max_train_steps": 2}), folder):
        losses = [step.loss for step in training.trainer.steps()]
        assert type(training.family.noise_process) is DiffusionProcess  # validation and samples use the base's
    return losses


@pytest.fixture(scope="module")
def plain_losses(_loaded_base: ModelFamily, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses_with({}, _loaded_base, tmp_path_factory.mktemp("plain"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"noise_offset": 0.1}, {"multires_noise_iterations": 4}, {"input_perturbation": 0.1}, {"conditioning_noise": 0.1},
     {"max_timestep": 0.5}, {"timestep_bias": 1.0}],
)  # fmt: skip
def test_a_training_with_it_is_another_and_the_same_again(
    settings: dict[str, float], plain_losses: list[float], base: ModelFamily, tmp_path: Path
) -> None:
    first, again = (losses_with(settings, base, tmp_path / name) for name in ("first", "again"))
    assert plain_losses != first == again
