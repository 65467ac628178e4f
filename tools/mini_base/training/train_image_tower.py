"""Trains the CLIP image encoder in the space of the second text encoder, which is frozen (as in LiT, Zhai et al. 2022,
with the roles exchanged). It is the embedded evaluator.

Half of every batch are siblings, scenes that differ in one attribute only. Ordinary batches hardly contain such pairs,
which are needed to evaluate single attributes. Training starts with simple scenes, and with patches whose components
have equal variance: without both, shapes are not learned in 2,000 steps.
"""

import math
import random
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModelWithProjection

from tools.mini_base import checkpoint
from tools.mini_base.attributes import AttributeHeads, Contrast, labels
from tools.mini_base.drawing.backgrounds import TONES
from tools.mini_base.pictures import step_random, to_tensor
from tools.mini_base.scenes import (
    ATTRIBUTES,
    Scene,
    draw,
    full_caption,
    held_out,
    is_distinct,
    simplified,
    training_scene,
    variations,
)
from tools.mini_base.training.muon import Muon, hidden_matrices
from tools.mini_base.training.train_text_encoders import WIDTH, token_ids

STEPS = 9_000
BATCH_SIZE = 64
SIBLINGS = 4
LEARNING_RATE, OTHERS_LEARNING_RATE = 0.005, 1e-3
"""Learning rates of Muon for the layers' matrices, and of AdamW for the other weights."""
WARMUP_STEPS = 50
SIMPLE_STEPS, MIXED_STEPS = 800, 800
"""Steps with simple scenes only, and subsequent steps in which the share of simple scenes decreases to 0."""
SEED = 6
CHECKPOINT_EVERY = 100
WIDEST, PATCH = 128, 8
WHITENED_PICTURES, WHITENED_SCALE, LEAST_VARIANCE = 400, 0.5, 0.01


def make_image_tower() -> CLIPVisionModelWithProjection:
    """0.7 M parameters: 64 patches of 8 × 8 pixels."""
    tower = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=WIDEST,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=64,
            patch_size=PATCH,
            projection_dim=WIDTH,
        )
    )
    for name, parameter in tower.named_parameters():
        if "position_embedding" in name:  # with the usual 0.02, flat colours dominate, and positions are learned late
            nn.init.normal_(parameter, std=0.3)
    return tower


@torch.no_grad()
def whiten_patches(tower: CLIPVisionModelWithProjection) -> None:
    """Set the patch embedding to the patches' principal components, scaled to equal variance.

    Flat colours have nearly all the variance of drawings. Edges, which define shapes, have little effect with an
    embedding of random directions (as for the first layer in Jordan 2024, arXiv 2404.00498, §3.2).
    """
    rng = random.Random(SEED)
    pictures = to_tensor([draw(training_scene(rng), rng) for _ in range(WHITENED_PICTURES)])
    patches = functional.unfold(pictures, PATCH, stride=PATCH).transpose(1, 2).flatten(0, 1)
    variances, components = torch.linalg.eigh(torch.cov(patches.T))
    largest = slice(-WIDEST, None)
    scale = WHITENED_SCALE / (variances[largest] + LEAST_VARIANCE).sqrt()
    weight = tower.vision_model.embeddings.patch_embedding.weight
    weight.copy_((components[:, largest] * scale).T.view_as(weight))


def contrastive_scenes(rng: random.Random, simple: float = 0.0) -> list[Scene]:
    """A batch: random scenes, and families of siblings that differ in one attribute. No scene occurs twice. `simple`:
    the share of scenes that are simplified.
    """

    def drawn() -> Scene:
        scene = training_scene(rng)
        return simplified(scene) if rng.random() < simple else scene

    scenes: dict[Scene, None] = {}
    while len(scenes) < BATCH_SIZE // 2:
        if drawable(scene := drawn()):
            scenes[scene] = None
    while len(scenes) < BATCH_SIZE:
        parent = drawn()
        siblings = [scene for scene in variations(parent, rng.choice(tuple(ATTRIBUTES))) if drawable(scene)]
        for scene in rng.sample(siblings, min(SIBLINGS, len(siblings))):
            scenes[scene] = None
    return list(scenes)[:BATCH_SIZE]


def simple_share(step: int) -> float:
    """The share of simple scenes: 1 at the start, 0 after SIMPLE_STEPS + MIXED_STEPS."""
    return min(1.0, max(0.0, 1 - (step - SIMPLE_STEPS) / MIXED_STEPS))


def drawable(scene: Scene) -> bool:
    """Whether the scene can be drawn (colours differ from the background's and from each other) and is not held out."""
    grounds = {scene.background, scene.second, *TONES.get(scene.background, ())}
    visible = all(
        is_distinct(thing.colour, grounds) and is_distinct(thing.colour, {thing.second}) for thing in scene.things
    )
    return visible and not held_out(scene)


def train(work: Path, steps: int) -> None:
    """Train (or continue) until `steps` steps; `work`/image_encoder is always that of the last checkpoint."""
    torch.manual_seed(SEED)
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer_2")
    text = CLIPTextModelWithProjection.from_pretrained(work / "text_encoder_2").eval()
    tower, heads = make_image_tower(), AttributeHeads(WIDTH)
    whiten_patches(tower)
    heads.load_state_dict(load_file(work / "attribute-heads.safetensors"))
    heads.requires_grad_(False)
    optimizer = Muon(*hidden_matrices(tower), LEARNING_RATE, OTHERS_LEARNING_RATE)
    contrast = Contrast()
    first = checkpoint.restore(work / "image-checkpoint", {"tower": tower}, optimizer)
    for step in range(first, steps):
        optimizer.scale_rates(min(1, (step + 1) / WARMUP_STEPS) * (0.5 + 0.5 * math.cos(math.pi * step / steps)))
        rng = step_random(SEED, step)
        scenes = contrastive_scenes(rng, simple_share(step))
        with torch.no_grad():
            wanted = functional.normalize(
                text(token_ids(tokenizer, list(map(full_caption, scenes)))).text_embeds, dim=-1
            )
        with torch.autocast("cpu", torch.bfloat16):
            embeds = tower(pixel_values=to_tensor([draw(scene, rng) for scene in scenes])).image_embeds
        images, known = functional.normalize(embeds.float(), dim=-1), labels(scenes)
        loss = contrast(images, wanted) + heads.loss(images, known)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        if step % CHECKPOINT_EVERY == CHECKPOINT_EVERY - 1 or step == steps - 1:
            checkpoint.save(work / "image-checkpoint", step + 1, {"tower": tower}, optimizer)
            tower.save_pretrained(work / "image_encoder")
            read = {name: round(share, 2) for name, share in heads.accuracy(images, known).items()}
            print(f"image tower {step + 1}/{steps}: loss {loss.item():.3f}, read {read}", flush=True)
    (work / "image-tower-finished").touch()
