"""A tiny random Qwen-Image, written as a folder in diffusers' layout."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

WIDTH = 32
CHANNELS = 4
MEAN, DEVIATION = [-0.7571, 0.1075, 0.9653, -0.0715], [2.8184, 1.4541, 0.6558, 1.2196]
SHIFT = {
    "use_dynamic_shifting": True, "time_shift_type": "exponential", "shift_terminal": 0.02,
    "base_image_seq_len": 256, "base_shift": 0.5, "max_image_seq_len": 8192, "max_shift": 0.9,
}  # fmt: skip
"""Values of the real base model's scheduler."""
WORDS = (
    *("system", "user", "assistant", "Describe", "the", "image", "by", "detailing", "color", "shape", "size"),
    *("texture", "quantity", "text", "spatial", "relationships", "of", "objects", "and", "background"),
)
"""Each word is one token of the real tokenizer too, so the template has the right length."""


def write_qwen_image(folder: Path, **transformer: Any) -> Path:
    """Qwen-Image with two blocks; its VAE reduces by 4, to 4 channels."""
    torch.manual_seed(0)
    config = {
        "in_channels": 4 * CHANNELS, "out_channels": CHANNELS, "num_layers": 2, "attention_head_dim": 16,
        "num_attention_heads": 2, "joint_attention_dim": WIDTH, "axes_dims_rope": (4, 6, 6),
    }  # fmt: skip
    made = QwenImageTransformer2DModel(**config | transformer)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "_mod." in name:
                weight.normal_()  # large gates: blocks have a large effect
    pipeline = QwenImagePipeline(
        transformer=made,
        scheduler=FlowMatchEulerDiscreteScheduler(**SHIFT),
        vae=tiny_qwen_vae(),
        text_encoder=tiny_qwen_encoder(),
        tokenizer=tiny_qwen_tokenizer(),
    )
    pipeline.save_pretrained(folder)
    return folder


def tiny_qwen_vae() -> AutoencoderKLQwenImage:
    """A VAE whose statistics differ between channels."""
    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=MEAN,
        latents_std=DEVIATION,
    )


def tiny_qwen_encoder() -> Qwen2_5_VLForConditionalGeneration:
    """An encoder with two layers for text, and one for images, which no test uses."""
    size = len(tiny_qwen_tokenizer())
    text = {
        "vocab_size": size, "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "bos_token_id": 0, "eos_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    ids = dict.fromkeys(("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"), size - 1)
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids))


def tiny_qwen_tokenizer() -> Qwen2Tokenizer:
    """A tokenizer of bytes, the words of the template, and the special tokens of a chat."""
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>"]
    vocabulary = {token: number for number, token in enumerate([*marks[:1], *sorted(ByteLevel.alphabet())])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_tokens([f"{space}{word}" for word in WORDS for space in (" ", "")])
    tokenizer.add_tokens(marks[1:], special_tokens=True)
    return tokenizer
