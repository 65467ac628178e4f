"""Trains the UNet: ε-prediction on SDXL's noise schedule, debiased weighting, averaged weights."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from tools.mini_base import checkpoint
from tools.mini_base.cache_latents import PICTURES, LatentCache, load

BATCH_SIZE = 32
LEARNING_RATE = 1e-3
WARMUP_STEPS = 200
EMPTY_CAPTIONS = 0.1
MAX_WEIGHT = 10.0
AVERAGE_DECAY = 0.999
STEPS = 10_000
SEED = 4
CHECKPOINT_EVERY = 250
SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def make_unet() -> UNet2DConditionModel:
    """SDXL's three levels, the first without attention."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=2,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(40, 64, 80),
        transformer_layers_per_block=(1, 1, 1),
        attention_head_dim=(1, 2, 4),
        cross_attention_dim=160,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96 + 6 * 32,
    )


def loss_of(unet: UNet2DConditionModel, cache: LatentCache, alphas: Tensor, generator: torch.Generator) -> Tensor:
    """The ε-loss of a random batch, weighted by 1/√SNR (Yu et al. 2023) up to a limit. `alphas`: (1000,), cumulative.

    With min-SNR weighting, colours of large areas, which are determined at high noise, were still wrong when shapes
    were correct.
    """
    index = torch.randint(0, len(cache.means), (BATCH_SIZE,), generator=generator)
    means, deviations = cache.means[index].float(), cache.deviations[index].float()
    latents = means + deviations * torch.randn(means.shape, generator=generator)
    kept = (torch.rand(BATCH_SIZE, generator=generator) >= EMPTY_CAPTIONS).float()
    noise = torch.randn(means.shape, generator=generator)
    timesteps = torch.randint(0, len(alphas), (BATCH_SIZE,), generator=generator)
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    noised = (alpha.sqrt() * latents + (1 - alpha).sqrt() * noise).to(memory_format=torch.channels_last)
    prediction = unet(
        noised,
        timesteps,
        cache.prompts[index].float() * kept.view(-1, 1, 1),
        added_cond_kwargs={
            "text_embeds": cache.pooled[index].float() * kept.view(-1, 1),
            "time_ids": cache.time_ids[index].float(),
        },
    ).sample
    weights = ((1 - alphas[timesteps]) / alphas[timesteps]).sqrt().clamp(max=MAX_WEIGHT)
    return ((prediction - noise).square().mean(dim=(1, 2, 3)) * weights).mean()


@torch.no_grad()
def average(averaged: nn.Module, trained: nn.Module, step: int) -> None:
    """Move the averaged weights towards the trained ones."""
    decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(averaged.parameters()), list(trained.parameters()), 1 - decay)


def train(work: Path, steps: int) -> None:
    """Train (or continue) until `steps` steps; `work`/unet always contains the averaged weights of the last
    checkpoint."""
    torch.manual_seed(SEED)
    unet = make_unet().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(unet.parameters(), LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.99))

    def set_rate(step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = (
                LEARNING_RATE
                * min(1, (step + 1) / WARMUP_STEPS)
                * max(0.01, 0.5 + 0.5 * math.cos(math.pi * step / steps))
            )

    run(unet, optimizer, set_rate, load(work, PICTURES), Course(work, "unet", SEED, steps))


@dataclass(frozen=True)
class Course:
    """A part of the UNet's training. `name`: of its checkpoint in the folder `work`, and of the file that marks it as
    finished."""

    work: Path
    name: str
    seed: int
    steps: int


def run(
    unet: UNet2DConditionModel,
    optimizer: torch.optim.Optimizer,
    set_rates: Callable[[int], None],
    cache: LatentCache,
    course: Course,
) -> None:
    """Train (or continue) until the last step of the course. `set_rates`: called with the number of each step."""
    averaged = copy.deepcopy(unet)
    alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod
    modules, saved = {"unet": unet, "averaged": averaged}, course.work / f"{course.name}-checkpoint"
    first = checkpoint.restore(saved, modules, optimizer)
    running, begun = 0.0, time.monotonic()
    for step in range(first, course.steps):
        set_rates(step)
        loss = loss_of(unet, cache, alphas, torch.Generator().manual_seed(course.seed * 10**9 + step))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        average(averaged, unet, step)
        running += (loss.item() - running) * (1 if step == first else 0.02)
        if step % CHECKPOINT_EVERY == CHECKPOINT_EVERY - 1 or step == course.steps - 1:
            checkpoint.save(saved, step + 1, modules, optimizer)
            averaged.save_pretrained(course.work / "unet")
            speed = (time.monotonic() - begun) / (step + 1 - first)
            print(f"{course.name} {step + 1}/{course.steps}: loss {running:.4f}, {speed:.2f} s a step", flush=True)
    (course.work / f"{course.name}-finished").touch()
