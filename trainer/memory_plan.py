"""Predicts whether a training fits into a GPU, before the denoiser's weights are loaded."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from families.family import ModelFamily, PromptFeatures, SizeConditioning
from families.precision.formats import PrecisionOfBase
from families.precision.stored_blocks import AS_LOADED, Storage
from settings.record import ConfigError
from settings.rules.adapters import BASE_LEFT_ALONE
from settings.sections.adapter import AdapterSection
from settings.sections.speed import SpeedSection
from trainer.adapters.kinds import KINDS
from trainer.adapters.targets import denoiser_targets
from trainer.execution.peak_memory import EmptyAdapter, StepCost, step_cost, weights_on_device

GB = 10**9
USABLE = 0.85
"""Share of the free memory that a prediction may use: the allocator's blocks are larger than their tensors, kernels
need workspace, and the text encoders' pass for the tokens is not counted. On an H200, SDXL needed 1.12 to 1.2 times the
predicted memory (docs/performance.md)."""


FEWER_BITS: tuple[PrecisionOfBase, ...] = ("int8", "nf4")
"""Formats that `base_precision: auto` tries if bf16 does not fit. int8 is as small as fp8, with a smaller rounding
error: 0.7 % of a normal weight's norm, fp8 2.6 %, nf4 9 % (`tests/families/precision/test_formats.py`)."""


@dataclass(frozen=True)
class Workload:
    """A micro-batch: `images` of `side` pixels squared, with the features of one prompt (1, L, D). `batches`: number of
    micro-batches per optimizer step."""

    images: int
    side: int
    features: PromptFeatures
    batches: int = 1


@dataclass(frozen=True)
class Choice:
    """Settings for running a step. `images`: of a micro-batch."""

    images: int
    checkpointing: bool
    storage: Storage = AS_LOADED


@dataclass(frozen=True)
class MemoryPlan:
    """`step`: predicted for one micro-batch. `beside`: bytes of the text encoders that stay on the device. `choice`:
    the predicted combination of settings. `passes`: micro-batches in an optimizer step."""

    step: StepCost
    beside: int
    choice: Choice
    passes: int = 1

    @property
    def peak(self) -> int:
        """Largest number of bytes on the device."""
        return self.step.peak + self.beside

    @property
    def operations(self) -> int:
        """Operations of the denoiser in an optimizer step, without those of text encoders, additional passes of losses,
        and decoding of quantised weights."""
        return self.step.operations * self.passes

    def fits(self, free_bytes: int) -> bool:
        """Whether this amount of free memory is sufficient."""
        return self.peak <= USABLE * free_bytes

    def __str__(self) -> str:
        images, storage = self.choice.images, self.choice.storage
        stored = "" if storage.precision == "bf16" else f" in {storage.precision}"
        notes = f", {images} image{'s' if images > 1 else ''} at once"
        notes += ", with gradient checkpointing" if self.choice.checkpointing else ""
        notes += ", the blocks' weights in main memory (slow)" if storage.offloaded else ""
        return (
            f"memory: {self.peak / GB:.1f} GB at the peak ({self.step.weights / GB:.1f} GB of base weights{stored}, "
            f"{self.step.trained / GB:.2f} GB for the adapter and its optimizer{notes})"
        )


def predicted(family: ModelFamily, adapters: AdapterSection, work: Workload, choice: Choice) -> MemoryPlan:
    """Count one step of an adapter on the bare base. `family`: its denoiser may be on the meta device. `work`: its
    number of images is replaced by the choice's."""
    adapter = EmptyAdapter(adapters.adapter, adapters.rank, adapters.resolved_alpha, denoiser_targets(family, adapters))
    channels, height, width = _latent_shape(family, work.side)
    features, images = work.features, choice.images
    if bool(features.mask.all()):
        features = replace(features, prompt_mask=None)  # without values, masks cannot be read
    sizes = [SizeConditioning((work.side, work.side), (0, 0), (work.side, work.side))] * images

    def run(denoiser: torch.nn.Module) -> torch.Tensor:
        stand_in = copy.copy(family)
        stand_in.denoiser = denoiser
        noised = torch.zeros(images, channels, height, width)
        timesteps = family.noise_process.timesteps_at(torch.full((images,), 0.5), noised.shape)
        return stand_in.denoise(noised, timesteps, PromptFeatures.joined([features] * images), sizes)

    checkpointing, storage = choice.checkpointing, choice.storage
    step = step_cost(family.denoiser, adapter, run, checkpointing=checkpointing, storage=storage)
    beside = sum(parameter.nbytes for encoder in family.text_encoders for parameter in encoder.parameters())
    return MemoryPlan(step, beside, choice, work.batches * math.ceil(work.images / choice.images))


