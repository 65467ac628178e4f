"""Predicts whether a training fits into a GPU, before the denoiser's weights are loaded."""

import copy
from dataclasses import dataclass, replace

import torch

from families.family import ModelFamily, PromptFeatures, SizeConditioning
from settings.record import ConfigError
from settings.sections.adapter import AdapterSection
from settings.sections.speed import SpeedSection
from trainer.adapters.kinds import KINDS
from trainer.adapters.targets import denoiser_targets
from trainer.execution.peak_memory import EmptyAdapter, StepMemory, step_memory

GB = 10**9
USABLE = 0.85
"""Share of the free memory that a prediction may take: the allocator's blocks are larger than their tensors, kernels
need room of their own, and the tokens' pass through the text encoders is not counted. On an H200 SDXL took 1.12 to 1.2
times what is predicted (docs/performance.md)."""


@dataclass(frozen=True)
class Workload:
    """A micro-batch: `images` of `side` pixels squared, with the features of one prompt (1, L, D)."""

    images: int
    side: int
    features: PromptFeatures


@dataclass(frozen=True)
class MemoryPlan:
    """`step`: predicted. `beside`: bytes of text encoders that stay on the device. `checkpointing`: whether gradient
    checkpointing is needed from the start. `images`: of a micro-batch that fits."""

    step: StepMemory
    beside: int
    checkpointing: bool
    images: int

    @property
    def peak(self) -> int:
        """Bytes on the device at the most."""
        return self.step.peak + self.beside

    def fits(self, free_bytes: int) -> bool:
        """Whether so much free memory is enough."""
        return self.peak <= USABLE * free_bytes

    def __str__(self) -> str:
        notes = f", {self.images} image{'s' if self.images > 1 else ''} at once"
        notes += ", with gradient checkpointing" if self.checkpointing else ""
        return (
            f"memory: {self.peak / GB:.1f} GB at the peak ({self.step.weights / GB:.1f} GB of base weights, "
            f"{self.step.trained / GB:.2f} GB for what is trained{notes})"
        )


def predicted(family: ModelFamily, adapters: AdapterSection, work: Workload, *, checkpointing: bool) -> MemoryPlan:
    """Count one step of an adapter on the bare base. `family`: its denoiser may be on the meta device."""
    adapter = EmptyAdapter(adapters.adapter, adapters.rank, adapters.resolved_alpha, denoiser_targets(family, adapters))
    channels, height, width = _latent_shape(family, work.side)
    features = work.features
    if bool(features.mask.all()):
        features = replace(features, prompt_mask=None)  # where nothing is computed, no mask can be read
    sizes = [SizeConditioning((work.side, work.side), (0, 0), (work.side, work.side))] * work.images

    def run(denoiser: torch.nn.Module) -> torch.Tensor:
        stand_in = copy.copy(family)
        stand_in.denoiser = denoiser
        noised = torch.zeros(work.images, channels, height, width)
        timesteps = family.noise_process.timesteps_at(torch.full((work.images,), 0.5), noised.shape)
        return stand_in.denoise(noised, timesteps, PromptFeatures.joined([features] * work.images), sizes)

    step = step_memory(family.denoiser, adapter, run, checkpointing=checkpointing)
    beside = sum(parameter.nbytes for encoder in family.text_encoders for parameter in encoder.parameters())
    return MemoryPlan(step, beside, checkpointing, work.images)


def plan(
    family: ModelFamily, adapters: AdapterSection, speed: SpeedSection, work: Workload, free_bytes: int
) -> MemoryPlan | None:
    """Return the first that fits: as asked, with gradient checkpointing if it is allowed, image by image; else the
    smallest.

    Returns None where it cannot be predicted: without an adapter of peft's, and where the base is sharded. Raises
    ConfigError where the base's weights alone are more than `free_bytes`.
    """
    if adapters.adapter not in KINDS or speed.shard_base:
        return None
    choices = [(work.images, speed.gradient_checkpointing == "always")]
    if speed.gradient_checkpointing == "auto":
        choices.append((work.images, True))
    if work.images > 1:
        choices.append((1, choices[-1][1]))
    for images, checkpointing in choices:
        found = predicted(family, adapters, replace(work, images=images), checkpointing=checkpointing)
        if found.step.weights > free_bytes:
            raise ConfigError(
                f"base_model: its weights take {found.step.weights / GB:.1f} GB, and {free_bytes / GB:.1f} GB are free "
                "on the GPU. Train on a smaller base, on a larger GPU, or on several with shard_base: true."
            )
        if found.fits(free_bytes):
            break
    return found


def _latent_shape(family: ModelFamily, side: int) -> tuple[int, int, int]:
    """(C, h, w) of latents for a square of `side` pixels, from the smallest picture that the base encodes."""
    small = family.size_multiple
    with torch.no_grad():
        cached = family.encode_image(torch.zeros(1, 3, small, small, device=family.device))
    _, channels, height, width = family.latent_shape(cached.shape)
    return channels, height * side // small, width * side // small
