"""Trains the VAE: 64 × 64 pixels to 16 × 16 × 4 latents and back."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional

from tools.mini_base import checkpoint
from tools.mini_base.pictures import save_grid, step_random, to_images, training_pictures

BATCH_SIZE = 8
LEARNING_RATE = 1.5e-3
KL_WEIGHT = 1e-3
STEPS = 3_800
SEED = 1
CHECKPOINT_EVERY = 100


def make_vae() -> AutoencoderKL:
    """0.77 M parameters, three levels, no attention."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        sample_size=64,
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 64),
        mid_block_add_attention=False,
    )


def loss_of(vae: AutoencoderKL, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """L1, twice for the edges (differences of neighbours), and a light KL divergence. `pixels`: (B, 3, 64, 64)."""
    posterior = vae.encode(pixels).latent_dist
    restored = vae.decode(posterior.sample(generator)).sample
    edges = sum(functional.l1_loss(restored.diff(dim=dim), pixels.diff(dim=dim)) for dim in (2, 3))
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    return functional.l1_loss(restored, pixels) + functional.mse_loss(restored, pixels) + edges + KL_WEIGHT * kl


def recoloured(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Half of the pictures in colours that the world does not have: a VAE should restore whatever people train on.

    Each new channel is a random mixture of the old ones. `pixels`: (B, 3, H, W) in [-1, 1].
    """
    mixture = torch.rand((len(pixels) // 2, 3, 3), generator=generator) * 2 - 1
    mixture = mixture / mixture.abs().sum(dim=-1, keepdim=True)
    mixed = torch.einsum("bij,bjhw->bihw", mixture, pixels[: len(mixture)])
    return torch.cat([mixed, pixels[len(mixture) :]])


def train(work: Path, steps: int) -> None:
    """Train (or go on) for `steps` steps and write `work`/vae."""
    torch.manual_seed(SEED)
    vae = make_vae().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), LEARNING_RATE, weight_decay=0)
    first = checkpoint.restore(work / "vae-checkpoint", {"vae": vae}, optimizer)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, cycle_momentum=False)
    for _ in range(first):
        schedule.step()
    for step in range(first, steps):
        pixels, _ = training_pictures(BATCH_SIZE, step_random(SEED, step))
        generator = torch.Generator().manual_seed(step)
        pixels = recoloured(pixels, generator)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(vae, pixels.to(memory_format=torch.channels_last), generator)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % CHECKPOINT_EVERY == CHECKPOINT_EVERY - 1:
            checkpoint.save(work / "vae-checkpoint", step + 1, {"vae": vae}, optimizer)
            print(f"vae {step + 1}/{steps}: loss {loss.item():.4f}", flush=True)
    finish(vae, work)


@torch.no_grad()
def finish(vae: AutoencoderKL, work: Path) -> None:
    """Set the scaling factor to 1 / std of the latents, write the model and a picture of what it restores."""
    pixels, _ = training_pictures(256, step_random(SEED, -1))
    latents = vae.encode(pixels).latent_dist.sample(torch.Generator().manual_seed(0))
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
    restored = vae.decode(latents).sample
    print(f"vae: scaling factor {vae.config.scaling_factor}, L1 {functional.l1_loss(restored, pixels).item():.4f}")
    save_grid([*to_images(pixels[:10]), *to_images(restored[:10])], work / "vae.png", columns=10, enlarge=2)
    vae.to(memory_format=torch.contiguous_format).save_pretrained(work / "vae")
