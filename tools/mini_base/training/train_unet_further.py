"""Trains the UNet on, with Muon, on scenes and on figures of any kind: a base that never drew many details learns them
slowly."""

import copy
import time
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import nn

from tools.mini_base import checkpoint
from tools.mini_base.cache_latents import load
from tools.mini_base.training.muon import Muon, hidden_matrices
from tools.mini_base.training.train_unet import SCHEDULE, average, loss_of

STEPS = 4_000
LEARNING_RATE, OTHERS_LEARNING_RATE = 2e-3, 4e-4
"""Of Muon for the layers' matrices, and of AdamW for the other weights."""
WARMUP_STEPS = 100
SEED = 8
CHECKPOINT_EVERY = 250


def train(work: Path, steps: int) -> None:
    """Train (or go on) until `steps` steps; `work`/unet always holds the averaged weights of the last checkpoint."""
    torch.manual_seed(SEED)
    unet = UNet2DConditionModel.from_pretrained(work / "unet").to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(unet)
    cache, alphas = load(work), DDPMScheduler(**SCHEDULE).alphas_cumprod
    optimizer = Muon(*hidden_matrices(unet), LEARNING_RATE, OTHERS_LEARNING_RATE)
    modules = {"unet": unet, "averaged": averaged}
    first = checkpoint.restore(work / "unet-further-checkpoint", modules, optimizer)
    running, begun = 0.0, time.monotonic()
    for step in range(first, steps):
        optimizer.scale_rates(min(1.0, (step + 1) / WARMUP_STEPS) * (1 - step / steps))
        loss = loss_of(unet, cache, alphas, torch.Generator().manual_seed(SEED * 10**9 + step))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        average(averaged, unet, step)
        running += (loss.item() - running) * (1 if step == first else 0.02)
        if step % CHECKPOINT_EVERY == CHECKPOINT_EVERY - 1 or step == steps - 1:
            checkpoint.save(work / "unet-further-checkpoint", step + 1, modules, optimizer)
            averaged.save_pretrained(work / "unet")
            speed = (time.monotonic() - begun) / (step + 1 - first)
            print(f"unet, further {step + 1}/{steps}: loss {running:.4f}, {speed:.2f} s a step", flush=True)
    (work / "unet-further-finished").touch()
