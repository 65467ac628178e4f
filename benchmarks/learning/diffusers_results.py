"""Loads the results of our trainings and of diffusers' script with plain diffusers."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file

from families.loading.sources import EMBEDDED_BASE_FOLDER
from families.parts.placeholder_tokens import expand_triggers
from tools.before_after import GUIDANCE_SCALE, INFERENCE_STEPS

TRIGGER = "TOK"
LORA_FILES = ("weights.safetensors", "pytorch_lora_weights.safetensors")

Draw = Callable[[Sequence[str]], list[Image.Image]]
"""Samples one image per prompt, the i-th with seed i."""


def draw_of(folder: Path) -> Draw:
    """Return a function that samples with the LoRA and the embeddings in `folder`, with placeholder tokens for the
    trigger."""
    pipeline = embedded_pipeline()
    pipeline.load_lora_weights(str(folder), weight_name=next(name for name in LORA_FILES if (folder / name).exists()))
    rows = load_file(next(folder.glob("*emb*.safetensors")))
    names = [f"<s{index}>" for index in range(len(rows["clip_l"]))]
    encoders = {
        "clip_l": (pipeline.text_encoder, pipeline.tokenizer),
        "clip_g": (pipeline.text_encoder_2, pipeline.tokenizer_2),
    }
    for key, (encoder, tokenizer) in encoders.items():
        pipeline.load_textual_inversion(rows[key], token=names, text_encoder=encoder, tokenizer=tokenizer)
    draw = pipeline_draw(pipeline)
    return lambda prompts: draw([expand_triggers(prompt, {TRIGGER: names}) for prompt in prompts])


def embedded_pipeline() -> StableDiffusionXLPipeline:
    """Open the embedded base with plain diffusers."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(EMBEDDED_BASE_FOLDER, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pipeline_draw(pipeline: StableDiffusionXLPipeline) -> Draw:
    """Return a function that samples through a plain diffusers pipeline, all prompts in one batch."""

    def draw(prompts: Sequence[str]) -> list[Image.Image]:
        generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
        pictures: list[Image.Image] = pipeline(
            list(prompts), num_inference_steps=INFERENCE_STEPS, guidance_scale=GUIDANCE_SCALE, generator=generators
        ).images
        return pictures

    return draw
