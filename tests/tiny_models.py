"""Tiny random base models of every family, written as folders in diffusers' layout in well under a second each.

Their weights are random (always the same ones), so they are for tests of how the code works, not of what is learned.
CLIP's tokenizer is the embedded base model's; those of T5 and of language models have single letters. All models are
for 64 × 64 pixels, which the VAEs in this file reduce to 16 × 16.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTokenizer,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from families.family import ModelFamily
from families.loading.sources import EMBEDDED_BASE_FOLDER
from families.registry import load_base_model
from tests.tiny_cascade import write_cascade
from tests.tiny_qwen_image import write_qwen_image

SIDE = 64
CHANNELS = (16, 32)
SCALED_LINEAR = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def write_sd15(folder: Path) -> Path:
    """SD1.5: one text encoder, ε, and PNDM as the real model has."""
    return _write_sd1(folder, PNDMScheduler(**SCALED_LINEAR, skip_prk_steps=True, steps_offset=1))


def write_sd2_v(folder: Path, *, zero_terminal_snr: bool = False) -> Path:
    """SD2 at 768: v-prediction, linear projections."""
    scheduler = DDIMScheduler(
        **SCALED_LINEAR,
        prediction_type="v_prediction",
        clip_sample=False,
        rescale_betas_zero_snr=zero_terminal_snr,
        timestep_spacing="trailing" if zero_terminal_snr else "leading",
    )
    return _write_sd1(folder, scheduler, use_linear_projection=True)


def write_sd15_inpainting(folder: Path) -> Path:
    """A model that is refused: its UNet also gets a mask and the masked image."""
    return _write_sd1(folder, PNDMScheduler(**SCALED_LINEAR, skip_prk_steps=True), in_channels=9)


def write_sdxl(folder: Path, *, prediction_type: str = "epsilon") -> Path:
    """SDXL: two text encoders, size conditioning; "v_prediction" as NoobAI has it."""
    torch.manual_seed(0)
    unet = _unet(
        cross_attention_dim=32 + 48,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=48 + 6 * 8,
        transformer_layers_per_block=(1, 2),
    )
    pipeline = StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_clip("CLIPTextModel", 32),
        text_encoder_2=tiny_clip("CLIPTextModelWithProjection", 48),
        tokenizer=tiny_tokenizer(),
        tokenizer_2=tiny_tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(**SCALED_LINEAR, prediction_type=prediction_type, steps_offset=1),
        add_watermarker=False,
    )
    return _save(pipeline, folder)


def write_sdxl_v(folder: Path) -> Path:
    """SDXL with v-prediction."""
    return write_sdxl(folder, prediction_type="v_prediction")


def write_sdxl_refiner(folder: Path, *, encoder_layers: int = 2) -> Path:
    """SDXL's refiner for `write_sdxl`: only the second text encoder, and an aesthetic score among the sizes."""
    torch.manual_seed(1)
    unet = _unet(
        cross_attention_dim=48,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=48 + 5 * 8,
    )
    pipeline = StableDiffusionXLImg2ImgPipeline(
        vae=tiny_vae(),
        text_encoder=None,
        text_encoder_2=tiny_clip("CLIPTextModelWithProjection", 48, encoder_layers),
        tokenizer=None,
        tokenizer_2=tiny_tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(**SCALED_LINEAR, steps_offset=1),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    return _save(pipeline, folder)


def write_sd3(folder: Path, *, t5: bool = True, medium_35: bool = False) -> Path:
    """SD3, or 3.5 medium with its second attention: two CLIPs and, if wanted, T5."""
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=SIDE // 4,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_projection_dim=32,
        joint_attention_dim=96,
        pooled_projection_dim=32 + 48,
        out_channels=4,
        pos_embed_max_size=32,
        qk_norm="rms_norm" if medium_35 else None,
        dual_attention_layers=(0,) if medium_35 else (),
    )
    clip_l = tiny_clip("CLIPTextModelWithProjection", 32)
    torch.nn.init.eye_(clip_l.text_projection.weight)  # as in SD3: single files do not have it
    pipeline = StableDiffusion3Pipeline(
        transformer=_randomise(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_vae(scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_l,
        tokenizer=tiny_tokenizer(),
        text_encoder_2=tiny_clip("CLIPTextModelWithProjection", 48),
        tokenizer_2=tiny_tokenizer(),
        text_encoder_3=tiny_t5() if t5 else None,
        tokenizer_3=tiny_t5_tokenizer() if t5 else None,
    )
    return _save(pipeline, folder)


def write_flux1(folder: Path, *, schnell: bool = False, **transformer: Any) -> Path:
    """FLUX.1 dev, or schnell: CLIP's pooled vector and T5."""
    torch.manual_seed(0)
    config = {
        "in_channels": 16, "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
        "joint_attention_dim": 96, "pooled_projection_dim": 32, "guidance_embeds": not schnell,
        "axes_dims_rope": (4, 4, 8),
    }  # fmt: skip
    pipeline = FluxPipeline(
        transformer=_randomise(FluxTransformer2DModel(**config | transformer)),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0 if schnell else 3.0, use_dynamic_shifting=not schnell),
        vae=tiny_vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=tiny_clip("CLIPTextModel", 32),
        tokenizer=tiny_tokenizer(),
        text_encoder_2=tiny_t5(),
        tokenizer_2=tiny_t5_tokenizer(),
    )
    return _save(pipeline, folder)


def write_flux2(folder: Path, *, distilled: bool = False) -> Path:
    """FLUX.2 klein's base model, or klein: Qwen3, whose 27th layer is used."""
    torch.manual_seed(0)
    tokenizer = tiny_chat_tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=28, num_attention_heads=1,
        num_key_value_heads=1, head_dim=16,
    )  # fmt: skip
    pipeline = Flux2KleinPipeline(
        transformer=_flux2_transformer(joint_attention_dim=48, guidance_embeds=False),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_flux2_vae(),
        text_encoder=Qwen3ForCausalLM(config),
        tokenizer=tokenizer,
        is_distilled=distilled,
    )
    return _save(pipeline, folder)


