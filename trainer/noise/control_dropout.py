"""Random variation of a ControlNet's condition in training steps: dropout, and positions of single faces."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from families.controls.faces import CORNERS
from families.family import Conditioning, PromptFeatures, SizeConditioning
from settings.preparation import ControlSection
from trainer.distributed.batch_share import WHOLE, Share
from trainer.randomness import NamedGenerators
from trainer.trainables.controlnet import Condition, ControlNetPart

WHOLE_PICTURE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class VariedCondition:
    """Implements `Condition`: the ControlNet's input is varied in each step."""

    part: ControlNetPart
    vary: Callable[[Tensor], Tensor]

    def __call__(
        self,
        pictures: Tensor | None,
        noised: Tensor,
        timesteps: Tensor,
        prompts: PromptFeatures,
        sizes: Sequence[SizeConditioning],
    ) -> Conditioning | None:
        varied = None if pictures is None else self.vary(pictures)
        return self.part.condition(varied, noised, timesteps, prompts, sizes)


@dataclass(frozen=True)
class PictureDropout:
    """Makes some pictures black."""

    share_of_pictures: float
    generator: Generator
    processes: Share = WHOLE

    def __call__(self, pictures: Tensor) -> Tensor:
        """`pictures`: uint8 (B, 3 or 4, H, W)."""
        kept = self.processes.uniform((len(pictures), 1, 1, 1), self.generator) >= self.share_of_pictures
        pictures = pictures * kept.to(pictures.device)
        if pictures.shape[1] == 4:
            pictures[:, 3:][~kept.view(-1)] = 255  # black, and not transparent
        return pictures


@dataclass(frozen=True)
class FaceDropout:
    """Leaves out random faces, independently, and lets some single faces fill the whole image, so that a face can be
    requested without a position."""

    share_of_faces: float
    share_filling_all: float
    generator: Generator
    processes: Share = WHOLE

    def __call__(self, faces: Tensor) -> Tensor:
        """`faces`: (B, N, 4 + P)."""
        kept = self.processes.uniform((*faces.shape[:2], 1), self.generator) >= self.share_of_faces
        filling = self.processes.uniform((len(faces), 1, 1), self.generator) < self.share_filling_all
        alone = faces[..., CORNERS:].any(-1).sum(1)[:, None, None] == 1
        boxes = torch.where(filling.to(faces.device) & alone, faces.new_tensor(WHOLE_PICTURE), faces[..., :CORNERS])
        return torch.cat([boxes, faces[..., CORNERS:] * kept.to(faces.device)], dim=-1)


def with_dropout(part: ControlNetPart, control: ControlSection, generators: NamedGenerators) -> Condition:
    """Return the part's condition in training steps, with the variation of the settings."""
    share, processes = control.control_dropout, generators.share
    if control.control == "faces":
        drawn = generators["control_dropout"]
        return VariedCondition(part, FaceDropout(share, control.control_full_share, drawn, processes))
    if share == 0:
        return part.condition
    return VariedCondition(part, PictureDropout(share, generators["control_dropout"], processes))
