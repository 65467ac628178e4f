"""The interface that a model family offers to trainer and sampler.

Shapes: B batch, L prompt tokens, D prompt width, C latent channels, H and W pixels, h and w latent pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from families.noise.noise_process import NoiseProcess

LayerNaming = Literal["kohya_sgm", "kohya", "peft"]
"""How LoRA files name a denoiser's layers: kohya's over Stability's blocks or diffusers', or dotted paths."""


@dataclass(frozen=True)
class PromptFeatures:
    """What the text encoders return for B prompts.

    `prompt_embeds`: (B, L, D). `pooled_prompt_embeds`: (B, P), None where the denoiser reads none. `prompt_mask`:
    (B, L), True at the positions that count; None where all of them do.
    """

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor | None = None
    prompt_mask: Tensor | None = None

    @property
    def length(self) -> int:
        """L."""
        return int(self.prompt_embeds.shape[1])

    @property
    def mask(self) -> Tensor:
        """(B, L), all True where there is no `prompt_mask`."""
        if self.prompt_mask is not None:
            return self.prompt_mask
        return self.prompt_embeds.new_ones(self.prompt_embeds.shape[:2], dtype=torch.bool)

    def rows(self, indices: Tensor) -> "PromptFeatures":
        """The features of some of the prompts, in the order of `indices` (N,); one may come several times."""
        found = indices.to(self.prompt_embeds.device, non_blocking=True)
        pooled, mask = self.pooled_prompt_embeds, self.prompt_mask
        return PromptFeatures(
            self.prompt_embeds[found],
            None if pooled is None else pooled[found],
            None if mask is None else mask[found],
        )

    def padded(self, length: int) -> "PromptFeatures":
        """With zeros behind, up to `length` positions, which do not count. Raises ValueError for a smaller length."""
        missing = length - self.length
        if missing < 0:
            raise ValueError(f"{self.length} positions do not fit into {length}")
        if missing == 0:
            return self
        embeds = functional.pad(self.prompt_embeds, (0, 0, 0, missing))
        return PromptFeatures(embeds, self.pooled_prompt_embeds, functional.pad(self.mask, (0, missing)))

    @staticmethod
    def joined(several: Sequence["PromptFeatures"]) -> "PromptFeatures":
        """All their prompts: (B₁ + B₂ + …, L, D). Shorter ones are padded to the longest, with a mask."""
        longest = max(each.length for each in several)
        alike = [each.padded(longest) for each in several]
        pooled = [each.pooled_prompt_embeds for each in alike if each.pooled_prompt_embeds is not None]
        masked = any(each.prompt_mask is not None for each in alike)
        return PromptFeatures(
            torch.cat([each.prompt_embeds for each in alike]),
            torch.cat(pooled) if pooled else None,
            torch.cat([each.mask for each in alike]) if masked else None,
        )


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
    b_lora_blocks: ClassVar[Mapping[str, str]]
    """Paths of the blocks that hold content and style (Frenkel et al. 2024), by "content" and "style"; empty where it
    is not known."""

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


def clip_reader(reader: PromptReader) -> ReadsByClip | None:
    """The reader's own interface for weights, long prompts and clip skip; None where it has none."""
    return reader if isinstance(reader, ReadsByClip) else None


def refinable(family: ModelFamily) -> HasRefiner | None:
    """The family's interface for refiners; None where none exist."""
    return family if isinstance(family, HasRefiner) else None
