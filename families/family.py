"""The interface that a model family offers to trainer and sampler.

Shapes: B batch, L prompt tokens, D prompt width, C latent channels, H and W pixels, h and w latent pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from families.conditioning import Conditioning as Conditioning
from families.defaults import FamilyDefaults as FamilyDefaults
from families.features import PromptFeatures as PromptFeatures
from families.features import TextStream as TextStream
from families.noise.noise_process import NoiseProcess

GuidanceKind = Literal["classifier-free", "embedded", "none"]
"""classifier-free: a second forward pass for the negative prompt (Ho & Salimans 2022). embedded: an input of a
distilled denoiser, which has no negative prompt (Meng et al. 2023). none: distilled, without guidance."""
DenoiserKind = Literal["unet", "transformer"]
LayerNaming = Literal["kohya_sgm", "kohya", "kohya_prior", "kohya_decoder", "peft"]
"""Naming of a denoiser's layers in LoRA files: kohya's with Stability's blocks, diffusers', those of a prior or its
decoder; or dotted paths."""


@dataclass(frozen=True)
class SizeConditioning:
    """SDXL's size conditioning in pixels (Podell et al. 2023, §2.2), one row (height, width) or (top, left) per image.

    original: size of the file, crop: corner of the crop inside the resized image, target: trained size. Families
    without size conditioning ignore it.
    """

    original: tuple[int, int]
    crop: tuple[int, int]
    target: tuple[int, int]


class ModelFamily(Protocol):
    """A loaded base model. Families do not inherit from each other; trainer and sampler use only this interface."""

    name: ClassVar[str]
    adapter_modules: ClassVar[Mapping[str, tuple[str, ...]]]
    """Endings of the names of the denoiser's layers, by kind: "attention", "feed-forward", "convolutions"."""
    layer_naming: ClassVar[LayerNaming]
    denoiser_kind: ClassVar[DenoiserKind]
    b_lora_blocks: ClassVar[Mapping[str, str]]
    """Paths of the blocks for content and style (Frenkel et al. 2024), by "content" and "style"; empty if they are not
    known."""

    encoder_names: tuple[str, ...]
    """Names of the text encoders in embedding files, in the order of `text_encoders`."""
    denoiser: Any
    """diffusers' UNet or transformer, frozen. Its weights may be on the meta device until `to` is called."""
    vae: Any
    """None if other modules, used only by the family itself, encode and decode images."""
    text_encoders: list[Any]
    """Text encoders that can learn new tokens; empty if prompts are encoded by frozen models."""
    tokenizers: list[Any]
    """Tokenizers of `text_encoders`, in the same order."""
    noise_process: NoiseProcess

    @property
    def defaults(self) -> FamilyDefaults:
        """Default values of the base model for settings that are not given."""

    @property
    def guidance_kind(self) -> GuidanceKind:
        """The meaning of guidance_scale for the base model."""

    @property
    def training_notes(self) -> tuple[str, ...]:
        """Notes for users before they train this base model, such as what it loses by it; one line each."""

    @property
    def architecture(self) -> str:
        """Name of the architecture in `modelspec.architecture`."""

    @property
    def base_model_version(self) -> str:
        """Name of the architecture in `ss_base_model_version`."""

    @property
    def timestep_ends(self) -> tuple[float, float]:
        """The denoiser's timestep inputs for clean latents and for pure noise."""

    @property
    def idle_modules(self) -> tuple[str, ...]:
        """Paths of layers whose output is not used: an adapter there would not be trained."""

    @property
    def native_resolution(self) -> int:
        """Native resolution of the base model: side of a square in pixels."""

    @property
    def size_multiple(self) -> int:
        """Widths and heights in pixels must be multiples of this."""

    @property
    def largest_side(self) -> int | None:
        """The longest side in pixels for which the base model has positions; None: limited only by memory."""

    @property
    def device(self) -> torch.device: ...

    def to(self, device: torch.device) -> "ModelFamily": ...

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] → the cached tensor, fp32 (B, X, h, w): moments of the latents' posterior, or
        deterministic latents. Only `latent_shape` and `latents` interpret X."""

    def latent_shape(self, cached: torch.Size) -> torch.Size:
        """The shape (B, C, h, w) of the latents, for the shape (B, X, h, w) of the cached tensor."""

    def latents(self, cached: Tensor, noise: Tensor) -> Tensor:
        """Normalised latents for the denoiser: (B, C, h, w). `noise`: (B, C, h, w), for sampling from the posterior;
        ignored by families with deterministic latents. Packing into patches belongs into `denoise`."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) as `latents` returns them → pixels (B, 3, H, W), in about [-1, 1], fp32."""

    def offload_picture_parts(self) -> None:
        """Move the modules that encode and decode images to the CPU; `to` moves them back."""

    def encode_prompts(self, prompts: Sequence[str]) -> PromptFeatures:
        """Features of placeholder-expanded prompts, with gradients if tokens or encoders are trained."""

    def denoise(
        self,
        noised: Tensor,
        timesteps: Tensor,
        prompts: PromptFeatures,
        sizes: Sequence[SizeConditioning],
        conditioning: Conditioning | None = None,
    ) -> Tensor:
        """The prediction for noised latents (B, C, h, w) at `timesteps` (B,): fp32 (B, C, h, w).

        Raises ValueError for parts of `conditioning` that the family does not support.
        """

    def pipeline(self) -> Any:
        """A diffusers pipeline with the same modules (without copies)."""

    def pipeline_inputs(self, wanted: PromptFeatures, unwanted: PromptFeatures) -> dict[str, Any]:
        """The two prompts as arguments of that pipeline."""


