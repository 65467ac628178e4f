"""The PSNR of a model that reconstructs images, in pixels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from families.family import ModelFamily, restoring
from trainer.validation.held_out_loss import HeldOutLoss, deterministic

SEED = 30_000
"""Seed of the noise, plus the image's number: the same in every run."""


@torch.no_grad()
def restore(
    family: ModelFamily,
    pictures: Sequence[Tensor],
    captions: Sequence[str],
    num_inference_steps: int,
    guidance_scale: float,
) -> list[Tensor]:
    """The reconstruction of each image, uint8 (3, H, W), from its own coarse latents: uint8 (3, H, W) on the CPU."""
    restorer = restoring(family)
    assert restorer is not None
    found = []
    with deterministic(family.denoiser):
        for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
            generator = torch.Generator().manual_seed(SEED + number)
            drawn = restorer.restored(
                picture[None].to(family.device), family.encode_prompts([caption]), [generator], num_inference_steps,
                guidance_scale,
            )  # fmt: skip
            found.append((drawn[0] * 255).round().to(torch.uint8).cpu())
    return found


def psnr(one: Tensor, other: Tensor) -> float:
    """10 log₁₀(255² / mean squared difference) of two images uint8 (3, H, W), in dB; at most 99, for equal ones."""
    error = (one.cpu().float() - other.cpu().float()).square().mean().item()
    return 99.0 if error == 0 else 10 * torch.log10(torch.tensor(255.0**2 / error)).item()


class HeldOutRestoration:
    """Implements `trainer.validation.scorer.Scorer`: the held-out loss, which is the score, and the mean PSNR of the
    same images as `psnr`."""

    def __init__(self, loss: HeldOutLoss, family: ModelFamily, num_inference_steps: int, guidance_scale: float) -> None:
        self._loss, self._family = loss, family
        self._steps, self._guidance = num_inference_steps, guidance_scale

    @property
    def name(self) -> str:
        return self._loss.name

    def __call__(self) -> dict[str, float]:
        pictures, captions = self._loss.pictures()
        drawn = restore(self._family, pictures, captions, self._steps, self._guidance)
        values = [psnr(one, other) for one, other in zip(drawn, pictures, strict=True)]
        return {**self._loss(), "psnr": sum(values) / len(values)}

    def state_dict(self) -> dict[str, Any]:
        return self._loss.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._loss.load_state_dict(state)
