"""Z-Image and Z-Image Turbo: one stream of text and image tokens, trained with flow matching (Z-Image Team 2025). Qwen3
encodes the prompt. It is frozen and freed before the transformer's weights are loaded, so the trigger is a plain word.
The transformer's time is 0 for noise and 1 for the image, and it predicts the negative velocity.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from diffusers.loaders.single_file_utils import convert_z_image_transformer_checkpoint_to_diffusers
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from families.conditioning import refuse_conditioning
from families.family import (
    Conditioning,
    DenoiserKind,
    FamilyDefaults,
    GuidanceKind,
    LayerNaming,
    PromptFeatures,
    SizeConditioning,
)
from families.loading.opening import LoadingOptions, refuse_diffusion_options
from families.loading.pipeline_parts import PipelineParts
from families.loading.sources import BaseModelSource
from families.noise.flow_matching import FlowMatching
from families.noise.noise_process import NoiseProcess
from families.parts.chat_prompts import chat_text, chosen_states, padded_ids, require_chat_template
from families.parts.frozen_text import FrozenText, ReadPrompts, aside, reading_device
from families.parts.latents import (
    decoded,
    normalised,
    posterior_moments,
    posterior_shape,
    sample_posterior,
    unnormalised,
)

PATCH = 2
PARTS = {
    "scheduler": "FlowMatchEulerDiscreteScheduler",
    "vae": "AutoencoderKL",
    "transformer": "ZImageTransformer2DModel",
}
LANGUAGE_MODELS = ("Qwen3Model", "Qwen3ForCausalLM")
"""The official bases have the first; the second has a last layer that is not used."""
LENGTH = 512
"""Number of prompt tokens for Qwen3, including those of its template."""
LAYER = -2
"""The layer whose states are used: the last but one."""
BASE = FamilyDefaults(num_tokens=0, fewest_tokens=0, guidance_scale=4.0, num_inference_steps=50)
TURBO = FamilyDefaults(num_tokens=0, fewest_tokens=0, guidance_scale=0.0, num_inference_steps=9)
"""Steps and guidance are those of the official model cards."""
LARGEST_TURBO_SHIFT = 4.0
"""The two differ only in this: Turbo's scheduler has a shift of 3, that of the base model 6."""
TURBO_NOTE = (
    "this base model (Z-Image Turbo) is distilled to generate images in 8 steps without guidance. Training removes the "
    "distillation: samples with few steps become blurred. Train on Z-Image (Tongyi-MAI/Z-Image), and use the LoRA on "
    "Turbo; or set a training adapter for Turbo (training_adapter: FILE); or keep the training short."
)