def write_flux2_dev(folder: Path) -> Path:
    """FLUX.2 dev: Mistral, whose 30th layer is used, and an input for guidance. Its tokenizer replaces the processor,
    which would also process images."""
    torch.manual_seed(0)
    tokenizer = tiny_chat_tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}[{{ message.role }}]{% for part in message.content %}{{ part.text }}{% endfor %}"
        "{% endfor %}"
    )
    text = {
        "model_type": "mistral", "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16,
        "num_hidden_layers": 31, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16,
    }  # fmt: skip
    vision = {
        "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 1, "head_dim": 16, "image_size": 32, "patch_size": 16,
    }  # fmt: skip
    pipeline = Flux2Pipeline(
        transformer=_flux2_transformer(joint_attention_dim=48, guidance_embeds=True),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_flux2_vae(),
        text_encoder=Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision)),
        tokenizer=tokenizer,
    )
    return _save(pipeline, folder)


def write_z_image(folder: Path, *, turbo: bool = False) -> Path:
    """Z-Image, or Turbo, which has another shift: Qwen3, whose second-to-last layer is used."""
    torch.manual_seed(0)
    tokenizer = tiny_chat_tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    transformer = ZImageTransformer2DModel(
        dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16, axes_dims=[4, 6, 6],
        axes_lens=[1024, 32, 32], in_channels=4,
    )  # fmt: skip
    pipeline = ZImagePipeline(
        transformer=_randomise(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0 if turbo else 6.0),
        vae=tiny_vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=Qwen3Model(config),
        tokenizer=tokenizer,
    )
    return _save(pipeline, folder)


