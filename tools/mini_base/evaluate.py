"""Evaluates the embedded base: how well it follows held-out captions, and how exactly its VAE restores images.

python -m tools.mini_base.evaluate

prints the tables, and writes them with a grid of images into the model card.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional
from transformers import CLIPVisionModelWithProjection

from families.loading.sources import EMBEDDED_BASE_FOLDER
from tools.mini_base import evaluate_vae
from tools.mini_base.model_card import Measured, markdown, write_card
from tools.mini_base.pictures import to_tensor
from tools.mini_base.scenes import ATTRIBUTES, Scene, draw, evaluation_scene, full_caption, value_of, variations
from tools.mini_base.training.train_text_encoders import token_ids

CAPTIONS = 256
SEED = 99
STEPS, GUIDANCE = 30, 6.0
GRID = 40


class Judge:
    """The evaluator: the base's second text encoder and the image encoder that was trained with it."""

    def __init__(self, pipeline: StableDiffusionXLPipeline, image_encoder: Path) -> None:
        self._tokenizer, self._text = pipeline.tokenizer_2, pipeline.text_encoder_2
        self._image = CLIPVisionModelWithProjection.from_pretrained(image_encoder, dtype=torch.float32).eval()

    @torch.no_grad()
    def accuracy(self, pictures: Sequence[Image.Image], scenes: Sequence[Scene]) -> dict[str, float]:
        """Share of the images with the attribute of the scene, by attribute, determined by the nearest caption among
        all variations of the attribute."""
        images = functional.normalize(self._image(pixel_values=to_tensor(pictures)).image_embeds, dim=-1)
        return {attribute: self._right(images, scenes, attribute) for attribute in ATTRIBUTES}

    def _right(self, images: Tensor, scenes: Sequence[Scene], attribute: str) -> float:
        right = 0
        for image, scene in zip(images, scenes, strict=True):
            texts = self.embed([full_caption(variation) for variation in variations(scene, attribute)])
            right += ATTRIBUTES[attribute][int((texts @ image).argmax())] == value_of(scene, attribute)
        return right / len(scenes)

    def embed(self, captions: list[str]) -> Tensor:
        """Unit vectors (N, width)."""
        return functional.normalize(self._text(token_ids(self._tokenizer, captions)).text_embeds, dim=-1)


def held_out_scenes(count: int) -> list[Scene]:
    """Scenes whose combination of shape, colour, place and background is not in any training data."""
    rng = random.Random(SEED)
    return [evaluation_scene(rng) for _ in range(count)]


def sample(
    pipeline: Any, captions: Sequence[str], steps: int = STEPS, guidance: float = GUIDANCE, batch: int = 32
) -> list[Image.Image]:
    """One image of 64 × 64 per caption, seeded by its index. `pipeline`: a diffusers pipeline of any base."""
    pictures: list[Image.Image] = []
    for first in range(0, len(captions), batch):
        texts = list(captions[first : first + batch])
        generators = [torch.Generator().manual_seed(first + index) for index in range(len(texts))]
        pictures += pipeline(
            texts, num_inference_steps=steps, guidance_scale=guidance, height=64, width=64, generator=generators
        ).images
    return pictures


def evaluate(assets: Path, count: int) -> dict[str, dict[str, float]]:
    """The evaluator's accuracy for real drawings and for the base's samples, with the same held-out captions."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(assets, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    judge = Judge(pipeline, assets / "image_encoder")
    scenes = held_out_scenes(count)
    drawings = [draw(scene, random.Random(index)) for index, scene in enumerate(scenes)]
    samples = sample(pipeline, [full_caption(scene) for scene in scenes])
    save_samples(samples[:GRID], scenes[:GRID], assets / "grid.png")
    return {"real drawings": judge.accuracy(drawings, scenes), "samples of the base": judge.accuracy(samples, scenes)}


def save_samples(samples: Sequence[Image.Image], scenes: Sequence[Scene], path: Path) -> None:
    """Write a grid of samples with their captions."""
    captioned_grid(samples, [full_caption(scene) for scene in scenes]).save(path, optimize=True)


def captioned_grid(pictures: Sequence[Image.Image], captions: Sequence[str], columns: int = 8) -> Image.Image:
    """Images at double size, each with its caption below."""
    texts = [wrap(caption.removeprefix("a photo of "), 25) for caption in captions]
    width, height = 150, 138 + 13 * max(text.count("\n") + 1 for text in texts)
    grid = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height), "white")
    canvas = ImageDraw.Draw(grid)
    for index, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        left, top = index % columns * width + 11, index // columns * height + 6
        grid.paste(picture.resize((128, 128), Image.Resampling.BICUBIC), (left, top))
        canvas.multiline_text((left, top + 130), text, fill="black", font_size=10)
    return grid


def wrap(text: str, width: int) -> str:
    """The text in lines of at most `width` characters."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def main() -> None:
    """Print the tables and write them into the model card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, default=EMBEDDED_BASE_FOLDER)
    parser.add_argument("--captions", type=int, default=CAPTIONS)
    arguments = parser.parse_args()
    table = evaluate(arguments.assets, arguments.captions)
    vae = AutoencoderKL.from_pretrained(arguments.assets / "vae", dtype=torch.float32).eval()
    exactness = evaluate_vae.measure(vae, evaluate_vae.unseen_pictures())
    write_card(arguments.assets, Measured(table, exactness, arguments.captions, STEPS, GUIDANCE))
    print(markdown(table), evaluate_vae.markdown(exactness), sep="\n\n")


if __name__ == "__main__":
    main()
