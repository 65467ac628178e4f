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
"""classifier-free: a second pass for the negative prompt (Ho & Salimans 2022). embedded: an input of a distilled
denoiser, which reads no negative prompt (Meng et al. 2023). none: distilled, without a strength."""
DenoiserKind = Literal["unet", "transformer"]
LayerNaming = Literal["kohya_sgm", "kohya", "kohya_prior", "kohya_decoder", "peft"]
"""How LoRA files name a denoiser's layers: kohya's over Stability's blocks, diffusers', those of a prior or of
its decoder; or dotted paths."""


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
    denoiser_kind: ClassVar[DenoiserKind]
    b_lora_blocks: ClassVar[Mapping[str, str]]
    """Paths of the blocks that hold content and style (Frenkel et al. 2024), by "content" and "style"; empty where it
    is not known."""

    encoder_names: tuple[str, ...]
    """Names of the text encoders in embedding files, in the order of `text_encoders`."""
    denoiser: Any
    """diffusers' UNet or transformer, frozen. Its weights may be on the meta device until `to` is called."""
    vae: Any
    """None where other parts encode and decode pictures: only the family itself uses it."""
    text_encoders: list[Any]
    """Those that can learn new words; empty where prompts are read by models that never learn."""
    tokenizers: list[Any]
    """Of `text_encoders`, in their order."""
    noise_process: NoiseProcess

    @property
    def defaults(self) -> FamilyDefaults:
        """What the base wants where the user left a setting open."""

    @property
    def guidance_kind(self) -> GuidanceKind:
        """What guidance_scale means to the base."""

    @property
    def training_notes(self) -> tuple[str, ...]:
        """What users should know before they train this very base, such as what it loses by it; a line each."""

    @property
    def architecture(self) -> str:
        """Name of the architecture in `modelspec.architecture`."""

    @property
    def base_model_version(self) -> str:
        """Name of the architecture in `ss_base_model_version`."""

    @property
    def timestep_ends(self) -> tuple[float, float]:
        """What the denoiser itself reads as its timestep for clean latents and for pure noise."""

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
        """(B, 3, H, W) in [-1, 1] → what is cached of them, fp32 (B, X, h, w): moments of the latents' posterior, or
        the latents where they are no draw. Only `latent_shape` and `latents` know what X holds."""

    def latent_shape(self, cached: torch.Size) -> torch.Size:
        """The shape (B, C, h, w) of the latents, for the shape (B, X, h, w) of what is cached."""

    def latents(self, cached: Tensor, noise: Tensor) -> Tensor:
        """Latents as the denoiser wants them, normalised: (B, C, h, w). `noise`: (B, C, h, w), for the draw from the
        posterior; a family without a draw leaves it aside. Packing into patches belongs into `denoise`."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) as `latents` returns them → pixels (B, 3, H, W), in about [-1, 1], fp32."""

    def offload_picture_parts(self) -> None:
        """Move what encodes and decodes pictures to the CPU; `to` brings it back."""

    def encode_prompts(self, prompts: Sequence[str]) -> PromptFeatures:
        """Features of placeholder-expanded prompts. Carries gradients where tokens or encoders are trained."""

    def denoise(
        self,
        noised: Tensor,
        timesteps: Tensor,
        prompts: PromptFeatures,
        sizes: Sequence[SizeConditioning],
        conditioning: Conditioning | None = None,
    ) -> Tensor:
        """The prediction for noised latents (B, C, h, w) at `timesteps` (B,): fp32 (B, C, h, w).

        Raises ValueError for parts of `conditioning` that the family does not read.
        """

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
class ReadsByFrozenModel(Protocol):
    """A family whose prompts are read by a language model that never learns (`families.parts.frozen_text`).

    `encode_prompts` reads a prompt once; later its features come from memory or disk, and the model need not be loaded.
    """

    def keep_prompts(self, folder: Path) -> None:
        """Keep the features of all prompts in this folder, and use those that are there."""

    def read_ahead(self, prompts: Sequence[str]) -> None:
        """Read these prompts now, and free the model: called before the denoiser's weights are loaded."""

    def count_tokens(self, prompt: str) -> tuple[int, int]:
        """Tokens of the prompt, and how many are read: those behind would be lost."""


