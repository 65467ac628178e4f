"""The interface of families that can be steered by pictures through a ControlNet (Zhang et al. 2023)."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from families.conditioning import Conditioning
from families.family import ModelFamily, PromptFeatures, SizeConditioning

ERASED = -1.0
"""Value of erased pixels in the condition of an inpainting ControlNet, as those for SD1.5 were trained."""
OPAQUE = 128


@runtime_checkable
class Controllable(Protocol):
    """A family for which ControlNets exist."""

    def new_controlnet(self) -> Any:
        """A ControlNet in fp32, made from the base's encoder. Its output is zero until it is trained.

        What is not copied is drawn from torch's own generator.
        """

    def control_residuals(
        self,
        controlnet: Any,
        pictures: Tensor,
        noised: Tensor,
        timesteps: Tensor,
        prompts: PromptFeatures,
        sizes: Sequence[SizeConditioning],
    ) -> Conditioning:
        """What the ControlNet adds to the denoiser. `pictures`: (B, 3, H, W) as `control_pixels` gives them; the others
        as for `denoise`."""

    def control_pipeline(self, controlnet: Any) -> Any:
        """A diffusers pipeline over the base's modules and this ControlNet."""


def controllable(family: ModelFamily) -> Controllable | None:
    """The family's interface for ControlNets; None where it has none."""
    return family if isinstance(family, Controllable) else None


def control_pixels(pictures: Tensor) -> Tensor:
    """uint8 (B, 3, H, W), or (B, 4, H, W) with opacity → fp32 (B, 3, H, W) in [0, 1]; transparent pixels are -1."""
    colours = pictures[:, :3].float() / 255
    if pictures.shape[1] == 3:
        return colours
    return torch.where(pictures[:, 3:] < OPAQUE, ERASED, colours)
