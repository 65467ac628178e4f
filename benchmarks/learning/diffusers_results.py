"""Loads the results of our trainings and of diffusers' script with plain diffusers."""

from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file

from benchmarks.learning.measures import Draw, LearningJudge, Protocol, pipeline_draw
from families.loading.sources import EMBEDDED_BASE_FOLDER
from families.parts.placeholder_tokens import expand_triggers

TRIGGER = "TOK"
LORA_FILES = ("weights.safetensors", "pytorch_lora_weights.safetensors")


def judge_of(photos: Path, protocol: Protocol) -> LearningJudge:
    """A judge for trainings of the embedded base on the PNGs in `photos`."""
    pictures = [Image.open(path).convert("RGB") for path in sorted(photos.glob("*.png"))]
    return LearningJudge(pictures, pipeline_draw(_pipeline(), protocol), protocol)


def draw_of(folder: Path, protocol: Protocol) -> Draw:
    """Return a function that samples with the LoRA and the embeddings in `folder`, with placeholder tokens for the
    trigger."""
    pipeline = _pipeline()
    pipeline.load_lora_weights(str(folder), weight_name=next(name for name in LORA_FILES if (folder / name).exists()))
    rows = load_file(next(folder.glob("*emb*.safetensors")))
    names = [f"<s{index}>" for index in range(len(rows["clip_l"]))]
    encoders = {
        "clip_l": (pipeline.text_encoder, pipeline.tokenizer),
        "clip_g": (pipeline.text_encoder_2, pipeline.tokenizer_2),
    }
    for key, (encoder, tokenizer) in encoders.items():
        pipeline.load_textual_inversion(rows[key], token=names, text_encoder=encoder, tokenizer=tokenizer)
    draw = pipeline_draw(pipeline, protocol)
    return lambda prompts: draw([expand_triggers(prompt, {TRIGGER: names}) for prompt in prompts])


def _pipeline() -> StableDiffusionXLPipeline:
    pipeline = StableDiffusionXLPipeline.from_pretrained(EMBEDDED_BASE_FOLDER, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
