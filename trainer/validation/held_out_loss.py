"""The loss on held-out images at fixed noise and timesteps, by bands of noise.

The training loss is noisy, since noise and timesteps are random in each step. With fixed ones, the loss decreases while
the model generalises, and increases when it overfits to the training images.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from families.family import ModelFamily
from families.noise.noise_process import Draw
from families.parts.placeholder_tokens import expand_triggers
from trainer.data.latent_cache import CachedExample
from trainer.losses.masked_mean import masked_mean
from trainer.trainables.controlnet import Condition

BANDS = 4
DRAWS = 8
"""Timesteps of each image, evenly spaced: two in each band."""
SEED = 20_000
"""Seed of the noise. It is the same in every run, so that runs on the same images can be compared."""


class HeldOutLoss:
    """Implements `trainer.validation.scorer.Scorer`.

    `loss_<band>`: mean squared error under the mask; band 0 has the least noise. `score`: the mean over the bands of
    the loss divided by that before training, so that all bands have equal weight; 1 is the base.
    """

    name = "loss on held-out images, relative to the base model"

    def __init__(
        self,
        family: ModelFamily,
        examples: Sequence[CachedExample],
        triggers: Mapping[str, Sequence[str]],
        mask_floor: float,
        accelerator: Accelerator,
        condition: Condition | None = None,
    ) -> None:
        """`condition`: the ControlNet's residuals for the images' conditioning images."""
        self._family, self._examples, self._accelerator = family, examples, accelerator
        self._prompts = [expand_triggers(example.caption, triggers) for example in examples]
        self._mask_floor, self._condition = mask_floor, condition
        self._before: list[float] | None = None

    def __call__(self) -> dict[str, float]:
        losses = torch.stack([self._losses(index) for index in range(len(self._examples))]).mean(dim=0).tolist()
        if self._before is None:
            self._before = losses
        relative = [loss / max(before, 1e-12) for loss, before in zip(losses, self._before, strict=True)]
        return {"score": sum(relative) / BANDS, **{f"loss_{band}": loss for band, loss in enumerate(losses)}}

    def pictures(self) -> tuple[list[Tensor], list[str]]:
        """The images' pixels, uint8 (3, H, W), if they are cached with the latents, and their prompts."""
        controls = [example.views[0].load().control for example in self._examples]
        return [control for control in controls if control is not None], self._prompts

    def state_dict(self) -> dict[str, Any]:
        return {"before": self._before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._before = state["before"]

    @torch.no_grad()
    def _losses(self, index: int) -> Tensor:
        """Return the losses (BANDS,) of one image."""
        view, process = self._examples[index].views[0].load(), self._family.noise_process
        generator = torch.Generator().manual_seed(SEED + index)
        count, shape = DRAWS, self._family.latent_shape(view.moments[None].shape)
        noises = torch.randn((count + 1, *shape[1:]), generator=generator).to(view.moments.device)
        latents = self._family.latents(view.moments[None], noises[:1]).expand(count, -1, -1, -1)
        fractions = (torch.arange(count) + 0.5) / count
        draw = Draw(process.timesteps_at(fractions, latents.shape).to(latents.device), noises[1:])
        with deterministic(self._family.denoiser), self._accelerator.autocast():
            prompts = self._family.encode_prompts([self._prompts[index]] * count)
            noised, sizes = process.corrupt(latents, draw), [view.size] * count
            conditioning = None
            if self._condition is not None and view.control is not None:
                controls = view.control.expand(count, *view.control.shape)
                conditioning = self._condition(controls, noised, draw.timesteps, prompts, sizes)
            prediction = self._family.denoise(noised, draw.timesteps, prompts, sizes, conditioning)
        error = (prediction.float() - process.target(latents, draw).float()).square()
        mask = None if view.mask is None else self._mask_floor + (1 - self._mask_floor) * view.mask
        losses = masked_mean(error, None if mask is None else mask.expand(count, -1, -1, -1))
        return losses.view(BANDS, -1).mean(dim=1)


@contextmanager
def deterministic(module: nn.Module) -> Iterator[None]:
    """Disable dropout inside this context. Every submodule returns to its previous mode afterwards."""
    training = [submodule for submodule in module.modules() if submodule.training]
    module.eval()
    try:
        yield
    finally:
        for submodule in training:
            submodule.training = True
