"""Prompt-aligned personalisation: predictions for a target prompt are kept near those of the base model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from families.family import ModelFamily
from families.noise.noise_process import Draw
from families.parts.placeholder_tokens import expand_triggers
from trainer.distributed.batch_share import WHOLE, Share
from trainer.losses.term import StepContext
from trainer.noise.dream import noise_scale
from trainer.trainables.part import Parts

NEAREST, FARTHEST = 0.02, 0.98
"""Range of the random timesteps, as fractions from clean to noise."""
BASE_GUIDANCE, OWN_GUIDANCE = 15.0, 7.5
"""Guidance scales. The base's is larger, so that images do not become pale (Arar et al. 2024, §4.2)."""


@dataclass(frozen=True)
class PromptAlignment:
    """weight · σ'² · α · (ε_base - ε_own) · x̂₀, with a gradient only through x̂₀ (Arar et al. 2024, arXiv 2401.06105).

    x̂₀: the clean latents implied by the step's prediction. They are noised again, at another timestep; there the base
    predicts for a target prompt with class words, and the model for the same prompt with the triggers, both with
    guidance. Their difference is a direction for x̂₀ (score distillation). α, of the step's own timestep, bounds x̂₀'s
    error near pure noise. The reported value is weight · mean σ'² · (ε_base - ε_own)², which is 0 if both are equal:
    the product itself is not meaningful. Costs four passes without gradients, every `interval` steps, and is multiplied
    by `interval`.

    An image is aligned with the target prompts that contain a trigger of its own caption; both values are 0 for images
    without one, such as those of a preservation set.

    `placeholders`: the tokens of every trigger. `class_words`: by trigger.
    """

    family: ModelFamily = field(repr=False)
    parts: Parts = field(repr=False)
    prompts: Sequence[str]
    placeholders: Mapping[str, Sequence[str]]
    class_words: Mapping[str, str]
    generator: torch.Generator
    weight: float
    interval: int = 1
    processes: Share = WHOLE
    name: str = "prompt_alignment"

    def __call__(self, context: StepContext) -> Tensor | None:
        if context.step % self.interval:
            return None
        process, timesteps = context.noise_process, context.draw.timesteps
        picture = process.to_x0(context.noised.float(), context.prediction.float(), timesteps)
        draw = self._draw(context)
        noised = process.corrupt(picture.detach().to(context.latents), draw)
        chosen, named = self._chosen(context.captions)
        with torch.no_grad():
            own = self._guided(chosen, self.placeholders, noised, draw, context, OWN_GUIDANCE)
            with self.parts.off():
                words = {trigger: [word] for trigger, word in self.class_words.items()}
                wanted = self._guided(chosen, words, noised, draw, context, BASE_GUIDANCE)
            difference = (wanted - own) * named.to(own).view(-1, 1, 1, 1)
            strength = noise_scale(process, draw.timesteps).square().view(-1, 1, 1, 1)
            kept = _picture_scale(process.prediction_type, noise_scale(process, timesteps)).view(-1, 1, 1, 1)
            direction = strength * kept * difference
            reported = (strength * difference.square()).mean()
        pull = (direction * picture).mean()
        return self.interval * self.weight * (pull - pull.detach() + reported)

    def _chosen(self, captions: Sequence[str]) -> tuple[list[str], Tensor]:
        """A random prompt for each caption, and whether it contains a trigger of the caption: (B,). Without such a
        prompt it is any."""
        fitting = [[prompt for prompt in self.prompts if self._named(prompt) & self._named(each)] for each in captions]
        chosen = [
            own[drawn % len(own)] if own else self.prompts[drawn]
            for own, drawn in zip(fitting, self._integers(len(captions)), strict=True)
        ]
        return chosen, torch.tensor([bool(own) for own in fitting])

    def _named(self, text: str) -> set[str]:
        """The triggers in a text."""
        return {trigger for trigger in self.class_words if expand_triggers(text, {trigger: [""]}) != text}

    def _guided(
        self,
        prompts: Sequence[str],
        words: Mapping[str, Sequence[str]],
        noised: Tensor,
        draw: Draw,
        context: StepContext,
        guidance: float,
    ) -> Tensor:
        """ε̂ with classifier-free guidance: (B, C, h, w)."""
        found = [
            context.noise_process.to_noise(noised.float(), self._predict(texts, noised, draw, context), draw.timesteps)
            for texts in ([expand_triggers(prompt, words) for prompt in prompts], [""] * len(prompts))
        ]
        return found[1] + guidance * (found[0] - found[1])

    def _predict(self, prompts: Sequence[str], noised: Tensor, draw: Draw, context: StepContext) -> Tensor:
        features = self.family.encode_prompts(prompts)
        prediction = self.family.denoise(noised, draw.timesteps, features, context.sizes, context.conditioning)
        return prediction.float()

    def _draw(self, context: StepContext) -> Draw:
        shape, device = context.latents.shape, context.latents.device
        fractions = NEAREST + (FARTHEST - NEAREST) * self.processes.uniform((shape[0],), self.generator)
        timesteps = context.noise_process.timesteps_at(fractions, shape).to(device)
        return Draw(timesteps, self.processes.normal(shape, self.generator).to(context.latents))

    def _integers(self, count: int) -> list[int]:
        found: list[int] = self.processes.integers(len(self.prompts), count, self.generator).tolist()
        return found


def _picture_scale(prediction_type: str, sigma: Tensor) -> Tensor:
    """α, the factor of x_0 in x_t."""
    return 1 - sigma if prediction_type == "flow" else (1 - sigma.square()).sqrt()