def _flux2_transformer(**config: Any) -> Flux2Transformer2DModel:
    """A transformer whose blocks have a large effect, because their gates are large."""
    made = Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4), **config,
    )  # fmt: skip
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "_stream_modulation" in name:
                weight.normal_()
    return made


def _flux2_vae() -> AutoencoderKLFlux2:
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 16), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, layers_per_block=1, latent_channels=4, norm_num_groups=4,
        sample_size=SIDE,
    )  # fmt: skip
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    return vae


TINY_MODELS: Mapping[str, Callable[[Path], Path]] = {
    "sd15": write_sd15,
    "sd2-v": write_sd2_v,
    "sdxl": write_sdxl,
    "sdxl-v": write_sdxl_v,
    "sd3": write_sd3,
    "flux1": write_flux1,
    "flux2": write_flux2,
    "qwen_image": write_qwen_image,
    "z-image": write_z_image,
    "cascade": write_cascade,
}
"""Every kind with which trainings are tested."""


def load_tiny(kind: str, folder: Path) -> ModelFamily:
    """One of TINY_MODELS, written to `folder` and loaded on the CPU."""
    return opened(TINY_MODELS[kind](folder))


def opened(folder: Path) -> ModelFamily:
    """A base in fp32, with its weights on the CPU."""
    return load_base_model(str(folder), torch.float32).to(torch.device("cpu"))


def _write_sd1(folder: Path, scheduler: Any, **unet: Any) -> Path:
    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_clip("CLIPTextModel", 32),
        tokenizer=tiny_tokenizer(),
        unet=_unet(cross_attention_dim=32, **unet),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _save(pipeline, folder)


def _unet(**config: Any) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        **{
            "sample_size": SIDE // 4,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": CHANNELS,
            "layers_per_block": 2,
            "norm_num_groups": 8,
            "attention_head_dim": 4,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            **config,
        }
    )
    return _randomise(unet)


def tiny_vae(**config: Any) -> AutoencoderKL:
    """A VAE that reduces by 4, to 4 channels."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIDE,
        **config,
    )


def tiny_clip(kind: str, width: int, layers: int = 2) -> Any:
    """A text encoder of one of transformers' classes."""
    tokenizer = tiny_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return getattr(transformers, kind)(config)


def tiny_t5() -> T5EncoderModel:
    """A T5 encoder of width 96."""
    config = T5Config(
        vocab_size=len(tiny_t5_tokenizer()), d_model=96, d_kv=16, d_ff=64, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    return T5EncoderModel(config)


def tiny_tokenizer() -> CLIPTokenizer:
    """The embedded base model's tokenizer."""
    return CLIPTokenizer.from_pretrained(EMBEDDED_BASE_FOLDER / "tokenizer")


def tiny_t5_tokenizer() -> PreTrainedTokenizerFast:
    """A unigram tokenizer over single letters, with T5's special tokens."""
    letters = [(letter, -5.0) for letter in " abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ,.'<>0123456789"]
    tokenizer = Tokenizer(Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], unk_id=2))
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def tiny_chat_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of single letters, with a chat template like Qwen3's, including thoughts."""
    letters = [
        (letter, -5.0) for letter in " abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ,.'<>|_/\\n0123456789"
    ]
    tokenizer = Tokenizer(Unigram([("<|endoftext|>", 0.0), ("<unk>", 0.0), *letters], unk_id=1))
    template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|endoftext|>", unk_token="<unk>", model_max_length=4096,
        additional_special_tokens=["<|im_start|>", "<|im_end|>", "<think>", "</think>"],
    )  # fmt: skip
    made.chat_template = template
    return made


def _randomise(denoiser: Any) -> Any:
    """Sets parameters that are zeros to random values: layers that start as zeros (the last one, SD3's modulations)
    would hide the effect of others."""
    with torch.no_grad():
        for parameter in denoiser.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return denoiser


def _save(pipeline: Any, folder: Path) -> Path:
    pipeline.save_pretrained(folder)
    return folder
