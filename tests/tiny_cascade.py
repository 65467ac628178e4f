"""A tiny random Stable Cascade, written as a folder with Stage C in diffusers' layout and the other parts beside it."""

import json
from math import prod
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDPMWuerstchenScheduler,
    StableCascadeDecoderPipeline,
    StableCascadePriorPipeline,
    StableCascadeUNet,
)
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from families.cascade.efficient_net import EfficientNetEncoder
from families.loading.sources import EMBEDDED_BASE_FOLDER

WIDTH = 32
RESIDUAL = ("SDCascadeResBlock", "SDCascadeTimestepBlock")


def write_cascade(folder: Path, strides: tuple[int, int, int] = (1, 1, 1), **stage_c: Any) -> Path:
    """Writes the model. Its encoder reduces by 2 instead of 32, or by more with `strides`: 64 × 64 pixels have 24 × 24
    latents."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED_BASE_FOLDER / "tokenizer_2")
    prior = StableCascadePriorPipeline(
        tokenizer=tokenizer,
        text_encoder=_text_encoder(tokenizer),
        prior=tiny_stage_c(**stage_c),
        scheduler=DDPMWuerstchenScheduler(),
        resolution_multiple=8 / 3 * prod(strides),
    )
    prior.save_pretrained(folder)
    tiny_stage_b().save_pretrained(folder / "decoder")
    tiny_stage_a().save_pretrained(folder / "vqgan")
    tiny_encoder(strides).save_pretrained(folder / "effnet_encoder")
    return folder


def add_image_encoder(folder: Path, width: int = 16) -> Path:
    """Adds a tiny image encoder to Stage C's folder, as StableCascadePriorPipeline saves it. `width`: that of its
    embeddings."""
    config = CLIPVisionConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=16, patch_size=8,
        projection_dim=width,
    )  # fmt: skip
    torch.manual_seed(0)
    CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index["image_encoder"] = ["transformers", "CLIPVisionModelWithProjection"]
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def write_stage_b(folder: Path, stage_a: PaellaVQModel | None = None, **stage_b: Any) -> Path:
    """Writes Stages B and A in diffusers' layout, with the encoder beside them. `stage_a`: None for a random one."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED_BASE_FOLDER / "tokenizer_2")
    decoder = StableCascadeDecoderPipeline(
        tokenizer=tokenizer,
        text_encoder=_text_encoder(tokenizer),
        decoder=tiny_stage_b(**{"pixel_mapper_in_channels": 3} | stage_b),
        scheduler=DDPMWuerstchenScheduler(),
        vqgan=stage_a or tiny_stage_a(),
    )
    decoder.save_pretrained(folder)
    tiny_encoder((1, 1, 1)).save_pretrained(folder / "effnet_encoder")
    return folder


def tiny_stage_c(**config: Any) -> StableCascadeUNet:
    """A Stage C with one block of each kind on each level."""
    made = {
        "conditioning_dim": 32, "block_out_channels": (32, 32), "num_attention_heads": (2, 2),
        "down_num_layers_per_block": (1, 1), "up_num_layers_per_block": (1, 1), "switch_level": (False,),
        "clip_image_in_channels": 16, "clip_text_in_channels": WIDTH, "clip_text_pooled_in_channels": WIDTH,
    }  # fmt: skip
    return _alive(StableCascadeUNet(**made | config))


def tiny_stage_b(**config: Any) -> StableCascadeUNet:
    """A Stage B with two levels; the real one has four."""
    made = {
        "in_channels": 4, "out_channels": 4, "patch_size": 2, "conditioning_dim": 16, "block_out_channels": (8, 16),
        "num_attention_heads": (-1, 2), "down_num_layers_per_block": (1, 1), "up_num_layers_per_block": (1, 1),
        "down_blocks_repeat_mappers": (1, 1), "up_blocks_repeat_mappers": (2, 2),
        "block_types_per_layer": (RESIDUAL, (*RESIDUAL, "SDCascadeAttnBlock")), "switch_level": None,
        "clip_text_pooled_in_channels": WIDTH, "effnet_in_channels": 16, "timestep_conditioning_type": ("sca",),
        "dropout": (0.0, 0.1),
    }  # fmt: skip
    return _alive(StableCascadeUNet(**made | config))


def tiny_stage_a() -> PaellaVQModel:
    """A Stage A that reduces by 4, to 4 channels."""
    return PaellaVQModel(levels=2, bottleneck_blocks=1, embed_dim=8, latent_channels=4, num_vq_embeddings=64)


@torch.no_grad()
def averaging_stage_a() -> PaellaVQModel:
    """A Stage A whose latents are the mean colours of 4 × 4 pixels, with a variance of about 1, and zeros. It decodes
    them to squares."""
    made, colours = tiny_stage_a(), torch.eye(3)
    for parameter in made.parameters():
        parameter.zero_()  # residual blocks then add nothing
    made.in_block[1].weight[:3, :, 0, 0] = colours.repeat_interleave(4, dim=1) / 4
    halve, (narrow, norm) = made.down_blocks[1], made.down_blocks[3]
    halve.weight[:3, :3, 1:3, 1:3] = colours[:, :, None, None] / 4
    narrow.weight[:3, :3, 0, 0] = colours
    variance = 0.06 / made.config.scale_factor**2
    norm.weight.fill_(1.0)
    norm.running_mean[:3], norm.running_var[:3] = 0.5, variance
    widen, double = made.up_blocks[0][0], made.up_blocks[2]
    widen.weight[:3, :3, 0, 0], widen.bias[:3] = colours * variance**0.5, 0.5
    double.weight[:3, :3, 1:3, 1:3] = colours[:, :, None, None]
    made.out_block[0].weight[:, :3, 0, 0] = colours.repeat_interleave(4, dim=0)
    return made.eval()


def tiny_encoder(strides: tuple[int, int, int]) -> EfficientNetEncoder:
    """An encoder whose norms have the statistics of noise."""
    first, second, third = strides
    stages = (("fused", 1, first, 4, 1), ("fused", 2, second, 8, 2), ("mb", 2, third, 8, 2))
    encoder = EfficientNetEncoder(stages=stages, stem=4, features=16)
    with torch.no_grad():
        encoder.train()
        for _ in range(30):  # the norms' statistics
            encoder(torch.rand(4, 3, 24, 24))
    return encoder.eval()


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=77, projection_dim=WIDTH, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config)


def _alive(stage: StableCascadeUNet) -> StableCascadeUNet:
    """Sets parameters that are zeros to random values: norms of responses start as zeros, which would hide their
    effect."""
    with torch.no_grad():
        for parameter in stage.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return stage.eval()
