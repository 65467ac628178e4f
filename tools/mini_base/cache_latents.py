"""Renders the UNet's training images once and caches latents, sizes and text features."""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tools.mini_base.drawing.colours import COLOURS, colour_named
from tools.mini_base.drawing.fills import plain
from tools.mini_base.drawing.wide import assembled_figure
from tools.mini_base.pictures import step_random, to_tensor
from tools.mini_base.scenes import CREATURE_NOUNS, PREFIXES, SIDE, article, caption, draw, training_scene

SEED = 5
PICTURES, FIGURES = 60_000, 24_000
"""Number of scenes, and of figures, which are only used in the second part of the UNet's training."""
NAMED_GROUND = 0.7
"""Share of the figures whose caption names the background."""
CHUNK = 100
CROPPED_SHARE = 0.12
LARGER_SIDES = (72, 80, 88, 96)


@dataclass(frozen=True)
class LatentCache:
    """N images. `means`, `deviations`: (N, 4, 16, 16), scaled. `prompts`: (N, 77, 160). `pooled`: (N, 96). All fp16.
    `time_ids`: (N, 6), SDXL's size conditioning in pixels."""

    means: Tensor
    deviations: Tensor
    prompts: Tensor
    pooled: Tensor
    time_ids: Tensor


class TextEncoders:
    """Both encoders of the base, frozen: the conditioning of SDXL."""

    def __init__(self, folder: Path) -> None:
        self.tokenizers = [CLIPTokenizer.from_pretrained(folder / name) for name in ("tokenizer", "tokenizer_2")]
        self.first = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
        self.second = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2").eval()

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Prompt features (B, 77, 160) and pooled features (B, 96)."""
        ids = [
            tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
            for tokenizer in self.tokenizers
        ]
        first = self.first(ids[0], output_hidden_states=True).hidden_states[-2]
        second = self.second(ids[1], output_hidden_states=True)
        return torch.cat([first, second.hidden_states[-2]], dim=-1), second.text_embeds


def draw_example(rng: random.Random) -> tuple[Image.Image, str, tuple[int, ...]]:
    """An image of 64 × 64, its caption and time ids; sometimes a crop of a larger image."""
    scene = training_scene(rng)
    side = rng.choice(LARGER_SIDES) if rng.random() < CROPPED_SHARE else SIDE
    top, left = (rng.randint(0, side - SIDE) for _ in range(2))
    picture = draw(scene, rng, side).crop((left, top, left + SIDE, top + SIDE))
    return picture, caption(scene, rng), (side, side, top, left, SIDE, SIDE)


def draw_figure_example(rng: random.Random) -> tuple[Image.Image, str, tuple[int, ...]]:
    """As `draw_example`, for a figure of any kind, which the caption does not describe."""
    noun, text = rng.choice(CREATURE_NOUNS), rng.choice(PREFIXES)
    text += f"a {noun}"
    ground = None
    if rng.random() < NAMED_GROUND:
        word = rng.choice(tuple(COLOURS))
        ground = plain(colour_named(word, rng))
        text += f" on {article(word)} background"
    return assembled_figure(SIDE, rng, ground), text, (SIDE, SIDE, 0, 0, SIDE, SIDE)


@torch.no_grad()
def build(work: Path) -> None:
    """Write `work`/latents.safetensors, about 2.4 GB."""
    vae = AutoencoderKL.from_pretrained(work / "vae").eval()
    encoders = TextEncoders(work)
    parts: dict[str, list[Tensor]] = {name: [] for name in LatentCache.__dataclass_fields__}
    for chunk in range((PICTURES + FIGURES) // CHUNK):
        rng = step_random(SEED, chunk)
        one = draw_example if chunk < PICTURES // CHUNK else draw_figure_example
        pictures, captions, time_ids = zip(*(one(rng) for _ in range(CHUNK)), strict=True)
        posterior = vae.encode(to_tensor(pictures)).latent_dist
        prompts, pooled = encoders(list(captions))
        scale = vae.config.scaling_factor
        values = (posterior.mean * scale, posterior.std * scale, prompts, pooled, torch.tensor(time_ids))
        for name, value in zip(parts, values, strict=True):
            parts[name].append(value.half().contiguous())
        if chunk % 50 == 49:
            print(f"latents {(chunk + 1) * CHUNK}/{PICTURES + FIGURES}", flush=True)
    save_file({name: torch.cat(values).contiguous() for name, values in parts.items()}, work / "latents.safetensors")


def load(work: Path, pictures: int | None = None) -> LatentCache:
    """The cache, in memory; only its first `pictures`."""
    return LatentCache(**{name: rows[:pictures] for name, rows in load_file(work / "latents.safetensors").items()})
