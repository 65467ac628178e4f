"""The interface that a model family offers to trainer and sampler, and the list of families.

Shapes: B batch, L prompt tokens (77), D prompt width, C latent channels, H and W pixels, h and w latent pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from families.noise_process import DiffusionProcess


@dataclass(frozen=True)
class PromptFeatures:
    """What the text encoders say. `prompt_embeds`: (B, L, D). `pooled_prompt_embeds`: (B, P)."""

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor


@dataclass(frozen=True)
class SizeConditioning:
    """SDXL's size conditioning in pixels (Podell et al. 2023, §2.2), one row (height, width) or (top, left) an image.

    original: size of the file, crop: corner of the crop inside the resized image, target: size that is trained.
    """

    original: tuple[int, int]
    crop: tuple[int, int]
    target: tuple[int, int]


class ModelFamily(Protocol):
    """A loaded base model. Families inherit nothing from each other; trainer and sampler know only this."""

    name: ClassVar[str]
    architecture: ClassVar[str]
    """Name of the architecture in `modelspec.architecture`."""
    base_model_version: ClassVar[str]
    """Name of the architecture in `ss_base_model_version`."""
    encoder_names: ClassVar[tuple[str, ...]]
    """Names of the text encoders in embedding files, in the order of `text_encoders`."""

    denoiser: Any
    """diffusers' UNet or transformer."""
    vae: Any
    text_encoders: list[Any]
    tokenizers: list[Any]
    noise_process: DiffusionProcess

    @property
    def native_resolution(self) -> int:
        """Side in pixels of the square that the base was made for."""

    @property
    def size_multiple(self) -> int:
        """Widths and heights in pixels must be multiples of this."""

    @property
    def device(self) -> torch.device: ...

    def to(self, device: torch.device) -> "ModelFamily": ...

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] → moments of the latents' posterior (B, 2C, h, w): mean and log-variance."""

    def latents(self, moments: Tensor, noise: Tensor) -> Tensor:
        """A sample of the posterior, scaled as the denoiser wants it: (B, C, h, w). `noise`: (B, C, h, w)."""

    def encode_prompts(self, prompts: Sequence[str]) -> PromptFeatures:
        """Features of placeholder-expanded prompts. Carries gradients where tokens or encoders are trained."""

    def denoise(
        self, noised: Tensor, timesteps: Tensor, prompts: PromptFeatures, sizes: Sequence[SizeConditioning]
    ) -> Tensor:
        """The prediction for noised latents (B, C, h, w) at `timesteps` (B,): (B, C, h, w)."""

    def pipeline(self) -> Any:
        """A diffusers pipeline over the same modules (nothing is copied)."""
