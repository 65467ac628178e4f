"""Tests of prior matching on the base model's sampling trajectories."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from families.family import ModelFamily, SizeConditioning
from families.noise.diffusion_process import DiffusionProcess
from families.noise.flow_matching import FlowMatching
from settings.callers import Open
from settings.record import ConfigError
from settings.sections.objective import ObjectiveSection
from settings.training import build_config
from trainer.distributed.batch_share import WHOLE, Share
from trainer.losses.prior.base_trajectories import STEPS, TURNS, BaseTrajectories, TrajectoryMatching
from trainer.losses.prior.defaults import prior_defaults
from trainer.losses.prior.prior_matching import PriorMatching
from trainer.noise.perturbation import InputPerturbation

SHAPE, SIZE = (4, 8, 8), SizeConditioning((32, 32), (0, 0), (32, 32))
PROMPTS = ["a robot", "a red robot", "", "a star", "a square", "a moon"]


class Exact:
    """A family whose base model predicts a single image for each prompt, and an adapter that adds `moved` to its
    predictions."""

    device = torch.device("cpu")

    def __contains__(self, name: str) -> bool:
        return False

    def __init__(self, process: Any, shape: tuple[int, ...] = SHAPE) -> None:
        self.shape = shape
        self.noise_process, self.moved, self.passes = process, 0.0, 0
        self.asked: list[str] = []

    def picture(self, prompt: str) -> Tensor:
        return torch.full(self.shape, len(prompt) / 10)

    def encode_prompts(self, prompts: Sequence[str]) -> list[str]:
        return list(prompts)

    def denoise(
        self, noised: Tensor, timesteps: Tensor, features: list[str], sizes: Sequence[Any], conditioning: None = None
    ) -> Tensor:
        assert len(noised) == len(timesteps) == len(features) == len(sizes)
        self.passes += 1
        self.asked += features
        clean = torch.stack([self.picture(prompt) for prompt in features])
        signal, scale = self._scales(timesteps)
        noise = (noised - signal * clean) / scale
        return (noise if self.noise_process.prediction_type == "epsilon" else noise - clean) + self.moved

    def _scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        ones, zeros = torch.ones(len(timesteps), *self.shape), torch.zeros(len(timesteps), *self.shape)
        return (
            self.noise_process.corrupt(ones, SimpleNamespace(timesteps=timesteps, noise=zeros)),
            self.noise_process.corrupt(zeros, SimpleNamespace(timesteps=timesteps, noise=ones)),
        )

    def off(self) -> "Exact":
        return self

    def __enter__(self) -> None:
        self.kept, self.moved = self.moved, 0.0

    def __exit__(self, *_: object) -> None:
        self.moved = self.kept


def processes() -> list[Any]:
    alphas = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).alphas_cumprod
    return [DiffusionProcess(alphas, "epsilon"), FlowMatching()]


def of(process: Any, interval: int = 1, shape: tuple[int, ...] = SHAPE) -> tuple[TrajectoryMatching, Exact]:
    family = Exact(process, shape)
    trajectories = BaseTrajectories(family, PROMPTS, shape, SIZE, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    near = PriorMatching(family, family, {}, (), torch.Generator().manual_seed(1), 10.0, interval)  # type: ignore[arg-type]
    return TrajectoryMatching(near, trajectories), family


def context(process: Any, step: int = 0, count: int = 4) -> Any:
    return SimpleNamespace(
        noised=torch.zeros(count, *SHAPE),
        noise_process=process,
        step=step,
        captions=["a photo of TOK"] * count,
        draw=SimpleNamespace(timesteps=torch.full((count,), 500)),
        sizes=[SIZE] * count,
        conditioning=None,
    )


@pytest.mark.parametrize("process", processes(), ids=lambda process: type(process).__name__)
def test_trajectories_lead_from_noise_to_what_the_base_draws(process: Any) -> None:
    term, family = of(process)
    term.trajectories.compute(rows=4)
    for index, prompt in enumerate(term.trajectories.prompts):
        first, last = (term.trajectories.at(index, step)[0] for step in (0, STEPS - 1))
        assert first.std() == pytest.approx(1.0, abs=0.15)
        timesteps = term.trajectories.timesteps([STEPS - 1])
        noised, prediction = (each.unsqueeze(0) for each in term.trajectories.at(index, STEPS - 1))
        torch.testing.assert_close(
            process.to_x0(noised, prediction, timesteps)[0], family.picture(prompt), atol=1e-3, rtol=0
        )
        assert (last - family.picture(prompt)).abs().mean() < (first - family.picture(prompt)).abs().mean()


def test_states_are_those_of_ddim() -> None:
    """If the model is exact, DDIM has the same ε at every step."""
    process = processes()[0]
    term, family = of(process)
    term.trajectories.compute(rows=4)
    noise = torch.randn((4, *SHAPE), generator=torch.Generator().manual_seed(0))
    for step in range(STEPS):
        timesteps = term.trajectories.timesteps([step])
        alpha = process.alphas_cumprod[timesteps].view(-1, 1, 1)
        begun = process.alphas_cumprod[term.trajectories.timesteps([0])].view(-1, 1, 1)
        start = (1 - begun).sqrt() * noise[0]  # x_T contains no image
        epsilon = (start - begun.sqrt() * family.picture("a robot")) / (1 - begun).sqrt()
        expected = alpha.sqrt() * family.picture("a robot") + (1 - alpha).sqrt() * epsilon
        torch.testing.assert_close(term.trajectories.at(0, step)[0], expected, atol=1e-3, rtol=0)


def test_the_loss_is_the_distance_from_the_base() -> None:
    process = processes()[0]
    term, family = of(process, interval=2)
    losses = []
    for step in (4, 5, 4 + TURNS * 2, 4 + TURNS * 4):
        family.moved = 0.5 * step
        loss = term(context(process, step))
        losses.append(None if loss is None else loss.item())
    expected = [2 * 10.0 * (0.5 * step) ** 2 for step in (4, 4 + TURNS * 2, 4 + TURNS * 4)]
    assert losses[1] is None
    assert [losses[0], *losses[2:]] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_base_is_asked_once_and_every_prompt_is_held() -> None:
    process = processes()[0]
    term, family = of(process)
    term(context(process, TURNS - 1))
    assert family.passes == 2 * STEPS + 1  # six prompts in batches of four, and the adapter
    family.asked.clear()
    for turn in range(2, 21):
        term(context(process, TURNS * turn - 1))
    assert family.passes == 2 * STEPS + 20
    assert set(family.asked) == set(PROMPTS)


def test_other_turns_hold_captions_and_the_empty_prompt() -> None:
    process = processes()[0]
    term, family = of(process)
    for turn in (0, 1):
        term(context(process, turn))
    assert set(family.asked) == {"a photo of TOK", ""}
    assert not term.trajectories.computed


def states(term: TrajectoryMatching) -> Tensor:
    """(prompts, steps, 2, C, h, w)"""
    found = [[term.trajectories.at(index, step) for step in range(STEPS)] for index in range(len(PROMPTS))]
    return torch.stack([torch.stack(steps) for steps in found])


@pytest.mark.parametrize("shape", [SHAPE, (4, 3, 5)], ids=str)
def test_trajectories_computed_anew_are_the_same(shape: tuple[int, ...]) -> None:
    """A resumed run computes them again, in smaller batches if memory was not sufficient. torch draws random numbers in
    blocks of 16, so two draws whose sizes are not multiples of 16 differ from a single draw."""
    term, _ = of(processes()[0], shape=shape)
    term.trajectories.compute(rows=6)
    first = states(term)
    for rows in (6, 4, 1):
        term.trajectories.compute(rows)
        assert torch.equal(states(term), first)


def test_what_training_adds_to_its_noise_is_no_part_of_them() -> None:
    """Trajectories are those of a sampler. If they used the training's generators, a resumed run would draw from these
    twice."""
    process = processes()[0]
    plain, _ = of(process)
    plain.trajectories.compute(rows=4)
    generator = torch.Generator().manual_seed(2)
    before = generator.get_state()
    term, _ = of(process)
    assert term(context(InputPerturbation(process, 0.5, generator), TURNS - 1)) is not None
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(states(term), states(plain))


@pytest.mark.parametrize("process", processes(), ids=lambda process: type(process).__name__)
def test_two_processes_hold_what_one_holds_with_the_double_batch(process: Any) -> None:
    def asked(share: Share, count: int) -> list[list[str]]:
        term, family = of(process)
        term = replace(term, near=replace(term.near, processes=share))
        term.trajectories.compute(rows=count)
        family.asked.clear()
        for turn in (1, 2):
            family.moved = 0.1
            assert term(context(process, TURNS * turn - 1, count)) is not None
        return [family.asked[:count], family.asked[count:]]

    halves = [asked(Share(index, 2), 2) for index in range(2)]
    assert [first + second for first, second in zip(*halves, strict=True)] == asked(WHOLE, 4)


OF_THE_PRIOR: dict[str, Any] = {
    "prior_prompts": ["a dog"], "prior_matching_on": "everything", "prior_matching_interval": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", OF_THE_PRIOR)
def test_its_settings_are_refused_where_it_is_off(name: str, base: ModelFamily) -> None:
    """The error comes at once if the user turns prior matching off, and with the base model if it is off by default, as
    with dco, which preserves the base model itself."""
    message = f"{name} has no effect with prior_matching_weight 0; set the weight, or leave {name} out"
    with pytest.raises(ConfigError, match=message):
        build_config({name: OF_THE_PRIOR[name], "prior_matching_weight": 0})
    settings = {"base_model": "mini-sdxl", "loss_type": "dco"}
    with pytest.raises(ConfigError, match=message):
        prior_defaults(build_config({**settings, name: OF_THE_PRIOR[name]}), base)
    assert prior_defaults(build_config(settings), base) == {"prior_matching_weight": 0.0}


def test_what_is_unused_follows_from_the_defaults() -> None:
    class Elsewhere(ObjectiveSection):
        prior_matching_interval: Open[int] = 5

    assert Elsewhere(prior_matching_weight=0.0).unused_prior_settings == ()
    with pytest.raises(ValueError, match="prior_matching_interval has no effect"):
        Elsewhere(prior_matching_weight=0.0, prior_matching_interval=3)
