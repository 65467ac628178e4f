"""Additional inputs of the denoiser in training, computed from the cached images."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from families.conditioning import EmbedsPictures, embeds_pictures
from families.errors import BaseModelError
from families.family import Conditioning, ModelFamily, PromptFeatures, Restoring, SizeConditioning, restoring
from settings.preparation import ControlSection
from settings.record import ConfigError
from trainer.distributed.batch_share import WHOLE, Share
from trainer.noise.control_dropout import with_dropout
from trainer.randomness import NamedGenerators
from trainer.trainables.controlnet import Condition, ControlNetPart


@dataclass(frozen=True)
class CoarseLatents:
    """Implements `Condition` for a family that reconstructs images: their coarse latents, as in sampling."""

    family: Restoring

    def __call__(
        self,
        pictures: Tensor | None,
        noised: Tensor,
        timesteps: Tensor,
        prompts: PromptFeatures,
        sizes: Sequence[SizeConditioning],
    ) -> Conditioning | None:
        return None if pictures is None else self.family.condition(pictures)


@dataclass(frozen=True)
class VariedCoarseLatents:
    """Implements `Condition` for training steps: images of a random size, the same for the whole batch, and zeros for
    some of them, which mean no condition. Then the denoiser supports several sizes, and guidance can be used."""

    family: Restoring
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
        if pictures is None:
            return None
        smallest, largest = self.family.condition_sizes
        size = smallest + (largest - smallest) * float(torch.rand((), generator=self.generator))
        kept = self.processes.uniform((len(pictures), 1, 1, 1), self.generator) >= self.family.condition_dropout
        coarse = self.family.training_condition(pictures, size).image_latents
        assert coarse is not None
        return Conditioning(image_latents=coarse * kept.to(coarse.device))


@dataclass(frozen=True)
class PictureEmbeddings:
    """Implements `Condition` for training steps: embeddings of a random share of the training images, so that the
    denoiser continues to support them; none for the others."""

    family: EmbedsPictures
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
        """Raises ValueError if the images were not cached."""
        if pictures is None:
            raise ValueError("image_embedding_share: the images were not cached with their latents")
        chosen = self.processes.uniform((len(pictures),), self.generator) < self.share_of_pictures
        if not chosen.any():
            return None
        chosen = chosen.to(pictures.device)
        found = self.family.picture_embeds(pictures[chosen])
        embeds = found.new_zeros(len(pictures), found.shape[1])
        embeds[chosen] = found
        return Conditioning(image_embeds=embeds)


def read_pictures(share: float, base: str, family: ModelFamily) -> None:
    """Load the image encoder if image embeddings are trained. Raises ConfigError if the base has none."""
    if share == 0:
        return
    reader = embeds_pictures(family)
    if reader is None:
        raise ConfigError(
            f"image_embedding_share: {base} ({family.name}) does not support image embeddings; leave it out"
        )
    try:
        reader.load_picture_encoder()
    except BaseModelError as error:
        raise ConfigError(f"image_embedding_share: {error}") from error


def training_condition(
    family: ModelFamily,
    controlnet: ControlNetPart | None,
    generators: NamedGenerators,
    control: ControlSection,
    image_embedding_share: float,
) -> Condition | None:
    """The condition of training steps; None if the denoiser does not read images. `control`: of a ControlNet."""
    if controlnet is not None:
        return with_dropout(controlnet, control, generators)
    if image_embedding_share > 0 and (reader := embeds_pictures(family)) is not None:
        return PictureEmbeddings(reader, image_embedding_share, generators["condition"], generators.share)
    restorer = restoring(family)
    return None if restorer is None else VariedCoarseLatents(restorer, generators["condition"], generators.share)


def exact_condition(family: ModelFamily, controlnet: ControlNetPart | None) -> Condition | None:
    """The same without randomness, for held-out images."""
    if controlnet is not None:
        return controlnet.condition
    restorer = restoring(family)
    return None if restorer is None else CoarseLatents(restorer)
