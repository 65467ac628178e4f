"""Bases of full size with random weights: their speed and memory are those of trained ones, without a download.

python -m benchmarks.speed.full_size {sdxl,sd15,sd35,flux2-klein-4b,z-image} FOLDER
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from families.loading.sources import EMBEDDED_BASE_FOLDER, EMBEDDED_BASES
from settings.command_line.parser import CommandParser

SD15_UNET: Mapping[str, Any] = {"cross_attention_dim": 768, "sample_size": 64}
SDXL_UNET: Mapping[str, Any] = {
    "sample_size": 128, "cross_attention_dim": 2048, "transformer_layers_per_block": (1, 2, 10),
    "block_out_channels": (320, 640, 1280), "attention_head_dim": (5, 10, 20), "use_linear_projection": True,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
SD35_MEDIUM: Mapping[str, Any] = {
    "sample_size": 128, "num_layers": 24, "num_attention_heads": 24, "attention_head_dim": 64, "in_channels": 16,
    "out_channels": 16, "caption_projection_dim": 1536, "joint_attention_dim": 4096, "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm",
}  # fmt: skip
KLEIN_4B: Mapping[str, Any] = {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24,
                               "joint_attention_dim": 7680, "guidance_embeds": False}  # fmt: skip
CLIP_L: Mapping[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
                             "intermediate_size": 3072, "projection_dim": 768}  # fmt: skip
CLIP_G: Mapping[str, Any] = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20,
                             "intermediate_size": 5120, "projection_dim": 1280, "hidden_act": "gelu"}  # fmt: skip
VAE: Mapping[str, Any] = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
                          "down_block_types": ("DownEncoderBlock2D",) * 4,
                          "up_block_types": ("UpDecoderBlock2D",) * 4}  # fmt: skip
SCALED_LINEAR: Mapping[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def main() -> None:
    """Write one of them in diffusers' layout, in bf16."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", choices=FULL_SIZE)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    print(write_full_size(arguments.base, arguments.folder))


def write_full_size(base: str, folder: Path) -> Path:
    """Generate the weights, on a GPU if there is one, and write them. 3 to 7 GB."""
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"), _default_dtype(torch.bfloat16):
        pipeline = FULL_SIZE[base]()
    pipeline.save_pretrained(folder)
    return folder


def sd15() -> StableDiffusionPipeline:
    """SD1.5: 0.86 billion parameters in the UNet."""
    return StableDiffusionPipeline(
        vae=AutoencoderKL(**VAE, sample_size=512),
        text_encoder=CLIPTextModel(clip(CLIP_L)),
        tokenizer=tokenizer(),
        unet=UNet2DConditionModel(**SD15_UNET),
        scheduler=scheduler(DDIMScheduler, **SCALED_LINEAR, clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> StableDiffusionXLPipeline:
    """SDXL: 2.57 billion parameters in the UNet."""
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL(**VAE, sample_size=1024, scaling_factor=0.13025),
        text_encoder=CLIPTextModel(clip(CLIP_L)),
        text_encoder_2=CLIPTextModelWithProjection(clip(CLIP_G)),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=UNet2DConditionModel(**SDXL_UNET),
        scheduler=scheduler(EulerDiscreteScheduler, **SCALED_LINEAR, steps_offset=1),
        add_watermarker=False,
    )


def sd35() -> StableDiffusion3Pipeline:
    """SD3.5 medium: 2.2 billion parameters in the transformer. Without T5, which is optional there."""
    return StableDiffusion3Pipeline(
        vae=AutoencoderKL(**VAE, sample_size=1024, latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609,
                          use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModelWithProjection(clip(CLIP_L)),
        text_encoder_2=CLIPTextModelWithProjection(clip(CLIP_G)),
        text_encoder_3=None,
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        tokenizer_3=None,
        transformer=SD3Transformer2DModel(**SD35_MEDIUM),
        scheduler=scheduler(FlowMatchEulerDiscreteScheduler, shift=3.0),
    )  # fmt: skip


def flux2_klein_4b() -> Flux2KleinPipeline:
    """FLUX.2 klein's base model: 3.9 billion parameters in the transformer."""
    words = chat_tokenizer()
    return Flux2KleinPipeline(
        transformer=Flux2Transformer2DModel(**KLEIN_4B),
        scheduler=scheduler(FlowMatchEulerDiscreteScheduler, shift=3.0, use_dynamic_shifting=True),
        vae=AutoencoderKLFlux2(),
        text_encoder=Qwen3ForCausalLM(narrow_qwen3(words, layers=28)),
        tokenizer=words,
        is_distilled=False,
    )


def z_image() -> ZImagePipeline:
    """Z-Image: 6.2 billion parameters in the transformer."""
    words = chat_tokenizer()
    return ZImagePipeline(
        transformer=ZImageTransformer2DModel(),
        scheduler=scheduler(FlowMatchEulerDiscreteScheduler, shift=6.0),
        vae=AutoencoderKL(**VAE, sample_size=1024, latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159,
                          use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=Qwen3Model(narrow_qwen3(words, layers=3)),
        tokenizer=words,
    )  # fmt: skip


FULL_SIZE: Mapping[str, Callable[[], Any]] = {
    "sdxl": sdxl, "sd15": sd15, "sd35": sd35, "flux2-klein-4b": flux2_klein_4b, "z-image": z_image,
}  # fmt: skip


def narrow_qwen3(words: Any, layers: int) -> Qwen3Config:
    """Qwen3 4B's width of features, 2560, from a much smaller model: prompts are encoded before the steps and the model
    is freed, so that the speed of the steps does not depend on it."""
    return Qwen3Config(
        vocab_size=len(words), hidden_size=2560, intermediate_size=128, num_hidden_layers=layers,
        num_attention_heads=1, num_key_value_heads=1, head_dim=128,
    )  # fmt: skip


def chat_tokenizer() -> Any:
    """Return the tokenizer of the embedded base with flow matching, with Qwen3's template."""
    return AutoTokenizer.from_pretrained(EMBEDDED_BASES["mini-flow"] / "tokenizer")


def clip(sizes: Mapping[str, Any]) -> CLIPTextConfig:
    """Return a configuration with the real vocabulary size, whose special tokens are those of `tokenizer`."""
    words = tokenizer()
    return CLIPTextConfig(
        **sizes,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )


def tokenizer() -> CLIPTokenizer:
    """Return the embedded base's tokenizer, which pads all prompts to the same length, 77."""
    return CLIPTokenizer.from_pretrained(EMBEDDED_BASE_FOLDER / "tokenizer")


def scheduler(kind: Callable[..., Any], **settings: Any) -> Any:
    """Create a scheduler on the CPU."""
    with torch.device("cpu"):
        return kind(**settings)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


if __name__ == "__main__":
    main()
