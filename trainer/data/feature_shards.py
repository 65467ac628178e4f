"""Shards of features: latents and captions, from which a model is trained without the images.

features.json            what was encoded, and how: sources, settings, the VAE's fingerprint 00000.safetensors
moments and masks of one source, `<example>.<view>.moments` 00000.json its examples with all decisions, refused files,
and the digest of the tensors; written last previews/00000/ small previews of the whole images
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import safe_open

from families.family import SizeConditioning
from fetching.cache import sha256
from preprocess.dataset import Example, PreparedDataset, Rejected
from preprocess.errors import DatasetError
from preprocess.repeated_warnings import gathered
from trainer.data.latent_cache import CachedExample, CachedView, size_conditioning

Content = TypeVar("Content")
PLAN_FILE = "features.json"
MOMENTS, MASK = "moments", "mask"


@dataclass(frozen=True)
class FeaturePlan:
    """`vae`: the fingerprint of the encoder. `settings`: of data preparation. `sources`: one shard each."""

    vae: str
    settings: dict[str, object]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class ShardRecord:
    """The result of one source. `sha256`: of its tensors; "" if no image was usable. `state`: of the source when it was
    encoded, as `state_of` returns it; "" if unknown. `content`: the SHA-256 of a source that is a local file."""

    source: str
    sha256: str
    examples: tuple[Example, ...]
    rejected: tuple[Rejected, ...]
    warnings: tuple[str, ...]
    state: str = ""
    content: str = ""


@dataclass(frozen=True)
class FeatureView:
    """A `CachedView` inside a shard, to be used on `device`."""

    path: Path
    key: str
    size: SizeConditioning
    device: torch.device

    def load(self) -> CachedView:
        """Read the view: exactly the encoded values."""
        with safe_open(self.path, "pt", device="cpu") as file:
            names = set(file.keys())
            mask = f"{self.key}.{MASK}"
            return CachedView(
                file.get_tensor(f"{self.key}.{MOMENTS}").to(self.device),
                file.get_tensor(mask).to(self.device) if mask in names else None,
                self.size,
            )


@dataclass(frozen=True)
class FeatureDataset(PreparedDataset):
    """A dataset of features instead of images. `places`: the shard of each example, and its number in it."""

    plan: FeaturePlan
    digests: tuple[str, ...]
    places: tuple[tuple[int, int], ...]

    def cached(self, device: torch.device) -> list[CachedExample]:
        """All examples; their latents are loaded on demand."""
        return [
            CachedExample(
                tuple(
                    FeatureView(
                        tensors_of(self.folder, shard), key_of(number, index), size_conditioning(view.crop), device
                    )
                    for index, view in enumerate(example.views)
                ),
                example.caption, example.concept, example.bucket, example.repeats, example.weight,
                example.other_captions, example.picture,
            )
            for example, (shard, number) in zip(self.examples, self.places, strict=True)
        ]  # fmt: skip

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256("".join(self.digests).encode()).hexdigest()[:16]


def is_features(folder: Path) -> bool:
    """Whether `folder` contains shards of features."""
    return (folder / PLAN_FILE).is_file()


def are_features(sources: Sequence[str | Path]) -> bool:
    """Whether `sources` is one folder of shards of features."""
    return len(sources) == 1 and is_features(Path(sources[0]))


def read_plan(folder: Path) -> FeaturePlan:
    """Read the plan. Raises DatasetError if it is not one."""
    return _read(folder / PLAN_FILE, TypeAdapter(FeaturePlan))


def read_features(folder: Path) -> FeatureDataset:
    """All shards, each checked by its digest. Raises DatasetError for a shard that is missing or damaged, and if no
    image is left.
    """
    plan = read_plan(folder)
    missing = [number for number in range(len(plan.sources)) if not record_of(folder, number).is_file()]
    if missing:
        raise DatasetError(
            f"{folder.name}: {len(missing)} of {len(plan.sources)} shards are not encoded yet, the first is "
            f"{plan.sources[missing[0]]}. Run the encoding command again: it continues with the missing shards"
        )
    records = [read_shard(folder, number) for number in range(len(plan.sources))]
    examples = [example for record in records for example in record.examples]
    if not examples:
        raise DatasetError(f"{folder.name}: none of the images in {len(records)} shards was usable")
    shard_of = {line: PurePath(record.source).name for record in records for line in record.warnings}
    return FeatureDataset(
        folder,
        tuple(examples),
        tuple(item for record in records for item in record.rejected),
        tuple(gathered([(source, line) for line, source in shard_of.items()])),
        plan,
        tuple(_digest_of(record) for record in records),
        tuple((shard, number) for shard, record in enumerate(records) for number in range(len(record.examples))),
    )


def read_dataset(folder: Path) -> PreparedDataset:
    """Shards of features, or a prepared dataset. Raises DatasetError."""
    return read_features(folder) if is_features(folder) else PreparedDataset.read(folder)


def read_shard(folder: Path, number: int) -> ShardRecord:
    """The record of a shard. Raises DatasetError if its tensors differ from the written ones."""
    record = read_record(folder, number)
    path = tensors_of(folder, number)
    if record.sha256 and (not path.is_file() or sha256(path) != record.sha256):
        raise DatasetError(
            f"{folder.name}/{path.name}: the file is damaged or missing. Delete {record_of(folder, number).name} "
            "beside it, and run the encoding command again"
        )
    return record


def read_record(folder: Path, number: int) -> ShardRecord:
    """Only the record of a shard: its tensors are not read. Raises DatasetError."""
    return _read(record_of(folder, number), TypeAdapter(ShardRecord))


def record_of(folder: Path, number: int) -> Path:
    """The record's file."""
    return folder / f"{number:05d}.json"


def tensors_of(folder: Path, number: int) -> Path:
    """The file with the tensors."""
    return folder / f"{number:05d}.safetensors"


def key_of(example: int, view: int) -> str:
    """Prefix of the names of a view's tensors."""
    return f"{example:06d}.{view:02d}"


def _digest_of(record: ShardRecord) -> str:
    labels = [[*each.captions, each.concept, each.repeats, each.weight] for each in record.examples]
    return hashlib.sha256((record.sha256 + json.dumps(labels)).encode()).hexdigest()


def _read(path: Path, kind: TypeAdapter[Content]) -> Content:
    try:
        return kind.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DatasetError(f"{path.name}: cannot be read ({type(error).__name__}). Encode the shard again.") from error