class PromptReader(Protocol):
    """The interface for encoding prompts, of a family or of another model with its own text encoders."""

    name: ClassVar[str]
    text_encoders: list[Any]
    tokenizers: list[Any]

    @property
    def device(self) -> torch.device: ...

    def encode_prompts(self, prompts: Sequence[str]) -> PromptFeatures:
        """Features of placeholder-expanded prompts."""


@runtime_checkable
class ReadsByFrozenModel(Protocol):
    """A family whose prompts are encoded by a frozen language model (`families.parts.frozen_text`).

    `encode_prompts` encodes a prompt once; later its features are read from memory or disk without the model.
    """

    def keep_prompts(self, folder: Path) -> None:
        """Store the features of all prompts in this folder, and use those that it already contains."""

    def read_ahead(self, prompts: Sequence[str]) -> None:
        """Encode these prompts and free the model; called before the denoiser's weights are loaded."""

    def count_tokens(self, prompt: str) -> tuple[int, int]:
        """The number of tokens of the prompt, and the maximum; the rest would be truncated."""


@runtime_checkable
class ReadsByClip(Protocol):
    """A family that encodes prompts by CLIP text encoders only, with concatenated states.

    It supports clip skip, weighted words, and long prompts encoded in parts.
    """

    def encode_prompts_early(self, prompts: Sequence[str], clip_skip: int) -> PromptFeatures:
        """As `encode_prompts`, with the last `clip_skip` layers of each encoder left out, as diffusers counts them."""

    def encoder_states(self, number: int, output: Any, clip_skip: int) -> Tensor:
        """The states that the denoiser gets from the output of encoder `number`, which has the hidden states of every
        layer: (B, L, D)."""


class Refiner(PromptReader, Protocol):
    """A second model for the last steps, with its own text encoders."""

    noise_process: NoiseProcess

    def to(self, device: torch.device) -> "Refiner": ...

    def pipeline(self) -> Any:
        """A diffusers pipeline with its modules that continues from noisy latents."""

    def pipeline_inputs(self, wanted: PromptFeatures, unwanted: PromptFeatures) -> dict[str, Any]:
        """The two prompts as arguments of that pipeline."""

    def require_goes_with(self, base: ModelFamily) -> None:
        """Raises BaseModelError if it cannot continue from partly denoised latents of this base model."""


@runtime_checkable
class HasRefiner(Protocol):
    """A family with refiners."""

    def load_refiner(self, refiner: str, dtype: torch.dtype) -> Refiner:
        """Load a refiner: a hub id or a folder in diffusers' layout. Raises BaseModelError."""


@runtime_checkable
class HasFurtherStages(Protocol):
    """A family with further frozen networks between the denoiser and the image."""

    @property
    def further_stages(self) -> Mapping[str, Any]:
        """These networks, frozen, by their folders in diffusers' layout."""


@runtime_checkable
class Restoring(Protocol):
    """A family whose denoiser reconstructs an image from its coarse latents, and cannot generate one from a prompt.

    Images are uint8 (B, 3, H, W).
    """

    condition_sizes: ClassVar[tuple[float, float]]
    """Smallest and largest side of the condition in training, relative to the image."""
    condition_dropout: ClassVar[float]
    """Share of the images that are trained without a condition."""

    def training_condition(self, pictures: Tensor, size: float) -> Conditioning:
        """The coarse latents of the images at `size` times their sides."""

    def condition(self, pictures: Tensor) -> Conditioning:
        """The coarse latents of the images as in sampling."""

    def restored(
        self, pictures: Tensor, prompts: PromptFeatures, generator: Sequence[torch.Generator], num_inference_steps: int,
        guidance_scale: float,
    ) -> Tensor:  # fmt: skip
        """Images reconstructed from the coarse latents: fp32 (B, 3, H, W) in [0, 1]."""


@runtime_checkable
class HasLimitedLicence(Protocol):
    """A family whose weights have a restrictive licence."""

    limited_licence: str
    """The licence of the weights, and its consequence for models trained from them, as a clause."""


def further_stages(family: ModelFamily) -> Mapping[str, Any]:
    """The networks after the family's denoiser; empty for most families."""
    return family.further_stages if isinstance(family, HasFurtherStages) else {}


def restoring(family: ModelFamily) -> Restoring | None:
    """The family's interface for reconstructing images; None if it generates from prompts."""
    return family if isinstance(family, Restoring) else None


def limited_licence(family: ModelFamily) -> str | None:
    """The family's licence note; None if there is none."""
    return family.limited_licence if isinstance(family, HasLimitedLicence) else None


def clip_reader(reader: PromptReader) -> ReadsByClip | None:
    """The interface for weights, long prompts and clip skip; None if it is not supported."""
    return reader if isinstance(reader, ReadsByClip) else None


def frozen_reader(reader: PromptReader) -> ReadsByFrozenModel | None:
    """The interface for encoding prompts in advance; None if its text encoders can be trained."""
    return reader if isinstance(reader, ReadsByFrozenModel) else None


def refinable(family: ModelFamily) -> HasRefiner | None:
    """The family's interface for refiners; None if there are none."""
    return family if isinstance(family, HasRefiner) else None