@runtime_checkable
class ReadsByClip(Protocol):
    """A family that reads prompts by CLIP text encoders alone, their states side by side.

    They may stop early ("clip skip"), words may be weighted, and a long prompt may be read in parts.
    """

    def encode_prompts_early(self, prompts: Sequence[str], clip_skip: int) -> PromptFeatures:
        """As `encode_prompts`, with the last `clip_skip` layers of each encoder left out, as diffusers counts them."""

    def encoder_states(self, number: int, output: Any, clip_skip: int) -> Tensor:
        """What the denoiser reads of the output of encoder `number`, hidden states of every layer in it: (B, L, D)."""


class Refiner(PromptReader, Protocol):
    """A second model that draws the last steps, with text encoders of its own."""

    noise_process: NoiseProcess

    def to(self, device: torch.device) -> "Refiner": ...

    def pipeline(self) -> Any:
        """A diffusers pipeline over its modules that goes on from noisy latents."""

    def pipeline_inputs(self, wanted: PromptFeatures, unwanted: PromptFeatures) -> dict[str, Any]:
        """The two prompts as arguments of that pipeline."""

    def require_goes_with(self, base: ModelFamily) -> None:
        """Raises BaseModelError where it could not go on with half-drawn latents of this base."""


@runtime_checkable
class HasRefiner(Protocol):
    """A family for which refiners exist."""

    def load_refiner(self, refiner: str, dtype: torch.dtype) -> Refiner:
        """Open a refiner: a hub id or a folder in diffusers' layout. Raises BaseModelError."""


@runtime_checkable
class HasFurtherStages(Protocol):
    """A family whose pictures pass through other trained networks after the denoiser."""

    @property
    def further_stages(self) -> Mapping[str, Any]:
        """These networks, frozen, by the folders that hold them in diffusers' layout."""


@runtime_checkable
class Restoring(Protocol):
    """A family whose denoiser restores a picture from coarse latents of it, and draws none from a prompt alone.

    Pictures are uint8 (B, 3, H, W).
    """

    condition_sizes: ClassVar[tuple[float, float]]
    """Smallest and largest side of the pictures that are conditioned on in training, relative to the picture."""
    condition_dropout: ClassVar[float]
    """Share of the pictures that are trained without a condition."""

    def training_condition(self, pictures: Tensor, size: float) -> Conditioning:
        """The coarse latents of the pictures at `size` times their sides."""

    def condition(self, pictures: Tensor) -> Conditioning:
        """The coarse latents of the pictures as they are when a picture is drawn."""

    def restored(
        self, pictures: Tensor, prompts: PromptFeatures, generator: Sequence[torch.Generator], num_inference_steps: int,
        guidance_scale: float,
    ) -> Tensor:  # fmt: skip
        """What is drawn of the pictures' coarse latents: fp32 (B, 3, H, W) in [0, 1]."""


@runtime_checkable
class HasLimitedLicence(Protocol):
    """A family whose weights may not be used for everything."""

    limited_licence: str
    """What the weights are under, and what follows for what is trained from them, as a clause."""


def further_stages(family: ModelFamily) -> Mapping[str, Any]:
    """The networks after the family's denoiser; none for most."""
    return family.further_stages if isinstance(family, HasFurtherStages) else {}


def restoring(family: ModelFamily) -> Restoring | None:
    """The family's interface for restoring pictures; None where it draws from prompts."""
    return family if isinstance(family, Restoring) else None


def limited_licence(family: ModelFamily) -> str | None:
    """The family's own note; None where it has none."""
    return family.limited_licence if isinstance(family, HasLimitedLicence) else None


def clip_reader(reader: PromptReader) -> ReadsByClip | None:
    """The reader's own interface for weights, long prompts and clip skip; None where it has none."""
    return reader if isinstance(reader, ReadsByClip) else None


def frozen_reader(reader: PromptReader) -> ReadsByFrozenModel | None:
    """The reader's own interface for reading ahead; None where its text encoders can learn."""
    return reader if isinstance(reader, ReadsByFrozenModel) else None


def refinable(family: ModelFamily) -> HasRefiner | None:
    """The family's interface for refiners; None where none exist."""
    return family if isinstance(family, HasRefiner) else None
