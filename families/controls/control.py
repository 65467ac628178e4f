"""The interface of families that support ControlNets (Zhang et al. 2023)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from families.conditioning import Conditioning
from families.controls.faces import is_faces
from families.family import ModelFamily, PromptFeatures, SizeConditioning
from settings.preparation import FACE_FEATURES

ERASED = -1.0
"""Value of erased pixels in the condition of an inpainting ControlNet, as those for SD1.5 were trained."""
OPAQUE = 128
COLOURS = 3
Bottleneck = Literal["effnet", "large", "simple"]
CHANNELS = {"canny": 1, "grey": 1, "scribble": 1, "inpainting": 4, "faces": FACE_FEATURES}
"""Number of input channels by the setting `control`, if it is not 3."""


@dataclass(frozen=True)
class ControlForm:
    """Properties in which ControlNets of one base model can differ.

    `channels`: of its first layer: 1 brightness, 3 colours, 4 colours and a mask of the holes. `blocks`: the denoiser's
    blocks to whose inputs residuals are added, in order of execution. `bottleneck`: the network that encodes the
    condition: a copy of the base model's image encoder (effnet), a larger network for the latents of that encoder
    (large), or two convolutions for face embeddings in cells of the latents' size (simple).
    """

    channels: int = COLOURS
    blocks: tuple[int, ...] = ()
    bottleneck: Bottleneck = "effnet"

    @classmethod
    def of(cls, control: str, blocks: Sequence[int], bottleneck: Bottleneck = "effnet") -> "ControlForm":
        """Build from the settings `control`, `controlnet_blocks` and `controlnet_bottleneck`."""
        if control == "faces":
            bottleneck = "simple"
        return cls(CHANNELS.get(control, COLOURS), tuple(blocks), bottleneck)


USUAL_FORM = ControlForm()
FIRST_BLOCKS = (0, 4, 8, 12)


@runtime_checkable
class Controllable(Protocol):
    """A family with ControlNets."""

    @property
    def steered_blocks(self) -> int:
        """The number of blocks that `ControlForm.blocks` can select from; 0: all ControlNets have the same form."""

    def new_controlnet(self, form: ControlForm = USUAL_FORM) -> Any:
        """A ControlNet in fp32, initialised with the base model's encoder. Its output is zero until it is trained.

        Weights that are not copied are initialised with torch's global generator. A form without blocks gets the
        default ones.
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
        """The residuals that the ControlNet adds to the denoiser. `pictures`: as returned by `control_input`; the
        others as for `denoise`."""

    def control_pipeline(self, controlnet: Any) -> Any:
        """A diffusers pipeline with the base model's modules and this ControlNet."""


def controllable(family: ModelFamily) -> Controllable | None:
    """The family's interface for ControlNets; None if there are none."""
    return family if isinstance(family, Controllable) else None


def usual_blocks(count: int) -> tuple[int, ...]:
    """The default blocks of `count` to whose inputs residuals are added: four of the first blocks, and their mirrored
    positions, as far as they exist. Of 64: 0, 4, 8, 12, 51, 55, 59, 63."""
    first = [block for block in FIRST_BLOCKS if block < count // 2]
    return (*first, *(count - 1 - block for block in reversed(first)))


def control_input(control: Tensor) -> Tensor:
    """The input of a ControlNet for a cached batch: images as returned by `control_pixels`, or faces unchanged."""
    return control if is_faces(control) else control_pixels(control)


def control_pixels(pictures: Tensor) -> Tensor:
    """uint8 (B, 3, H, W), or (B, 4, H, W) with opacity → fp32 (B, 3, H, W) in [0, 1]; transparent pixels are -1."""
    colours = pictures[:, :3].float() / 255
    if pictures.shape[1] == 3:
        return colours
    return torch.where(pictures[:, 3:] < OPAQUE, ERASED, colours)
