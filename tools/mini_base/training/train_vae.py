"""Trains the VAE, 64 × 64 pixels to 16 × 16 × 4 latents and back, on images of every kind."""

import copy
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionModelWithProjection

from tools.mini_base import checkpoint
from tools.mini_base.drawing.wide import wide_picture
from tools.mini_base.pictures import save_grid, step_random, to_images, to_tensor
from tools.mini_base.scenes import SIDE
from tools.mini_base.training.muon import Muon, hidden_matrices

BATCH_SIZE = 16
LEARNING_RATE = 5e-3
OTHERS_LEARNING_RATE = 1.5e-3
"""The learning rate of parameters that are not matrices; see `muon`."""
WARMUP_STEPS = 100
DECAYING_SHARE = 0.3
"""Share of the last steps, in which the learning rate decays to 0."""
SQUARES_WEIGHT = 2.0
EDGES_WEIGHT = 0.5
PERCEPTION_WEIGHT = 0.02
KL_WEIGHT = 3e-4
AVERAGE_DECAY = 0.998
STEPS = 6_000
SEED = 1
CHECKPOINT_EVERY = 100
EMBEDDED_TOWER = Path(__file__).resolve().parents[3] / "assets" / "mini-sdxl" / "image_encoder"


def make_vae() -> AutoencoderKL:
    """2.57 M parameters, three levels, no attention: most of them at low resolutions, where they cost little."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        sample_size=SIDE,
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 128),
        mid_block_add_attention=False,
    )


class Perception(nn.Module):
    """A perceptual distance: compares the hidden states of the evaluator's image tower after each layer."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.tower = CLIPVisionModelWithProjection.from_pretrained(folder, dtype=torch.float32).eval()
        self.requires_grad_(False)

    def forward(self, restored: Tensor, pixels: Tensor) -> Tensor:
        """Mean distance of the normed states of two batches, (B, 3, 64, 64) in [-1, 1]; a scalar."""
        with torch.no_grad():
            wanted = self._states(pixels)
        distances = [functional.l1_loss(one, other) for one, other in zip(self._states(restored), wanted, strict=True)]
        return torch.stack(distances).mean()

    def _states(self, pixels: Tensor) -> list[Tensor]:
        states = self.tower(pixel_values=pixels, output_hidden_states=True).hidden_states[1:]
        return [functional.layer_norm(state, state.shape[-1:]) for state in states]


def loss_of(vae: AutoencoderKL, perception: Perception, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """The loss of restoring `pixels`, (B, 3, 64, 64) in [-1, 1], and a light KL divergence."""
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(pixels).latent_dist
        restored = vae.decode(posterior.sample(generator)).sample
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    return restoration_loss(restored, pixels, perception) + KL_WEIGHT * kl


def restoration_loss(restored: Tensor, pixels: Tensor, perception: Perception) -> Tensor:
    """L1 and squares of the error, L1 of its edges (differences of neighbours), and the perceptual distance by the
    evaluator. Both: (B, 3, 64, 64), the pixels in [-1, 1]."""
    with torch.autocast("cpu", torch.bfloat16):
        seen = perception(restored, pixels)
    restored = restored.float()
    edges = sum(functional.l1_loss(restored.diff(dim=dim), pixels.diff(dim=dim)) for dim in (2, 3))
    exact = functional.l1_loss(restored, pixels) + SQUARES_WEIGHT * functional.mse_loss(restored, pixels)
    return exact + EDGES_WEIGHT * edges + PERCEPTION_WEIGHT * seen.float()


def rate_factor(step: int, steps: int) -> float:
    """Share of the full learning rate: warm-up, constant, and a linear decay at the end."""
    return min(1.0, (step + 1) / WARMUP_STEPS, (steps - step) / (steps * DECAYING_SHARE))


def train(work: Path, steps: int) -> None:
    """Train (or continue) until `steps` steps and write `work`/vae, the averaged weights; until then they are in
    `work`/unfinished/vae, for `evaluate_vae`."""
    torch.manual_seed(SEED)
    vae = make_vae().to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(vae)
    new = work / "image_encoder"
    perception = Perception(EMBEDDED_TOWER if not new.exists() else new)
    optimizer = Muon(*hidden_matrices(vae), LEARNING_RATE, OTHERS_LEARNING_RATE)
    modules = {"vae": vae, "averaged": averaged}
    first = checkpoint.restore(work / "vae-checkpoint", modules, optimizer)
    for step in range(first, steps):
        optimizer.scale_rates(rate_factor(step, steps))
        rng = step_random(SEED, step)
        pixels = to_tensor([wide_picture(SIDE, rng) for _ in range(BATCH_SIZE)])
        pixels = pixels.to(memory_format=torch.channels_last)
        loss = loss_of(vae, perception, pixels, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        average(averaged, vae, step)
        if step % CHECKPOINT_EVERY == CHECKPOINT_EVERY - 1:
            checkpoint.save(work / "vae-checkpoint", step + 1, modules, optimizer)
            averaged.save_pretrained(work / "unfinished" / "vae")
            print(f"vae {step + 1}/{steps}: loss {loss.item():.4f}", flush=True)
    finish(averaged, work)


@torch.no_grad()
def average(averaged: nn.Module, module: nn.Module, step: int) -> None:
    """Exponential moving average of the weights, faster at the start."""
    decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
    for mean, weight in zip(averaged.parameters(), module.parameters(), strict=True):
        mean.lerp_(weight, 1 - decay)


@torch.no_grad()
def finish(vae: AutoencoderKL, work: Path) -> None:
    """Set the scaling factor to 1 / std of the latents, write the model and an overview of restored images."""
    rng = step_random(SEED, -1)
    pixels = to_tensor([wide_picture(SIDE, rng) for _ in range(256)])
    latents = vae.encode(pixels).latent_dist.sample(torch.Generator().manual_seed(0))
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
    restored = vae.decode(latents).sample
    print(f"vae: scaling factor {vae.config.scaling_factor}, L1 {functional.l1_loss(restored, pixels).item():.4f}")
    save_grid([*to_images(pixels[:16]), *to_images(restored[:16])], work / "vae.png", columns=16, enlarge=2)
    vae.to(memory_format=torch.contiguous_format).save_pretrained(work / "vae")
