"""Trains both text encoders only on captions: two captions of one scene are a positive pair, and every attribute that a
caption names is predicted from its embedding. This is fast, because no images are needed; the image encoder is then
trained in the space of the second text encoder.
"""

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tools.mini_base import checkpoint
from tools.mini_base.attributes import AttributeHeads, Contrast, labels
from tools.mini_base.pictures import step_random
from tools.mini_base.scenes import caption, full_caption, training_scene
from tools.mini_base.training.muon import Muon, hidden_matrices

STEPS = 1_200
BATCH_SIZE = 96
LEARNING_RATE = 1.2e-3
MUON_RATE = 1e-2
SEED = 3
CHECKPOINT_EVERY = 100
TRAINED_LENGTH = 48
"""Sequence length of captions, for speed; no caption is longer."""
WIDTH = 96


def make_text_encoders(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """0.2 M and 0.4 M parameters."""
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "num_hidden_layers": 3,
    }
    first = CLIPTextConfig(hidden_size=64, intermediate_size=192, num_attention_heads=2, projection_dim=64, **shared)
    second = CLIPTextConfig(
        hidden_size=96, intermediate_size=256, num_attention_heads=3, projection_dim=WIDTH, **shared
    )
    return CLIPTextModel(first), CLIPTextModelWithProjection(second)


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Return token ids (B, TRAINED_LENGTH)."""
    return tokenizer(
        captions, padding="max_length", max_length=TRAINED_LENGTH, truncation=True, return_tensors="pt"
    ).input_ids


def train(work: Path, steps: int) -> None:
    """Write text_encoder, text_encoder_2 and the attribute heads of the second under `work`; takes minutes."""
    torch.manual_seed(SEED)
    tokenizers = [CLIPTokenizer.from_pretrained(work / name) for name in ("tokenizer", "tokenizer_2")]
    first, second = make_text_encoders(tokenizers[0])
    projection, heads = nn.Linear(64, WIDTH, bias=False), AttributeHeads(WIDTH)
    matrices, others = hidden_matrices(first, second)
    optimizer = Muon(matrices, [*others, *projection.parameters(), *heads.parameters()], MUON_RATE, LEARNING_RATE)
    modules = {"first": first, "second": second, "projection": projection, "heads": heads}
    contrast = Contrast()
    for step in range(checkpoint.restore(work / "text-checkpoint", modules, optimizer), steps):
        optimizer.scale_rates(min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / steps)))
        rng = step_random(SEED, step)
        scenes = [training_scene(rng) for _ in range(BATCH_SIZE)]
        loose, full = [caption(scene, rng) for scene in scenes], [full_caption(scene) for scene in scenes]
        one = functional.normalize(projection(first(token_ids(tokenizers[0], loose)).pooler_output), dim=-1)
        two = functional.normalize(second(token_ids(tokenizers[1], loose)).text_embeds, dim=-1)
        three = functional.normalize(second(token_ids(tokenizers[1], full)).text_embeds, dim=-1)
        known = labels(scenes, loose)
        loss = contrast(one, three) + contrast(two, three)
        loss = loss + heads.loss(one, known) + heads.loss(two, known) + heads.loss(three, labels(scenes))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([weight for module in modules.values() for weight in module.parameters()], 1.0)
        optimizer.step()
        if step % CHECKPOINT_EVERY == CHECKPOINT_EVERY - 1:
            checkpoint.save(work / "text-checkpoint", step + 1, modules, optimizer)
            read = {name: round(share, 2) for name, share in heads.accuracy(two, known).items()}
            print(f"text {step + 1}/{steps}: loss {loss.item():.3f}, read {read}", flush=True)
    first.save_pretrained(work / "text_encoder")
    second.save_pretrained(work / "text_encoder_2")
    save_file(heads.state_dict(), work / "attribute-heads.safetensors")
