"""Trains both text encoders and the image tower together, by contrast (Radford et al. 2021).

Half of every batch are siblings, scenes that differ in one attribute only: what an ordinary batch hardly ever shows,
and what makes the image tower fit to judge single attributes.
"""

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from tools.mini_base import checkpoint
from tools.mini_base.pictures import step_random, to_tensor
from tools.mini_base.world import ATTRIBUTES, Scene, caption, draw, held_out, training_scene, variations

BATCH_SIZE = 96
SIBLINGS = 4
LEARNING_RATE = 1.2e-3
STEPS = 1_100
SEED = 3
CHECKPOINT_EVERY = 100
TRAINED_LENGTH = 32
"""Captions are cut to this many tokens for speed; none is longer."""


@dataclass
class Clip:
    """The three towers. `head` projects the first text encoder and is thrown away afterwards, as is the scale."""

    text: CLIPTextModel
    text_2: CLIPTextModelWithProjection
    image: CLIPVisionModelWithProjection
    head: nn.Linear
    scale: nn.Linear

    def modules(self) -> dict[str, nn.Module]:
        return dict(vars(self))


def make_clip(tokenizer: CLIPTokenizer) -> Clip:
    """0.2 M, 0.4 M and 0.7 M parameters."""
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = CLIPTextConfig(
        hidden_size=64, intermediate_size=192, num_hidden_layers=3, num_attention_heads=2, projection_dim=64, **shared
    )
    text_2 = CLIPTextConfig(
        hidden_size=96, intermediate_size=256, num_hidden_layers=3, num_attention_heads=3, projection_dim=96, **shared
    )
    image = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=64,
        patch_size=8,
        projection_dim=96,
    )
    scale = nn.Linear(1, 1, bias=False)
    nn.init.constant_(scale.weight, 2.5)
    return Clip(
        CLIPTextModel(text),
        CLIPTextModelWithProjection(text_2),
        CLIPVisionModelWithProjection(image),
        nn.Linear(64, 96, bias=False),
        scale,
    )


def contrastive_scenes(rng: random.Random) -> list[Scene]:
    """A batch: random scenes, and families of siblings that differ in one attribute. No combination twice."""
    scenes: dict[Scene, None] = {}
    while len(scenes) < BATCH_SIZE // 2:
        scenes[training_scene(rng)] = None
    while len(scenes) < BATCH_SIZE:
        parent = training_scene(rng)
        siblings = [scene for scene in variations(parent, rng.choice(tuple(ATTRIBUTES))) if drawable(scene)]
        for scene in rng.sample(siblings, min(SIBLINGS, len(siblings))):
            scenes[scene] = None
    return list(scenes)[:BATCH_SIZE]


def drawable(scene: Scene) -> bool:
    """Whether the scene can be seen (no thing in its background's colour) and is not held out."""
    return all(thing.colour != scene.background for thing in scene.things) and not held_out(scene)


def loss_of(
    clip: Clip, tokenizers: tuple[CLIPTokenizer, CLIPTokenizer], pixels: Tensor, captions: list[str]
) -> tuple[Tensor, Tensor]:
    """The contrastive loss of both text towers against the image tower, and the accuracy of the second within the
    batch. `pixels`: (B, 3, 64, 64)."""
    image = functional.normalize(clip.image(pixel_values=pixels).image_embeds, dim=-1)
    first = functional.normalize(clip.head(clip.text(token_ids(tokenizers[0], captions)).pooler_output), dim=-1)
    second = functional.normalize(clip.text_2(token_ids(tokenizers[1], captions)).text_embeds, dim=-1)
    scale, labels = clip.scale.weight.squeeze().exp().clamp(max=100), torch.arange(len(pixels))
    losses = []
    for text in (first, second):
        with torch.autocast("cpu", enabled=False):
            logits = scale * image.float() @ text.float().T
        losses.append(functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels))
    return torch.stack(losses).mean(), ((image @ second.T).argmax(1) == labels).float().mean()


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """(B, 32)."""
    return tokenizer(
        captions, padding="max_length", max_length=TRAINED_LENGTH, truncation=True, return_tensors="pt"
    ).input_ids


def train(work: Path, steps: int) -> None:
    """Train (or go on) for `steps` steps and write text_encoder, text_encoder_2 and image_encoder under `work`."""
    torch.manual_seed(SEED)
    tokenizers = (
        CLIPTokenizer.from_pretrained(work / "tokenizer"),
        CLIPTokenizer.from_pretrained(work / "tokenizer_2"),
    )
    clip = make_clip(tokenizers[0])
    parameters = [parameter for module in clip.modules().values() for parameter in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.98))
    first = checkpoint.restore(work / "clip-checkpoint", clip.modules(), optimizer)
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / 150) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        rng = step_random(SEED, step)
        scenes = contrastive_scenes(rng)
        pixels, captions = to_tensor([draw(scene, rng) for scene in scenes]), [caption(scene, rng) for scene in scenes]
        with torch.autocast("cpu", torch.bfloat16):
            loss, accuracy = loss_of(clip, tokenizers, pixels, captions)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % CHECKPOINT_EVERY == CHECKPOINT_EVERY - 1:
            checkpoint.save(work / "clip-checkpoint", step + 1, clip.modules(), optimizer)
            print(
                f"clip {step + 1}/{steps}: loss {loss.item():.3f}, in-batch accuracy {accuracy.item():.2f}", flush=True
            )
    clip.text.save_pretrained(work / "text_encoder")
    clip.text_2.save_pretrained(work / "text_encoder_2")
    clip.image.save_pretrained(work / "image_encoder")
