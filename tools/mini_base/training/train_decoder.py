"""Continues the training of the VAE's decoder, mostly on figures, which it restores worst. The encoder, and with it all
latents, does not change."""

import copy
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from tools.mini_base import checkpoint
from tools.mini_base.drawing.wide import wide_picture
from tools.mini_base.pictures import step_random, to_tensor
from tools.mini_base.scenes import SIDE
from tools.mini_base.training.muon import Muon, hidden_matrices
from tools.mini_base.training.train_vae import BATCH_SIZE, Perception, average, rate_factor, restoration_loss

STEPS = 1_500
LEARNING_RATE, OTHERS_LEARNING_RATE = 2.5e-3, 5e-4
SHARES = {"compositions": 0.2, "lines": 0.1, "figures": 0.55, "textures": 0.05, "photographs": 0.1}
SEED = 7
CHECKPOINT_EVERY = 100


def train(work: Path, steps: int) -> None:
    """Train (or continue) until `steps` steps and write the averaged decoder into `work`/vae."""
    torch.manual_seed(SEED)
    vae = AutoencoderKL.from_pretrained(work / "vae").to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(vae)
    trained = nn.ModuleList([vae.decoder, vae.post_quant_conv])
    perception = Perception(work / "image_encoder")
    optimizer = Muon(*hidden_matrices(trained), LEARNING_RATE, OTHERS_LEARNING_RATE)
    modules = {"vae": vae, "averaged": averaged}
    first = checkpoint.restore(work / "decoder-checkpoint", modules, optimizer)
    for step in range(first, steps):
        optimizer.scale_rates(rate_factor(step, steps))
        pixels = _pictures(step)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            latents = vae.encode(pixels).latent_dist.sample(torch.Generator().manual_seed(step))
        with torch.autocast("cpu", torch.bfloat16):
            restored = vae.decode(latents).sample
        loss = restoration_loss(restored, pixels, perception)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        average(averaged, vae, step)
        if step % CHECKPOINT_EVERY == CHECKPOINT_EVERY - 1:
            checkpoint.save(work / "decoder-checkpoint", step + 1, modules, optimizer)
            averaged.save_pretrained(work / "unfinished" / "decoder")
            print(f"decoder {step + 1}/{steps}: loss {loss.item():.4f}", flush=True)
    averaged.to(memory_format=torch.contiguous_format).save_pretrained(work / "vae")
    (work / "decoder-finished").touch()


def _pictures(step: int) -> Tensor:
    rng = step_random(SEED, step)
    pixels = to_tensor([wide_picture(SIDE, rng, SHARES) for _ in range(BATCH_SIZE)])
    return pixels.to(memory_format=torch.channels_last)
