"""Additional inputs of a denoiser, besides noised latents and prompts: for ControlNet, inpainting and editing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """Additional inputs for B images. A family uses the parts that it supports, and rejects others
    (`refuse_conditioning`).

    `residuals`: added to the denoiser's activations, in its order, as by a ControlNet (Zhang et al. 2023); (B, C_i,
    h_i, w_i) each. The last one is that of the middle block, if the denoiser has one. `residual_blocks`: the blocks to
    whose inputs they are added, if the ControlNet has chosen them. `image_latents`: (B, X, h, w), concatenated with the
    noised latents: a masked image with its mask, or an image to edit; or the input of separate layers, with other
    sides: coarse latents of the image to reconstruct. `image_embeds`: (B, P), of similar images, zeros if there is
    none.
    """

    residuals: tuple[Tensor, ...] = ()
    image_latents: Tensor | None = None
    residual_blocks: tuple[int, ...] = ()
    image_embeds: Tensor | None = None

    def rows(self, first: int, last: int) -> "Conditioning":
        """Return the inputs of the images from `first` up to but not including `last`."""
        return Conditioning(
            tuple(each[first:last] for each in self.residuals),
            None if self.image_latents is None else self.image_latents[first:last],
            self.residual_blocks,
            None if self.image_embeds is None else self.image_embeds[first:last],
        )

    @property
    def parts(self) -> Sequence[str]:
        """Names of the parts that are present."""
        present = {
            "residuals": bool(self.residuals),
            "image_latents": self.image_latents is not None,
            "image_embeds": self.image_embeds is not None,
        }
        return [name for name, there in present.items() if there]


@runtime_checkable
class EmbedsPictures(Protocol):
    """A family whose denoiser can use the embedding of an image in addition to the prompt."""

    picture_encoder: Any
    """None until it is loaded, because it is rarely used."""

    def load_picture_encoder(self) -> None:
        """Raises BaseModelError if the base model has none."""

    def picture_embeds(self, pictures: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) → `Conditioning.image_embeds`."""


def embeds_pictures(family: object) -> EmbedsPictures | None:
    """The family's interface for image embeddings; None if it is not supported."""
    return family if isinstance(family, EmbedsPictures) else None


def refuse_conditioning(conditioning: Conditioning | None, family: str, known: Sequence[str] = ()) -> None:
    """Raises ValueError for parts that the family does not support and that would have no effect."""
    unread = [] if conditioning is None else [name for name in conditioning.parts if name not in known]
    if unread:
        raise ValueError(f"the denoiser of the family {family} does not support {' and '.join(unread)}")
