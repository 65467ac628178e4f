"""The interface that a model family offers to trainer and sampler.

Shapes: B batch, L prompt tokens, D prompt width, C latent channels, H and W pixels, h and w latent pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from families.noise.noise_process import NoiseProcess

LayerNaming = Literal["kohya_sgm", "kohya", "peft"]
"""How LoRA files name a denoiser's layers: kohya's over Stability's blocks or diffusers', or dotted paths."""


@dataclass(frozen=True)
class PromptFeatures:
    """What the text encoders say. `prompt_embeds`: (B, L, D). `pooled_prompt_embeds`: (B, P), None where unused."""

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor | None = None

    @staticmethod
    def joined(several: Sequence["PromptFeatures"]) -> "PromptFeatures":
        """All their prompts, of the same length: (B₁ + B₂ + …, L, D)."""
        pooled = [each.pooled_prompt_embeds for each in several if each.pooled_prompt_embeds is not None]
        embeds = torch.cat([each.prompt_embeds for each in several])
        return PromptFeatures(embeds, torch.cat(pooled) if pooled else None)


@dataclass(frozen=True)
class SizeConditioning:
    """SDXL's size conditioning in pixels (Podell et al. 2023, §2.2), one row (height, width) or (top, left) an image.

    original: size of the file, crop: corner of the crop inside the resized image, target: size that is trained.
    Families that know no size conditioning ignore it.
    """

    original: tuple[int, int]
    crop: tuple[int, int]
    target: tuple[int, int]


class ModelFamily(Protocol):
    """A loaded base model. Families inherit nothing from each other; trainer and sampler know only this."""

    name: ClassVar[str]
    adapter_modules: ClassVar[Mapping[str, tuple[str, ...]]]
    """How the names of the denoiser's layers end, by kind: "attention", "feed-forward", "convolutions"."""
    layer_naming: ClassVar[LayerNaming]

    encoder_names: tuple[str, ...]
    """Names of the text encoders in embedding files, in the order of `text_encoders`."""
    denoiser: Any
    """diffusers' UNet or transformer."""
    vae: Any
    text_encoders: list[Any]
    """Those that can learn new words."""
    tokenizers: list[Any]
    """Of `text_encoders`, in their order."""
    noise_process: NoiseProcess

    @property
    def architecture(self) -> str:
        """Name of the architecture in `modelspec.architecture`."""

    @property
    def base_model_version(self) -> str:
        """Name of the architecture in `ss_base_model_version`."""

    @property
    def idle_modules(self) -> tuple[str, ...]:
        """Paths of layers whose output goes nowhere: an adapter there would never learn."""

    @property
    def native_resolution(self) -> int:
        """Side in pixels of the square that the base was made for."""

    @property
    def size_multiple(self) -> int:
        """Widths and heights in pixels must be multiples of this."""

    @property
    def largest_side(self) -> int | None:
        """The longest side in pixels that the base has positions for; None: whatever memory allows."""

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

    def pipeline_inputs(self, wanted: PromptFeatures, unwanted: PromptFeatures) -> dict[str, Any]:
        """The two prompts as arguments of that pipeline."""


class PromptReader(Protocol):
    """What reading prompts needs of a family, or of another model with text encoders of its own."""

    name: ClassVar[str]
    text_encoders: list[Any]
    tokenizers: list[Any]

    @property
    def device(self) -> torch.device: ...

    def encode_prompts(self, prompts: Sequence[str]) -> PromptFeatures:
        """Features of placeholder-expanded prompts."""


@runtime_checkable
class ReadsByClip(Protocol):
    """A family that reads prompts by CLIP text encoders alone, their states side by side.

    They may stop early ("clip skip"), words may be weighted, and a long prompt may be read in parts.
    """

    def encode_prompts_early(self, prompts: Sequence[str], clip_skip: int) -> PromptFeatures:
        """As `encode_prompts`, with the last `clip_skip` layers of each encoder left out, as diffusers counts them."""

    def encoder_states(self, number: int, output: Any, clip_skip: int) -> Tensor:
        """What the denoiser reads of the output of encoder `number`, hidden states of every layer in it: (B, L, D)."""
