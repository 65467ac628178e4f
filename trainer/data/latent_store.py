"""Stores cached latents on disk, one file per view, where they would not fit in memory."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch
from safetensors.torch import load_file, save_file

from families.family import ModelFamily, SizeConditioning
from preprocess.dataset import PreparedDataset
from preprocess.progress import StageProgress
from preprocess.workers.relay import drain
from settings.sections.speed import LatentCacheName
from trainer.data.feature_shards import FeatureDataset
from trainer.data.latent_cache import (
    CachedExample,
    CachedView,
    cache_examples,
    count_views,
    encode_view,
    size_conditioning,
)
from trainer.distributed.processes import Processes

MOST_OF_FREE_MEMORY = 0.5
"""Largest share of free memory for latents with `latent_cache: auto`. The rest is left for training."""
MOMENTS, MASK, CONTROL = "moments", "mask", "control"

LatentPlace = Literal["memory", "disk"]


@dataclass(frozen=True)
class StoredView:
    """A `CachedView` stored in a file. `load` moves its tensors to `device`."""

    path: Path
    size: SizeConditioning
    device: torch.device

    def load(self) -> CachedView:
        """Read the view. The values are exactly those that were encoded."""
        tensors = {name: each.to(self.device, non_blocking=True) for name, each in load_file(self.path).items()}
        return CachedView(tensors[MOMENTS], tensors.get(MASK), self.size, tensors.get(CONTROL))


def latent_place(
    wanted: LatentCacheName, dataset: PreparedDataset, family: ModelFamily, processes: Processes
) -> LatentPlace:
    """Return where to store the latents: as set in `wanted`, or by their size. All processes get the same value."""
    if isinstance(dataset, FeatureDataset):
        return "disk"
    if wanted != "auto":
        return wanted
    fits = bytes_of_latents(dataset, family) <= MOST_OF_FREE_MEMORY * free_memory(family.device)
    return processes.broadcast("memory" if fits else "disk")


def encode_dataset(
    dataset: PreparedDataset, family: ModelFamily, place: LatentPlace, folder: Path, processes: Processes
) -> list[CachedExample]:
    """Encode all examples of `dataset`. `folder`: where to store latents on disk; each process encodes its part of
    them."""
    return drain(encoding_dataset(dataset, family, place, folder, processes), lambda _: None)


def encoding_dataset(
    dataset: PreparedDataset, family: ModelFamily, place: LatentPlace, folder: Path, processes: Processes
) -> Generator[StageProgress, None, list[CachedExample]]:
    """As `encode_dataset`, as a generator that yields the progress."""
    if isinstance(dataset, FeatureDataset):
        return dataset.cached(family.device)
    if place == "disk":
        folder.mkdir(exist_ok=True)
    cached = cache_examples(dataset, family) if place == "memory" else _store(dataset, family, folder, processes)
    total, done = count_views(dataset.examples), 0
    examples = []
    for example in cached:
        examples.append(example)
        done += len(example.views)
        yield StageProgress("caching the latents", done, total)
    if place == "disk":
        processes.accelerator.wait_for_everyone()
    return examples


def bytes_of_latents(dataset: PreparedDataset, family: ModelFamily) -> float:
    """Estimate the size of all views' latents and masks in bytes, from the first view."""
    first = encode_view(dataset.folder, dataset.examples[0].views[0], family)
    width, height = dataset.examples[0].bucket
    image_bytes = sum(tensor.nbytes for tensor in (first.moments, first.mask, first.control) if tensor is not None)
    pixels = sum(len(example.views) * example.bucket[0] * example.bucket[1] for example in dataset.examples)
    return image_bytes * pixels / (width * height)


def free_memory(device: torch.device) -> int:
    """Return the free memory of the GPU, or of the machine for a CPU, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def _store(
    dataset: PreparedDataset, family: ModelFamily, folder: Path, processes: Processes
) -> Iterator[CachedExample]:
    for number, example in enumerate(dataset.examples):
        mine = number % processes.share.count == processes.share.index
        stored = []
        for index, view in enumerate(example.views):
            path = folder / f"{number:06d}_{index:02d}.safetensors"
            if mine:
                encoded = encode_view(dataset.folder, view, family)
                tensors = {MOMENTS: encoded.moments, MASK: encoded.mask, CONTROL: encoded.control}
                save_file({name: each.contiguous() for name, each in tensors.items() if each is not None}, path)
            stored.append(StoredView(path, size_conditioning(view.crop), family.device))
        yield CachedExample(
            tuple(stored), example.caption, example.concept, example.bucket, example.repeats, example.weight,
            example.other_captions, example.picture,
        )  # fmt: skip
