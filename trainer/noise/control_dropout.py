"""What varies from step to step in the condition of a ControlNet: what is left out, and where single faces stand."""

from collections.abc import Sequence
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
class ControlDropout:
    """Implements `Condition`: some pictures are black, drawn anew each time."""

    part: ControlNetPart
    share_of_pictures: float
    generator: Generator
    processes: Share = WHOLE

    def __call__(
        self,
        pictures: Tensor | None,
        noised: Tensor,
        timesteps: Tensor,
        prompts: PromptFeatures,
        sizes: Sequence[SizeConditioning],
    ) -> Conditioning | None:
        if pictures is not None:
            kept = self.processes.uniform((len(pictures), 1, 1, 1), self.generator) >= self.share_of_pictures
            pictures = pictures * kept.to(pictures.device)
            if pictures.shape[1] == 4:
                pictures[:, 3:][~kept.view(-1)] = 255  # black, and no hole
        return self.part.condition(pictures, noised, timesteps, prompts, sizes)


@dataclass(frozen=True)
class FaceDropout:
    """Implements `Condition`: some faces are left out, each by itself, and some that are alone in their picture fill
    all of it, so that a face may be asked for without its place. Drawn anew each time."""

    part: ControlNetPart
    share_of_faces: float
    share_filling_all: float
    generator: Generator
    processes: Share = WHOLE

    def __call__(
        self,
        pictures: Tensor | None,
        noised: Tensor,
        timesteps: Tensor,
        prompts: PromptFeatures,
        sizes: Sequence[SizeConditioning],
    ) -> Conditioning | None:
        """`pictures`: faces (B, N, 4 + P)."""
        if pictures is not None:
            pictures = self._varied(pictures)
        return self.part.condition(pictures, noised, timesteps, prompts, sizes)

    def _varied(self, faces: Tensor) -> Tensor:
        kept = self.processes.uniform((*faces.shape[:2], 1), self.generator) >= self.share_of_faces
        filling = self.processes.uniform((len(faces), 1, 1), self.generator) < self.share_filling_all
        alone = faces[..., CORNERS:].any(-1).sum(1)[:, None, None] == 1
        boxes = torch.where(filling.to(faces.device) & alone, faces.new_tensor(WHOLE_PICTURE), faces[..., :CORNERS])
        return torch.cat([boxes, faces[..., CORNERS:] * kept.to(faces.device)], dim=-1)


def with_dropout(part: ControlNetPart, control: ControlSection, generators: NamedGenerators) -> Condition:
    """Return the part's condition in training steps, which varies as the settings say."""
    if control.control == "faces":
        drawn = generators["control_dropout"]
        return FaceDropout(part, control.control_dropout, control.control_full_share, drawn, generators.share)
    if control.control_dropout == 0:
        return part.condition
    return ControlDropout(part, control.control_dropout, generators["control_dropout"], generators.share)
