"""Assembles the trained parts as a pipeline in Z-Image's layout, in half precision, under assets/mini-flow."""

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ZImagePipeline, ZImageTransformer2DModel
from transformers import AutoTokenizer, Qwen3ForCausalLM

from families.loading.sources import EMBEDDED_BASES
from tools.mini_base.assemble import KEPT
from tools.mini_flow.models import make_scheduler

ASSETS = EMBEDDED_BASES["mini-flow"]


def make_pipeline(work: Path, vae: Path) -> ZImagePipeline:
    """The trained parts under `work`, with the VAE of mini-sdxl in the folder `vae`; fp32."""
    pipeline = ZImagePipeline(
        scheduler=make_scheduler(),
        vae=AutoencoderKL.from_pretrained(vae),
        text_encoder=Qwen3ForCausalLM.from_pretrained(work / "text_encoder"),
        tokenizer=AutoTokenizer.from_pretrained(work / "tokenizer"),
        transformer=ZImageTransformer2DModel.from_pretrained(work / "transformer"),
    )
    pipeline.vae.register_to_config(shift_factor=0.0)  # the cached latents are only scaled
    return pipeline


def assemble(work: Path, vae: Path, assets: Path) -> None:
    """Write the pipeline; model card and image grid are kept. The folder is replaced atomically."""
    new = assets.with_name(assets.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    pipeline = make_pipeline(work, vae)
    for part in (pipeline.vae, pipeline.transformer):
        part.register_to_config(_name_or_path=assets.name)  # instead of the path of the build
    pipeline.to(torch.float16).save_pretrained(new)
    for name in KEPT:
        if (assets / name).exists():
            shutil.copy2(assets / name, new / name)
    shutil.rmtree(assets, ignore_errors=True)
    new.rename(assets)
