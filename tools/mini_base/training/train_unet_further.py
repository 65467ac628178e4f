"""Continues the training of the UNet, with Muon, on scenes and on figures of any kind, because a base without details
in its training data learns them slowly."""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from tools.mini_base.cache_latents import load
from tools.mini_base.training.muon import Muon, hidden_matrices
from tools.mini_base.training.train_unet import Course, run

STEPS = 4_000
LEARNING_RATE, OTHERS_LEARNING_RATE = 2e-3, 4e-4
"""Learning rates of Muon for the layers' matrices, and of AdamW for the other weights."""
WARMUP_STEPS = 100
SEED = 8


def train(work: Path, steps: int) -> None:
    """Train (or continue) until `steps` steps; `work`/unet always contains the averaged weights of the last
    checkpoint."""
    torch.manual_seed(SEED)
    unet = UNet2DConditionModel.from_pretrained(work / "unet").to(memory_format=torch.channels_last)
    optimizer = Muon(*hidden_matrices(unet), LEARNING_RATE, OTHERS_LEARNING_RATE)

    def set_rates(step: int) -> None:
        optimizer.scale_rates(min(1.0, (step + 1) / WARMUP_STEPS) * (1 - step / steps))

    run(unet, optimizer, set_rates, load(work), Course(work, "unet-further", SEED, steps))
