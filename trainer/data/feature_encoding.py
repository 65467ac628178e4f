"""Encodes one source to a shard of features, in a folder that one command writes at a time.

A shard is complete when its record is written, which is the last step; incomplete shards are encoded again.
"""

import fcntl
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from families.family import ModelFamily
from fetching.cache import sha256
from fetching.disk import is_disk_full
from preprocess.dataset import DATASET_FILE, Example, PreparedDataset, Rejected, View
from preprocess.errors import DatasetError, SetupError
from preprocess.prepare import BaseRequirements, prepare
from preprocess.sources.stores import local_path
from settings.preparation import DataConfig
from trainer.data.feature_shards import (
    MASK,
    MOMENTS,
    PLAN_FILE,
    FeaturePlan,
    ShardRecord,
    is_features,
    key_of,
    read_plan,
    record_of,
    tensors_of,
)
from trainer.data.latent_cache import encode_view

SCRATCH = ".encoding-"


@contextmanager
def begun(plan: FeaturePlan, folder: Path) -> Iterator[None]:
    """Context of the encoding: the folder contains the plan and no unfinished files, and is locked for other processes.
    Raises DatasetError for a folder with another plan, and if another process encodes into it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        _remove_unfinished(folder)
        _begin(plan, folder)
        try:
            yield
        finally:
            _remove_unfinished(folder)


def encode_shard(
    number: int,
    source: str,
    config: DataConfig,
    base: BaseRequirements,
    family: ModelFamily,
    folder: Path,
    state: str = "",
) -> ShardRecord:
    """Prepare and encode one source. Its record is written last. `state`: of the source, for the record. Raises
    DatasetError; SetupError for a full disk."""
    try:
        with tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{number:05d}-", dir=folder) as scratch:
            content = content_of(source)
            dataset = _prepared(source, config, base, Path(scratch))
            record = ShardRecord(source, "", (), dataset.rejected, dataset.warnings, state, content)
            return _write(number, record, dataset, family, folder)
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise SetupError(
            f"{source}: the disk of {folder} is full. Free some space; the same command continues with this shard"
        ) from error


def has_changed(record: ShardRecord, state: str) -> bool:
    """Whether the source of a shard has changed. `state`: its state now. A local file is read only if its time has
    changed. A source whose state is unknown, such as a deleted file, has not changed."""
    if "" in (record.state, state) or record.state == state:
        return False
    return not record.content or content_of(record.source) != record.content


def content_of(source: str) -> str:
    """The SHA-256 of a local file, "" for other sources and for a file that cannot be read."""
    path = local_path(source) or Path(source)
    try:
        return sha256(path) if path.is_file() else ""
    except OSError:
        return ""


def times_killed(folder: Path, number: int) -> int:
    """Number of workers that were killed while they encoded this shard since `begun`: each has left its scratch
    folder."""
    return len(list(folder.glob(f"{SCRATCH}{number:05d}-*")))


def _prepared(source: str, config: DataConfig, base: BaseRequirements, scratch: Path) -> PreparedDataset:
    """The images of one source. A source without a usable image is not an error."""
    try:
        return prepare([source], config, scratch / "dataset", base)
    except DatasetError:
        rejected = scratch / "dataset" / "rejected.jsonl"
        if not (scratch / "dataset" / DATASET_FILE).is_file():
            raise  # it was not read completely
        rows = [Rejected(**json.loads(line)) for line in rejected.read_text(encoding="utf-8").split("\n") if line]
        return PreparedDataset(scratch / "dataset", (), tuple(rows), ())


def _write(
    number: int, record: ShardRecord, dataset: PreparedDataset, family: ModelFamily, folder: Path
) -> ShardRecord:
    """Write tensors, previews and the record, to which digest and examples are added."""
    tensors: dict[str, Tensor] = {}
    for index, example in enumerate(dataset.examples):
        for place, view in enumerate(example.views):
            encoded = encode_view(dataset.folder, view, family)
            named = {MOMENTS: encoded.moments, MASK: encoded.mask}
            tensors |= {
                f"{key_of(index, place)}.{name}": each.cpu().contiguous()
                for name, each in named.items()
                if each is not None
            }
    digest = ""
    if tensors:
        _atomically(tensors_of(folder, number), lambda path: save_file(tensors, path))
        digest = sha256(tensors_of(folder, number))
    previews = Path("previews") / f"{number:05d}"
    shutil.rmtree(folder / previews, ignore_errors=True)  # left by a process that was killed
    shutil.copytree(dataset.folder / "previews", folder / previews)
    examples = tuple(_kept(example, previews) for example in dataset.examples)
    record = replace(record, sha256=digest, examples=examples)
    text = json.dumps(asdict(record), ensure_ascii=False, indent=1)
    _atomically(record_of(folder, number), lambda path: path.write_text(text, encoding="utf-8"))
    return record


def _kept(example: Example, previews: Path) -> Example:
    """The example with its preview instead of the images, which are deleted."""
    preview = (previews / Path(example.preview or "").name).as_posix()
    views = tuple(View(preview, view.crop, None, view.flipped) for view in example.views)
    return replace(example, views=views, preview=preview)


def _atomically(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically."""
    # a worker that is considered dead may still write
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    write(unfinished)
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(unfinished, target)


def _begin(plan: FeaturePlan, folder: Path) -> None:
    """Write the plan, or compare it with the existing one. Raises DatasetError if they differ."""
    if not is_features(folder):
        text = json.dumps(asdict(plan), ensure_ascii=False, indent=1)
        _atomically(folder / PLAN_FILE, lambda path: path.write_text(text, encoding="utf-8"))
        return
    begun = read_plan(folder)
    parts: dict[str, tuple[object, object]] = {
        "the base's VAE": (begun.vae, plan.vae),
        "sources": (begun.sources, plan.sources),
    }
    parts |= {
        name: (begun.settings.get(name), plan.settings.get(name)) for name in sorted({*begun.settings, *plan.settings})
    }
    changed = [name for name, (before, now) in parts.items() if _plain(before) != _plain(now)]
    if changed:
        raise DatasetError(
            f"output: {folder} was started with other settings: {_listed(changed)}. Use the same settings, or give "
            "another folder"
        )


def _remove_unfinished(folder: Path) -> None:
    """Remove the files that killed processes have left."""
    for left in [*folder.glob(f"{SCRATCH}*"), *folder.glob(".*.part")]:
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _plain(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"{name} differ{'' if name == 'sources' else 's'}" for name in names)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the folder. Raises DatasetError if another process encodes into it. The lock of a killed process is
    released."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DatasetError(f"output: another process encodes into {folder}. Wait for it, or stop it") from error
        yield
