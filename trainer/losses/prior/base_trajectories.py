"""Prior matching on the base model's sampling trajectories of prompts without the trigger word."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from families.family import ModelFamily, SizeConditioning
from families.noise.noise_process import Draw
from trainer.data.latent_cache import CachedExample
from trainer.losses.prior.prior_matching import PriorMatching
from trainer.losses.term import StepContext

STEPS = 10
"""Number of steps of a trajectory."""
NOISIEST = 0.999
"""Start of a trajectory, as a fraction from clean to noise."""
TURNS = 3
"""Trajectories are used every third time; not the first time, when a new adapter has no effect."""


@dataclass
class BaseTrajectories:
    """The latents and predictions of the base while it samples `prompts`, without guidance: deterministic sampling
    (DDIM: Song et al. 2021, eq. 12 with σ = 0; Euler's steps for flow matching) in STEPS steps.

    The noise process is the family's own, as in a sampler, without modifiers of training steps such as input
    perturbation. Computed when it is first needed, and again when a run is resumed: the values depend only on the state
    of `generator`, which is not changed, and are the same for any number of rows and processes. `shape`: (C, h, w) of
    the latents, `size`: of the images.
    """

    family: ModelFamily = field(repr=False)
    prompts: Sequence[str]
    shape: Sequence[int]
    size: SizeConditioning
    generator: torch.Generator = field(repr=False)
    _states: list[Tensor] = field(default_factory=list, init=False, repr=False)
    """For each step: (prompts, 2, C, h, w), the noised latents and the base's predictions for them, on the CPU."""

    @classmethod
    def like(
        cls, example: CachedExample, prompts: Sequence[str], family: ModelFamily, generator: torch.Generator
    ) -> "BaseTrajectories":
        """Trajectories for images of the size of `example`, without its crop."""
        view = example.views[0].load()
        shape = family.latent_shape(torch.Size((1, *view.moments.shape)))[1:]
        size = SizeConditioning(view.size.target, (0, 0), view.size.target)
        return cls(family, prompts, shape, size, generator)

    def at(self, trajectory: int, step: int) -> Tensor:
        """(2, C, h, w): the noised latents of a trajectory before a step, and the base's prediction for them."""
        return self._states[step][trajectory]

    @torch.no_grad()
    def compute(self, rows: int) -> None:
        """Sample all prompts with the base model, `rows` at a time. No adapter may be active."""
        shape = (len(self.prompts), *self.shape)
        # all at once: drawing in parts would give other values
        noise = torch.randn(shape, generator=self.generator.clone_state())
        parts = [slice(first, first + rows) for first in range(0, len(self.prompts), rows)]
        drawn = [self._drawn(self.prompts[part], noise[part]) for part in parts]
        self._states = [torch.cat(states) for states in zip(*drawn, strict=True)]

    @property
    def computed(self) -> bool:
        return bool(self._states)

    def timesteps(self, steps: Sequence[int]) -> Tensor:
        """The timesteps (B,) before these steps of a trajectory."""
        fractions = torch.tensor([NOISIEST * (1 - step / STEPS) for step in steps])
        shape = torch.Size((len(steps), *self.shape))
        return self.family.noise_process.timesteps_at(fractions, shape).to(self.family.device)

    def _drawn(self, prompts: Sequence[str], noise: Tensor) -> list[Tensor]:
        count, states, process = len(prompts), [], self.family.noise_process
        features, sizes = self.family.encode_prompts(prompts), [self.size] * count
        noise = noise.to(self.family.device)
        clean = torch.zeros_like(noise)
        for step in range(STEPS):
            timesteps = self.timesteps([step] * count)
            noised = process.corrupt(clean, Draw(timesteps, noise))
            prediction = self.family.denoise(noised, timesteps, features, sizes).float()
            states.append(torch.stack([noised.float(), prediction], dim=1).cpu())
            clean = process.to_x0(noised, prediction, timesteps)
            noise = process.to_noise(noised, prediction, timesteps)
        return states


@dataclass(frozen=True)
class TrajectoryMatching:
    """Prior matching on the base's sampling trajectories of prompts: weight · mean((prediction with adapter -
    prediction of the base)²), every third time; otherwise `near` is used. `near` uses captions with class words and the
    empty prompt on noised training images. For prompts to keep this has little effect, because a sampler's latents
    differ. A trajectory step costs one forward and one backward pass every `interval` steps, and is multiplied by
    `interval` ("lazy regularization", Karras et al. 2020, arXiv 1912.04958, appendix B); and STEPS forward passes for
    each prompt at the start.
    """

    near: PriorMatching
    trajectories: BaseTrajectories
    name: str = "prior_matching"

    def __call__(self, context: StepContext) -> Tensor | None:
        near = self.near
        if context.step % near.interval or (context.step // near.interval + 1) % TURNS:
            return near(context)
        count = len(context.noised)
        if not self.trajectories.computed:
            with near.parts.off():
                self.trajectories.compute(count)
        drawn = [self._drawn() for _ in range(count * near.processes.count)]
        difference = self._difference(near.processes.of(drawn))
        return near.interval * near.weight * difference.square().mean()

    def _difference(self, chosen: Sequence[tuple[int, int]]) -> Tensor:
        """The adapter's change of the prediction at these steps of these trajectories: (B, C, h, w)."""
        states = torch.stack([self.trajectories.at(*each) for each in chosen]).to(self.near.family.device)
        noised, wanted = states.unbind(dim=1)
        timesteps = self.trajectories.timesteps([step for _, step in chosen])
        features = self.near.family.encode_prompts([self.trajectories.prompts[index] for index, _ in chosen])
        sizes = [self.trajectories.size] * len(chosen)
        return self.near.family.denoise(noised, timesteps, features, sizes) - wanted

    def _drawn(self) -> tuple[int, int]:
        """A random trajectory and a random step of it."""
        return self._integer(len(self.trajectories.prompts)), self._integer(STEPS)

    def _integer(self, high: int) -> int:
        return int(torch.randint(high, (), generator=self.near.generator))
