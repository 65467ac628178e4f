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
"""Of what a ControlNet with channels of its own reads, by the setting `control`; others are in colour."""


@dataclass(frozen=True)
class ControlForm:
    """In what ControlNets of one base may differ, where its family leaves a choice.

    `channels`: of its first layer: 1 brightness, 3 colours, 4 colours and a mask of the holes. `blocks`: the denoiser's
    blocks before which it adds something, in the order in which they run. `bottleneck`: the network that reads: a copy
    of the base's encoder of pictures (effnet), a larger one that reads the encoder's latents (large), or two
    convolutions that read what is painted into cells as large as latents (simple).
    """

    channels: int = COLOURS
    blocks: tuple[int, ...] = ()
    bottleneck: Bottleneck = "effnet"

    @classmethod
    def of(cls, control: str, blocks: Sequence[int], bottleneck: Bottleneck = "effnet") -> "ControlForm":
        """Of the settings `control`, `controlnet_blocks` and `controlnet_bottleneck`."""
        if control == "faces":
            bottleneck = "simple"
        return cls(CHANNELS.get(control, COLOURS), tuple(blocks), bottleneck)


USUAL_FORM = ControlForm()
FIRST_BLOCKS = (0, 4, 8, 12)


@runtime_checkable
class Controllable(Protocol):
    """A family for which ControlNets exist."""

    @property
    def steered_blocks(self) -> int:
        """How many blocks there are for `ControlForm.blocks` to choose from; 0: all ControlNets have the same form."""

    def new_controlnet(self, form: ControlForm = USUAL_FORM) -> Any:
        """A ControlNet in fp32, made from the base's encoder. Its output is zero until it is trained.

        What is not copied is drawn from torch's own generator. A form without blocks has the usual ones.
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
        """What the ControlNet adds to the denoiser. `pictures`: as `control_input` gives them; the others as for
        `denoise`."""

    def control_pipeline(self, controlnet: Any) -> Any:
        """A diffusers pipeline over the base's modules and this ControlNet."""


def controllable(family: ModelFamily) -> Controllable | None:
    """The family's interface for ControlNets; None where it has none."""
    return family if isinstance(family, Controllable) else None


def usual_blocks(count: int) -> tuple[int, ...]:
    """The blocks of `count` before which most ControlNets add something: four among the first, and their mirror images,
    as far as there are such. Of 64: 0, 4, 8, 12, 51, 55, 59, 63."""
    first = [block for block in FIRST_BLOCKS if block < count // 2]
    return (*first, *(count - 1 - block for block in reversed(first)))


def control_input(control: Tensor) -> Tensor:
    """What a ControlNet reads, of a batch that is cached: pictures as `control_pixels` gives them, or faces as they
    are."""
    return control if is_faces(control) else control_pixels(control)


def control_pixels(pictures: Tensor) -> Tensor:
    """uint8 (B, 3, H, W), or (B, 4, H, W) with opacity → fp32 (B, 3, H, W) in [0, 1]; transparent pixels are -1."""
    colours = pictures[:, :3].float() / 255
    if pictures.shape[1] == 3:
        return colours
    return torch.where(pictures[:, 3:] < OPAQUE, ERASED, colours)