class ZImage:
    """A Z-Image base, frozen. Implements `families.family.ModelFamily` and `ReadsByFrozenModel`."""

    name: ClassVar[str] = "z-image"
    pipeline_class_name: ClassVar[str] = "ZImagePipeline"
    adapter_modules: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "attention": ("to_q", "to_k", "to_v", "to_out.0"),
        "feed-forward": ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
        "convolutions": (),
    }
    layer_naming: ClassVar[LayerNaming] = "peft"
    denoiser_kind: ClassVar[DenoiserKind] = "transformer"
    b_lora_blocks: ClassVar[Mapping[str, str]] = {}
    timestep_ends: ClassVar[tuple[float, float]] = (1.0, 0.0)
    guidance_kind: GuidanceKind = "classifier-free"
    defaults: FamilyDefaults = BASE
    text_encoders: list[Any]
    tokenizers: list[Any]

    def __init__(self, parts: PipelineParts) -> None:
        self._parts = parts
        self.denoiser: Any = parts.skeleton("transformer", ZImageTransformer2DModel)
        self.vae: Any = parts.load("vae", AutoencoderKL)
        self.text_encoders, self.tokenizers = [], []
        self.encoder_names: tuple[str, ...] = ()
        self.device = torch.device("cpu")
        tokenizer = parts.load("tokenizer", AutoTokenizer)
        require_chat_template(tokenizer)
        self._pipeline = ZImagePipeline(
            scheduler=parts.load("scheduler", FlowMatchEulerDiscreteScheduler),
            vae=self.vae,
            text_encoder=None,
            tokenizer=tokenizer,
            transformer=self.denoiser,
        )
        self._pipeline.set_progress_bar_config(disable=True)
        self.noise_process: NoiseProcess = FlowMatching.from_scheduler(self._pipeline.scheduler, PATCH)
        self._is_turbo = float(self._pipeline.scheduler.config.shift) <= LARGEST_TURBO_SHIFT
        self.defaults = TURBO if self._is_turbo else BASE
        self._text = FrozenText(self._load_text_encoder, lambda: aside(self.denoiser))

    @classmethod
    def load(cls, source: BaseModelSource, options: LoadingOptions) -> "ZImage":
        """Locate the components, and load the small ones. Raises BaseModelError if one is missing or does not match."""
        refuse_diffusion_options(source, options)
        parts = PipelineParts.of(source, options, PARTS)
        parts.require({"text_encoder": _language_model(parts)})
        transformer = parts.config("transformer", ZImageTransformer2DModel)
        parts.require_equal(
            ("the transformer's in_channels", transformer["in_channels"]),
            ("the VAE's latent_channels", parts.config("vae", AutoencoderKL)["latent_channels"]),
        )
        parts.require_equal(
            ("the transformer's cap_feat_dim", transformer["cap_feat_dim"]),
            ("the text encoder's hidden_size", parts.config("text_encoder", AutoConfig)["hidden_size"]),
        )
        return cls(parts)

    @property
    def training_notes(self) -> tuple[str, ...]:
        return (TURBO_NOTE,) if self._is_turbo else ()

    @property
    def architecture(self) -> str:
        return "z-image-turbo" if self._is_turbo else "z-image"

    @property
    def base_model_version(self) -> str:
        return "zimage_turbo" if self._is_turbo else "zimage"

    @property
    def idle_modules(self) -> tuple[str, ...]:
        return ()

    @property
    def native_resolution(self) -> int:
        return int(self.vae.config.sample_size)

    @property
    def size_multiple(self) -> int:
        """The VAE's reduction times the patch: 16."""
        return int(self._pipeline.vae_scale_factor * PATCH)

    @property
    def largest_side(self) -> int | None:
        """The side for the number of position embeddings: 512 tokens, which is 8192 pixels."""
        return int(min(self.denoiser.config.axes_lens[1:]) * self.size_multiple)

    def to(self, device: torch.device) -> "ZImage":
        """Loads the transformer's weights when it is first called, directly to `device`."""
        if next(self.denoiser.parameters()).is_meta:
            convert = convert_z_image_transformer_checkpoint_to_diffusers
            self.denoiser = self._parts.denoiser("transformer", ZImageTransformer2DModel, convert, device)
            self._pipeline.register_modules(transformer=self.denoiser)
        self._pipeline.to(device)
        self.device = device
        return self

    def encode_image(self, pixels: Tensor) -> Tensor:
        return posterior_moments(self.vae, pixels)

    def latent_shape(self, cached: torch.Size) -> torch.Size:
        return posterior_shape(cached)

    def latents(self, cached: Tensor, noise: Tensor) -> Tensor:
        return normalised(self.vae, sample_posterior(cached, noise))

    def decode(self, latents: Tensor) -> Tensor:
        return decoded(self.vae, unnormalised(self.vae, latents))

    def offload_picture_parts(self) -> None:
        self.vae.to("cpu")

    def encode_prompts(self, prompts: Sequence[str]) -> PromptFeatures:
        """States of the prompt's own tokens (B, L, D), with a mask: prompts differ in length."""
        return self._text.features(prompts, self.device)

    def keep_prompts(self, folder: Path) -> None:
        self._text.keep_in(folder)

    def read_ahead(self, prompts: Sequence[str]) -> None:
        self._text.read_ahead(prompts)

    def count_tokens(self, prompt: str) -> tuple[int, int]:
        """Including the tokens of the chat template."""
        tokenizer = self._pipeline.tokenizer
        return len(tokenizer(chat_text(tokenizer, prompt, thinking=True)).input_ids), LENGTH

    def denoise(
        self,
        noised: Tensor,
        timesteps: Tensor,
        prompts: PromptFeatures,
        sizes: Sequence[SizeConditioning],
        conditioning: Conditioning | None = None,
    ) -> Tensor:
        """The velocity (B, C, h, w) in fp32. Sizes are ignored."""
        refuse_conditioning(conditioning, self.name)
        pictures = noised.to(prompts.prompt_embeds.dtype).unsqueeze(2)  # one frame of a video
        times = 1 - timesteps / self.noise_process.num_timesteps
        predictions = self.denoiser(list(pictures.unbind()), times, prompts.unpadded(), return_dict=False)[0]
        return -torch.stack(list(predictions)).squeeze(2).float()

    def pipeline(self) -> ZImagePipeline:
        """The pipeline over these modules, without its text encoder."""
        return self._pipeline

    def pipeline_inputs(self, wanted: PromptFeatures, unwanted: PromptFeatures) -> dict[str, Any]:
        """Lists of (Lᵢ, D). The negative prompt is read if guidance_scale is above 0."""
        return {"prompt_embeds": wanted.unpadded(), "negative_prompt_embeds": unwanted.unpadded()}

    def _load_text_encoder(self) -> ReadPrompts:
        model_class = getattr(transformers, _language_model(self._parts))
        model = self._parts.load("text_encoder", model_class).to(reading_device())
        tokenizer = self._pipeline.tokenizer

        def read(prompts: Sequence[str]) -> PromptFeatures:
            texts = [chat_text(tokenizer, prompt, thinking=True) for prompt in prompts]
            ids, mask = padded_ids(tokenizer, texts, LENGTH)
            states, counts = chosen_states(model, ids, mask, (LAYER,)), mask.bool().to(model.device)
            return PromptFeatures.of_lengths([row[own] for row, own in zip(states, counts, strict=True)])

        return read


def _language_model(parts: PipelineParts) -> str:
    """The text encoder's class in the base's index, if it is supported; otherwise the usual one."""
    named = (parts.index.get("text_encoder") or [None, None])[1]
    return named if named in LANGUAGE_MODELS else LANGUAGE_MODELS[0]
