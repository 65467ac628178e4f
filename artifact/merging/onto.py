"""Merges LoRAs into a base checkpoint: folder to folder, single file to single file."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from artifact.artifact import Artifact
from artifact.conversion.files import require_free
from artifact.errors import ArtifactError
from artifact.merging.dense import Changes, open_base
from artifact.merging.low_rank import Fit
from artifact.merging.merge import read_all
from artifact.merging.plain import Outcome
from artifact.merging.single_file_rows import rows_of
from artifact.names.components import DENOISER, Place
from artifact.safetensors_file import write_safetensors
from families.loading.sources import find_base_model

TEXT_MODEL = "text_model."
WEIGHTS, DESCRIPTIONS = ".safetensors", (".json", ".txt", ".md", ".model", ".jinja")


def merge_onto(
    sources: Sequence[Path], weights: Sequence[float], base: str, target: Path, base_config: str | None = None
) -> Outcome:
    """Write `base` with the files' changes merged into its weights, in the dtype of each weight.

    All other tensors and configuration files are copied unchanged; pickles are not copied. The outcome's error is the
    part of the changes that is lost by rounding. Raises ArtifactError without writing anything, or BaseModelError when
    the base cannot be loaded.
    """
    require_free(target)
    source = find_base_model(base)
    if source.kind == "hub":
        raise ArtifactError(f"--onto: {base} is on the hub. Download it (hf download {base}), and give the folder.")
    files = read_all(sources, weights)
    family = open_base(base, base_config)
    changes = Changes([file.artifact for file in files], weights, family)
    names = ", ".join(path.name for path in sources)
    fits: list[Fit] = []
    if source.kind == "file":
        _into_file(Path(source.location), target, changes, names, fits)
    else:
        _into_folder(Path(source.location), target, changes, fits)
    notes = [note for file, path in zip(files, sources, strict=True) for note in _left_behind(file.artifact, path)]
    return Outcome(fits, [*changes.approximate, *notes])


def _left_behind(artifact: Artifact, path: Path) -> list[str]:
    if not artifact.tokens:
        return []
    words = ", ".join(artifact.triggers)
    return [f"{path.name}: the word {words} stays behind: python -m artifact convert --format embeddings"]


def _into_folder(source: Path, target: Path, changes: Changes, fits: list[Fit]) -> None:
    """Merge into a folder. Only files that diffusers reads are copied: configurations, and safetensors of
    components."""
    denoiser = next((name for name in ("transformer", "prior") if (source / name).is_dir()), "unet")
    pending = {
        (denoiser if place.component == DENOISER else place.component, f"{path}.{kind}"): (place, kind)
        for place in changes.places
        for kind in changes.kinds(place)
        for path in _variants(place.path)
    }
    unfinished = target.with_name(target.name + ".unfinished")
    met: set[tuple[Place, str]] = set()
    try:
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            copy = unfinished / path.relative_to(source)
            if path.suffix in DESCRIPTIONS:
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
            elif path.suffix == WEIGHTS and path.parent != source:
                copy.parent.mkdir(parents=True, exist_ok=True)
                component = path.relative_to(source).parts[0]
                here = {key: change for (part, key), change in pending.items() if part == component}
                met |= _rewrite(path, copy, here, changes, fits)
        lacking = [change for change in pending.values() if change not in met]
        if lacking:
            place, kind = lacking[0]
            raise ArtifactError(f"{source}: no safetensors file of {place.component} holds {place.path}.{kind}")
        os.replace(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _rewrite(
    path: Path, copy: Path, pending: Mapping[str, tuple[Place, str]], changes: Changes, fits: list[Fit]
) -> set[tuple[Place, str]]:
    """Write one file of weights with its changes. Returns the changes that it contains."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        keys = {key: pending[key] for key in file.keys() if key in pending}  # noqa: SIM118 (no mapping)
        if not keys:
            shutil.copyfile(path, copy)
            return set()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for key, (place, kind) in keys.items():
        tensors[key], fit = _changed(tensors[key], getattr(changes.at(place), kind), f"{path.parent.name}/{key}")
        fits.append(fit)
    write_safetensors(tensors, copy, header)
    return set(keys.values())


def _into_file(source: Path, target: Path, changes: Changes, names: str, fits: list[Fit]) -> None:
    with safe_open(source, framework="pt") as file:
        header = dict(file.metadata() or {})
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    table = rows_of(tensors, changes.family)
    for place in changes.places:
        change = changes.at(place)
        for kind in changes.kinds(place):
            rows = table.find(place, kind)
            before, base = tensors[rows.tensor][rows.numbers], getattr(changes.base(place), kind).detach()
            if not torch.equal(before.float().flatten(), base.flatten()):
                raise ArtifactError(f"{rows.tensor}: not what was loaded as {place.path}. Merge onto a folder instead.")
            moved = getattr(change, kind).reshape(before.shape)
            tensors[rows.tensor][rows.numbers], fit = _changed(before, moved, rows.tensor)
            fits.append(fit)
    header.pop("modelspec.hash_sha256", None)
    header["modelspec.merged_from"] = ", ".join([source.name, names])
    write_safetensors(tensors, target, header)


def _changed(before: Tensor, change: Tensor, name: str) -> tuple[Tensor, Fit]:
    """Return the changed weight in its dtype. Raises ArtifactError when that would overflow."""
    if before.shape != change.shape:
        raise ArtifactError(f"{name} has shape {tuple(before.shape)} in the base's file, {tuple(change.shape)} loaded")
    change = change.cpu().float()
    after = (before.float() + change).to(before.dtype)
    if not torch.isfinite(after.float()).all():
        raise ArtifactError(f"{name} would not be finite in {before.dtype}; nothing was written")
    lost = after.float() - before.float() - change
    return after, Fit(name, float(change.square().sum()), float(lost.square().sum()))


def _variants(path: str) -> tuple[str, ...]:
    """Return both paths of a module: files of CLIP by transformers have the prefix `text_model.`, its modules not
    always."""
    bare = path.removeprefix(TEXT_MODEL)
    return (bare, TEXT_MODEL + bare)
