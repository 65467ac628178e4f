"""A minimal family for tests, of the same kind as recent large models: a frozen language model encodes prompts,
features have masks, latents are packed and normalised by statistics, time is continuous and shifted by the image's
size, and the trigger is a plain word."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen3Config, Qwen3Model

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
from families.loading.opening import LoadingOptions
from families.loading.sources import BaseModelSource
from families.noise.flow_matching import FlowMatching, shift_by_tokens
from families.noise.noise_process import NoiseProcess
from families.parts.frozen_text import FrozenText, ReadPrompts
from tests.tiny_models import tiny_tokenizer

WIDTH, CHANNELS, REDUCTION, LONGEST = 16, 3, 4, 40
MEAN, STD = 0.1, 0.5
EVENTS: list[str] = []
"""The models that were loaded, in order."""


class ToyDenoiser(nn.Module):
    """One masked attention over packed patches of latents and text. Predicts the negative velocity."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(4 * CHANNELS + 2, WIDTH)
        self.text = nn.Linear(WIDTH, WIDTH)
        self.time = nn.Linear(2, WIDTH)
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.outside = nn.Linear(WIDTH, 4 * CHANNELS)

    def forward(self, patches: Tensor, places: Tensor, text: Tensor, mask: Tensor, time: Tensor) -> Tensor:
        """patches (B, N, 4C), places (N, 2), text (B, L, D), mask (B, L), time (B,) in 0 to 1 → (B, N, 4C)."""
        count = patches.shape[1]
        images = self.inside(torch.cat([patches, places.expand(len(patches), -1, -1)], dim=-1))
        images = images + self.time(torch.stack([time, (4 * time).sin()], dim=-1)).unsqueeze(1)
        tokens = torch.cat([images, self.text(text)], dim=1)
        counted = torch.cat([mask.new_ones(len(mask), count), mask], dim=1)[:, None, None]
        query, key, value = (layer(tokens).unsqueeze(1) for layer in (self.to_q, self.to_k, self.to_v))
        read = functional.scaled_dot_product_attention(query, key, value, attn_mask=counted).squeeze(1)
        return self.outside((tokens + self.to_out(read))[:, :count])


