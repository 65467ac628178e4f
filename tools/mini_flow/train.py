"""Trains transformer and text encoder together, with flow matching. The language model is trained by the loss of the
transformer, which reads its states, and by next-word prediction on captions with its last layer. Afterwards it is
frozen, like Qwen3.
"""

import copy
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import ZImageTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoTokenizer, Qwen3ForCausalLM

from families.noise.flow_matching import FlowMatching
from families.noise.noise_process import Draw
from families.parts.chat_prompts import chosen_states
from families.z_image import LAYER, PATCH
from tools.mini_base import checkpoint
from tools.mini_base.training.muon import Muon, hidden_matrices
from tools.mini_base.training.train_unet import average
from tools.mini_base.training.train_vae import rate_factor
from tools.mini_flow import examples
from tools.mini_flow.examples import Batch
from tools.mini_flow.models import make_scheduler, make_text_encoder, make_transformer

BATCH_SIZE = 32
STEPS = 8_000
MUON_RATE, LEARNING_RATE = 0.01, 1e-3
"""Learning rates of Muon for the layers' matrices, and of AdamW for the other weights."""
EMPTY_CAPTIONS = 0.1
WORDS_WEIGHT = 0.05
"""Weight of the next word's cross-entropy relative to the velocity's squared error."""
SEED = 23
CHECKPOINT_EVERY = 100


@dataclass(frozen=True)
class FlowModel:
    """The trained models."""

    transformer: ZImageTransformer2DModel
    text_encoder: Qwen3ForCausalLM

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The models by name."""
        return {"transformer": self.transformer, "text_encoder": self.text_encoder}

    @property
    def weights(self) -> list[nn.Parameter]:
        """The parameters of both models."""
        return [weight for module in self.modules.values() for weight in module.parameters()]

    def save(self, work: Path) -> None:
        """Write `work`/transformer and `work`/text_encoder."""
        self.transformer.save_pretrained(work / "transformer")
        self.text_encoder.save_pretrained(work / "text_encoder")


def losses(model: FlowModel, process: FlowMatching, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mean squared error of the velocity, and the next word's cross-entropy."""
    fractions = torch.rand(len(batch.latents), generator=generator)
    noise = torch.randn(batch.latents.shape, generator=generator)
    draw = Draw(process.timesteps_at(fractions, batch.latents.shape), noise)
    noised = process.corrupt(batch.latents, draw)
    with (
        torch.autocast("cpu", torch.bfloat16),
        sdpa_kernel(SDPBackend.MATH),
    ):  # its backward pass is the fastest on a CPU
        velocity, words = predict(model, noised, draw.timesteps / process.num_timesteps, batch)
    next_words = batch.ids[:, 1:].masked_fill(batch.mask[:, 1:] == 0, -100)
    return (
        functional.mse_loss(velocity, process.target(batch.latents, draw)),
        functional.cross_entropy(words.flatten(0, 1).float(), next_words.flatten()),
    )


def predict(model: FlowModel, noised: Tensor, sigmas: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The velocity (B, 4, 16, 16) in fp32, and the next words' logits (B, L - 1, V). `sigmas`: (B,)."""
    read, last = chosen_states(model.text_encoder, batch.ids, batch.mask, (LAYER, -1)).chunk(2, dim=-1)
    prompts = [row[:count] for row, count in zip(read, batch.counts.tolist(), strict=True)]
    predictions = model.transformer(list(noised.unsqueeze(2).unbind()), 1 - sigmas, prompts, return_dict=False)[0]
    return -torch.stack(list(predictions)).squeeze(2).float(), model.text_encoder.lm_head(last[:, :-1])


def make_process() -> FlowMatching:
    """The noise process of the base's own scheduler."""
    return FlowMatching.from_scheduler(make_scheduler(), PATCH)


def make_optimizer(model: FlowModel) -> Muon:
    """Muon for the matrices of attention and feed-forward layers, AdamW for all other weights."""
    transformer = model.transformer
    blocks = [*transformer.layers, *transformer.noise_refiner, *transformer.context_refiner]
    inner = [part for block in blocks for part in (block.attention, block.feed_forward)]
    matrices, _ = hidden_matrices(*inner, *model.text_encoder.model.layers)
    taken = {id(matrix) for matrix in matrices}
    return Muon(matrices, [one for one in model.weights if id(one) not in taken], MUON_RATE, LEARNING_RATE)


def train(work: Path, latents: Path, steps: int) -> None:
    """Train (or continue) until `steps` steps; the models under `work` are always the averaged ones of the last
    checkpoint. `latents`: the file of cached latents."""
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(work / "tokenizer")
    model = FlowModel(make_transformer(), make_text_encoder(tokenizer))
    averaged = copy.deepcopy(model)
    cached = examples.load(work, latents)
    process = make_process()
    optimizer = make_optimizer(model)
    modules = model.modules | {f"averaged_{name}": module for name, module in averaged.modules.items()}
    first = checkpoint.restore(work / "checkpoint", modules, optimizer)
    running, begun = torch.zeros(2), time.monotonic()
    for step in range(first, steps):
        optimizer.scale_rates(rate_factor(step, steps))
        generator = torch.Generator().manual_seed(SEED * 10**9 + step)
        velocity, words = losses(model, process, cached.batch(BATCH_SIZE, EMPTY_CAPTIONS, generator), generator)
        optimizer.zero_grad()
        (velocity + WORDS_WEIGHT * words).backward()
        nn.utils.clip_grad_norm_(model.weights, 1.0)
        optimizer.step()
        for name, module in averaged.modules.items():
            average(module, model.modules[name], step)
        running.lerp_(torch.stack([velocity.detach(), words.detach()]), 1 if step == first else 0.02)
        if step % CHECKPOINT_EVERY == CHECKPOINT_EVERY - 1 or step == steps - 1:
            checkpoint.save(work / "checkpoint", step + 1, modules, optimizer)
            averaged.save(work)
            speed = (time.monotonic() - begun) / (step + 1 - first)
            lost = f"loss {running[0]:.4f}, next word {running[1]:.3f}"
            print(f"flow {step + 1}/{steps}: {lost}, {speed:.2f} s a step", flush=True)
    (work / "flow-finished").touch()
