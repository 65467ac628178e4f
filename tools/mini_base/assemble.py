"""Assembles the trained parts as a pipeline in SDXL's layout, in half precision, under assets/mini-sdxl."""

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from tools.mini_base.training.train_unet import SCHEDULE

KEPT = ("README.md", "grid.png", "evaluation.json")


def assemble(work: Path, assets: Path) -> None:
    """Write the pipeline and the image tower; model card and image grid are kept. The folder is replaced atomically."""
    new = assets.with_name(assets.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    pipeline = StableDiffusionXLPipeline(
        vae=AutoencoderKL.from_pretrained(work / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(work / "text_encoder"),
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(work / "text_encoder_2"),
        tokenizer=CLIPTokenizer.from_pretrained(work / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(work / "tokenizer_2"),
        unet=UNet2DConditionModel.from_pretrained(work / "unet"),
        scheduler=EulerDiscreteScheduler(**SCHEDULE, timestep_spacing="leading", steps_offset=1),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    for part in (pipeline.vae, pipeline.unet):
        part.register_to_config(_name_or_path=assets.name)  # instead of the path of the build
    pipeline.to(torch.float16).save_pretrained(new)
    CLIPVisionModelWithProjection.from_pretrained(work / "image_encoder").half().save_pretrained(new / "image_encoder")
    CLIPImageProcessor(
        size={"height": 64, "width": 64}, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(new / "image_encoder")
    for name in KEPT:
        if (assets / name).exists():
            shutil.copy2(assets / name, new / name)
    shutil.rmtree(assets, ignore_errors=True)
    new.rename(assets)