class ToyPipeline:
    """The parts of diffusers' pipeline interface that the sampler uses."""

    def __init__(self, family: "Toy") -> None:
        self._family = family
        self.scheduler = FlowMatchEulerDiscreteScheduler()
        self.num_timesteps = 0

    @torch.no_grad()
    def __call__(
        self,
        wanted: PromptFeatures,
        unwanted: PromptFeatures,
        width: int,
        height: int,
        num_inference_steps: int,
        guidance_scale: float,
        generator: Sequence[torch.Generator],
        callback_on_step_end: Callable[..., Any] | None = None,
    ) -> Any:
        family, shape = self._family, (CHANNELS, height // REDUCTION, width // REDUCTION)
        latents = torch.stack([torch.randn(shape, generator=each) for each in generator]).to(family.device)
        self.scheduler.set_timesteps(num_inference_steps)
        self.num_timesteps = num_inference_steps
        for number, time in enumerate(self.scheduler.timesteps):
            times = time.expand(len(latents))
            positive, negative = (family.denoise(latents, times, each, ()) for each in (wanted, unwanted))
            velocity = negative + guidance_scale * (positive - negative)
            latents = self.scheduler.step(velocity, time, latents).prev_sample
            if callback_on_step_end is not None:
                callback_on_step_end(self, number, time, {})
        self.images = [_picture(pixels) for pixels in family.decode(latents)]
        return self


class Toy:
    """Implements `families.family.ModelFamily` and `ReadsByFrozenModel`."""

    name: ClassVar[str] = "toy"
    pipeline_class_name: ClassVar[str] = "ToyPipeline"
    adapter_modules: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "attention": ("to_q", "to_k", "to_v", "to_out"), "feed-forward": (), "convolutions": (),
    }  # fmt: skip
    layer_naming: ClassVar[LayerNaming] = "peft"
    denoiser_kind: ClassVar[DenoiserKind] = "transformer"
    b_lora_blocks: ClassVar[Mapping[str, str]] = {}
    timestep_ends: ClassVar[tuple[float, float]] = (1.0, 0.0)
    guidance_kind: ClassVar[GuidanceKind] = "classifier-free"
    training_notes: ClassVar[tuple[str, ...]] = ()
    defaults: ClassVar[FamilyDefaults] = FamilyDefaults(
        learning_rate=3e-3, num_tokens=0, fewest_tokens=0, guidance_scale=2.0, num_inference_steps=3, resolution=32
    )
    architecture, base_model_version = "toy", "toy"
    idle_modules: tuple[str, ...] = ()
    native_resolution, size_multiple, largest_side = 64, 2 * REDUCTION, None

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self._folder, self._dtype = folder, dtype
        self.device = torch.device("cpu")
        with torch.device("meta"):
            self.denoiser: Any = ToyDenoiser().to(dtype).requires_grad_(False).eval()
        self.vae: Any = None
        self.text_encoders: list[Any] = []
        self.tokenizers: list[Any] = []
        self.encoder_names: tuple[str, ...] = ()
        self.noise_process: NoiseProcess = FlowMatching(shift_by_tokens(2, (16, 0.5), (64, 1.0)))
        self._text = FrozenText(self._load_text_model)
        self._tokenizer = tiny_tokenizer()
        self._pipeline = ToyPipeline(self)

    @classmethod
    def load(cls, source: BaseModelSource, options: LoadingOptions) -> "Toy":
        return cls(Path(source.location), options.dtype)

    def to(self, device: torch.device) -> "Toy":
        if next(self.denoiser.parameters()).is_meta:
            EVENTS.append("denoiser")
            tensors = {
                name: each.to(self._dtype) for name, each in load_file(self._folder / "denoiser.safetensors").items()
            }
            self.denoiser.load_state_dict(tensors, assign=True)
        self.denoiser.to(device)
        self.device = device
        return self

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return normalised latents; nothing is sampled."""
        return (functional.avg_pool2d(pixels.float(), REDUCTION) - MEAN) / STD

    def latent_shape(self, cached: torch.Size) -> torch.Size:
        return cached

    def latents(self, cached: Tensor, noise: Tensor) -> Tensor:
        return cached

    def decode(self, latents: Tensor) -> Tensor:
        return functional.interpolate((latents * STD + MEAN).float(), scale_factor=REDUCTION)

    def offload_picture_parts(self) -> None:
        """Do nothing: there are no such parts."""

    def encode_prompts(self, prompts: Sequence[str]) -> PromptFeatures:
        return self._text.features(prompts, self.device)

    def keep_prompts(self, folder: Path) -> None:
        self._text.keep_in(folder)

    def read_ahead(self, prompts: Sequence[str]) -> None:
        self._text.read_ahead(prompts)

    def count_tokens(self, prompt: str) -> tuple[int, int]:
        return len(self._tokenizer(prompt).input_ids), LONGEST

    def denoise(
        self,
        noised: Tensor,
        timesteps: Tensor,
        prompts: PromptFeatures,
        sizes: Sequence[SizeConditioning],
        conditioning: Conditioning | None = None,
    ) -> Tensor:
        """Predict the velocity. Time and sign are reversed, as in Z-Image."""
        refuse_conditioning(conditioning, self.name)
        height, width = noised.shape[2] // 2, noised.shape[3] // 2
        patches = functional.pixel_unshuffle(noised, 2).flatten(2).transpose(1, 2)
        rows, columns = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
        places = torch.stack([rows.flatten(), columns.flatten()], dim=-1).to(patches)
        time = (1 - timesteps / self.noise_process.num_timesteps).to(patches)
        output = -self.denoiser(patches, places, prompts.prompt_embeds, prompts.mask, time)
        return functional.pixel_shuffle(output.transpose(1, 2).unflatten(2, (height, width)), 2).float()

    def pipeline(self) -> ToyPipeline:
        return self._pipeline

    def pipeline_inputs(self, wanted: PromptFeatures, unwanted: PromptFeatures) -> dict[str, Any]:
        return {"wanted": wanted, "unwanted": unwanted}

    def _load_text_model(self) -> ReadPrompts:
        EVENTS.append("text")
        model = Qwen3Model.from_pretrained(self._folder / "text_encoder", dtype=self._dtype).eval()

        def read(prompts: Sequence[str]) -> PromptFeatures:
            ids = self._tokenizer(list(prompts), truncation=True, max_length=LONGEST, return_tensors="pt").input_ids
            (states,) = model(ids).last_hidden_state
            return PromptFeatures.of_lengths([states])

        return read


def write_toy(folder: Path) -> Path:
    """Write a base with random weights, which are the same each time, and return its folder."""
    torch.manual_seed(0)
    size = len(tiny_tokenizer())
    config = Qwen3Config(
        vocab_size=size, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    folder.mkdir()
    Qwen3Model(config).save_pretrained(folder / "text_encoder")
    save_file(ToyDenoiser().state_dict(), folder / "denoiser.safetensors")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": Toy.pipeline_class_name}), encoding="utf-8")
    return folder


def _picture(pixels: Tensor) -> Image.Image:
    values = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())