def plan(
    family: ModelFamily, adapters: AdapterSection, speed: SpeedSection, work: Workload, free_bytes: int
) -> MemoryPlan | None:
    """Return the result of `first_that_fits` for all choices that the settings allow. Returns None if it cannot be
    predicted: without a peft adapter, and for a sharded base. Raises ConfigError if the base's weights alone exceed
    `free_bytes` in every allowed format.
    """
    if adapters.adapter not in KINDS or speed.shard_base:
        return None
    found = first_that_fits(
        list(choices(adapters, speed, work.images)),
        lambda choice: predicted(family, adapters, work, choice),
        lambda storage: weights_on_device(family.denoiser, storage),
        free_bytes,
    )
    if found.step.weights > free_bytes:
        raise ConfigError(
            f"base_model: its weights take {found.step.weights / GB:.1f} GB, and {free_bytes / GB:.1f} GB are free on "
            f"the GPU. {remedies(adapters, speed, found)}"
        )
    return found


def first_that_fits(
    options: Sequence[Choice],
    predict: Callable[[Choice], MemoryPlan],
    weigh: Callable[[Storage], int],
    free_bytes: int,
) -> MemoryPlan:
    """Return the first that fits; else the last, which is the smallest. `weigh`: bytes of weights on the device.

    A prediction takes seconds. It is skipped if the weights alone do not fit, or not together with the memory that
    another storage needed in addition to its weights: decoding only increases it.
    """
    weights = {storage: weigh(storage) for storage in dict.fromkeys(choice.storage for choice in options)}
    beside: dict[tuple[int, bool], int] = {}
    for choice in options:
        way = choice.images, choice.checkpointing
        if weights[choice.storage] + beside.get(way, 0) > USABLE * free_bytes:
            continue
        found = predict(choice)
        if found.fits(free_bytes):
            return found
        beside[way] = found.peak - found.step.weights
    return predict(options[-1])


def choices(adapters: AdapterSection, speed: SpeedSection, images: int) -> Iterator[Choice]:
    """The choices in order of preference: for each allowed storage of the weights, with gradient checkpointing if it is
    allowed, image by image."""
    ways = [(images, speed.gradient_checkpointing == "always")]
    if speed.gradient_checkpointing == "auto":
        ways.append((images, True))
    if images > 1:
        ways.append((1, ways[-1][1]))
    for storage in _storages(adapters, speed):
        yield from (Choice(count, checkpointing, storage) for count, checkpointing in ways)


def remedies(adapters: AdapterSection, speed: SpeedSection, found: MemoryPlan) -> str:
    """Remedies if a plan does not fit."""
    stored, alone = found.choice.storage, adapters.adapter in BASE_LEFT_ALONE
    changes = {
        "gradient_checkpointing: auto": speed.gradient_checkpointing == "never",
        "base_precision: nf4": alone and stored.precision != "nf4",
        "offload: auto": alone and speed.offload == "never",
        "a smaller resolution or rank": found.step.weights < found.peak / 2,
        "adapter: lora": not alone,
    }
    said = ", ".join(change for change, helps in changes.items() if helps)
    return f"{f'Set {said}, or t' if said else 'T'}rain a smaller base model, or use a larger GPU"


def _storages(adapters: AdapterSection, speed: SpeedSection) -> Iterator[Storage]:
    """The allowed storages: fewer bits only if the setting is auto, and main memory only with the fewest bits."""
    open_bits = speed.base_precision == "auto" and adapters.adapter in BASE_LEFT_ALONE
    requested: PrecisionOfBase = "bf16" if speed.base_precision == "auto" else speed.base_precision
    precisions = ("bf16", *FEWER_BITS) if open_bits else (requested,)
    if speed.offload != "always":
        yield from (Storage(precision) for precision in precisions)
    if speed.offload != "never" and adapters.adapter in BASE_LEFT_ALONE:
        yield Storage(precisions[-1] if speed.offload == "auto" else requested, offloaded=True)


def _latent_shape(family: ModelFamily, side: int) -> tuple[int, int, int]:
    """(C, h, w) of latents for a square of `side` pixels, from the smallest image that the base encodes."""
    small = family.size_multiple
    with torch.no_grad():
        cached = family.encode_image(torch.zeros(1, 3, small, small, device=family.device))
    _, channels, height, width = family.latent_shape(cached.shape)
    return channels, height * side // small, width * side // small
