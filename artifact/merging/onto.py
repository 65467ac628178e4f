"""Merges LoRAs into a base checkpoint: folder to folder, single file to single file. Tokens are added to folders."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from artifact.artifact import PRECISIONS, Artifact
from artifact.conversion.files import require_free
from artifact.errors import ArtifactError
from artifact.merging.dense import Changes, open_base
from artifact.merging.low_rank import Fit
from artifact.merging.merge import read_all
from artifact.merging.plain import Outcome
from artifact.merging.single_file_rows import rows_of
from artifact.merging.words_inside import WordsInside
from artifact.names.components import DENOISER, Place, text_encoders
from artifact.safetensors_file import in_precision, write_safetensors
from families.family import ModelFamily
from families.loading.sources import BaseModelSource, find_base_model

TEXT_MODEL = "text_model."
VAE_OF_FILES = "first_stage_model."
WEIGHTS, DESCRIPTIONS = ".safetensors", (".json", ".txt", ".md", ".model", ".jinja")


def merge_onto(
    sources: Sequence[Path],
    weights: Sequence[float],
    base: str,
    target: Path,
    base_config: str | None = None,
    precision: str | None = None,
) -> Outcome:
    """Write `base` with the files' changes merged into its weights, as `write_onto` does.

    Raises ArtifactError without writing anything, or BaseModelError when the base cannot be loaded.
    """
    source = local_base(base, "--onto")
    files = read_all(sources, weights)
    family = open_base(base, base_config)
    named = {name: file.artifact for file, name in zip(files, _different_names(sources), strict=True)}
    return write_onto(named, weights, source, family, target, precision)


def _different_names(sources: Sequence[Path]) -> list[str]:
    """Return the files' names; their paths where names are equal, and with a number where the same file is given
    twice."""
    for names in ([path.name for path in sources], [str(path) for path in sources]):
        if len(set(names)) == len(names):
            return names
    return [f"{path} ({number})" for number, path in enumerate(sources, 1)]


def write_onto(
    artifacts: Mapping[str, Artifact],
    weights: Sequence[float],
    source: BaseModelSource,
    family: ModelFamily,
    target: Path,
    precision: str | None = None,
) -> Outcome:
    """Write a base with the changes of `artifacts`, by the names of their files, in its weights.

    `source`: where the base lies, a folder or a file. `family`: the same base, in fp32 and without any change.
    `precision`: fp16, bf16 or fp32, of the denoiser and the text encoders; None: that of each weight of the base. All
    other tensors and configuration files are copied unchanged; pickles are not copied. In a folder the words are added
    to tokenizers and embedding tables; a single file has no place for them. The outcome's error is the part of the
    changes that is lost by rounding. Raises ArtifactError without writing anything.
    """
    require_free(target)
    dtype = None if precision is None else PRECISIONS[precision]
    changes = Changes(list(artifacts.values()), weights, family)
    fits: list[Fit] = []
    if source.kind == "file":
        _into_file(Path(source.location), target, changes, ", ".join(artifacts), fits, dtype)
        notes = [note for name, artifact in artifacts.items() for note in _left_behind(artifact, name)]
    else:
        words = WordsInside.of(list(artifacts.values()), family)
        _into_folder(Path(source.location), target, changes, fits, dtype, words)
        notes = words.notes
    return Outcome(fits, [*changes.approximate, *notes])


def local_base(base: str, input_name: str) -> BaseModelSource:
    """Locate a base whose files can be rewritten. `input_name`: the option, for errors. Raises ArtifactError for one on
    the hub, and BaseModelError."""
    source = find_base_model(base)
    if source.kind == "hub":
        raise ArtifactError(f"{input_name}: {base} is a hub id. Download it (hf download {base}), and give the folder.")
    return source


def _left_behind(artifact: Artifact, name: str) -> list[str]:
    if not artifact.tokens:
        return []
    words = ", ".join(artifact.triggers)
    return [
        f"{name}: a single file cannot contain the trigger word {words}. Export it with python -m artifact convert "
        "--format embeddings"
    ]


def _into_folder(
    source: Path, target: Path, changes: Changes, fits: list[Fit], dtype: torch.dtype | None, words: WordsInside
) -> None:
    """Merge into a folder. Only files that diffusers reads are copied: configurations, and safetensors of
    components."""
    denoiser = next((name for name in ("transformer", "prior", "decoder") if (source / name).is_dir()), "unet")
    pending = {
        (denoiser if place.component == DENOISER else place.component, f"{path}.{kind}"): (place, kind)
        for place in changes.places
        for kind in changes.kinds(place)
        for path in _variants(place.path)
    }
    parts = {denoiser, *text_encoders(changes.family)}
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
                met |= _rewrite(path, copy, here, changes, fits, dtype if component in parts else None)
        lacking = [change for change in pending.values() if change not in met]
        if lacking:
            place, kind = lacking[0]
            raise ArtifactError(f"{source}: no safetensors file of {place.component} contains {place.path}.{kind}")
        words.write(unfinished)
        os.replace(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _rewrite(
    path: Path,
    copy: Path,
    pending: Mapping[str, tuple[Place, str]],
    changes: Changes,
    fits: list[Fit],
    dtype: torch.dtype | None,
) -> set[tuple[Place, str]]:
    """Write one file of weights with its changes. Returns the changes that it contains."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        keys = {key: pending[key] for key in file.keys() if key in pending}  # noqa: SIM118 (no mapping)
        if not keys and dtype is None:
            shutil.copyfile(path, copy)
            return set()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for key, tensor in tensors.items():
        if key not in keys:
            tensors[key] = in_precision(tensor, dtype, f"{path.parent.name}/{key}")
    for key, (place, kind) in keys.items():
        change = getattr(changes.at(place), kind)
        tensors[key], fit = _changed(tensors[key], change, f"{path.parent.name}/{key}", dtype)
        fits.append(fit)
    write_safetensors(tensors, copy, header)
    return set(keys.values())


def _into_file(
    source: Path, target: Path, changes: Changes, names: str, fits: list[Fit], dtype: torch.dtype | None
) -> None:
    with safe_open(source, framework="pt") as file:
        header = dict(file.metadata() or {})
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    table = rows_of(tensors, changes.family)
    written = {
        key: tensor.clone() if key.startswith(VAE_OF_FILES) else in_precision(tensor, dtype, key).clone()
        for key, tensor in tensors.items()
    }
    for place in changes.places:
        change = changes.at(place)
        for kind in changes.kinds(place):
            rows = table.find(place, kind)
            before, base = tensors[rows.tensor][rows.numbers], getattr(changes.base(place), kind).detach().cpu()
            if not torch.equal(before.float().flatten(), base.flatten()):
                raise ArtifactError(
                    f"{rows.tensor} differs from the loaded {place.path}. Merge onto a folder in diffusers' layout "
                    "instead."
                )
            moved = getattr(change, kind).reshape(before.shape)
            written[rows.tensor][rows.numbers], fit = _changed(before, moved, rows.tensor, dtype)
            fits.append(fit)
    header.pop("modelspec.hash_sha256", None)
    header["modelspec.merged_from"] = ", ".join([source.name, names])
    write_safetensors(written, target, header)


def _changed(before: Tensor, change: Tensor, name: str, dtype: torch.dtype | None) -> tuple[Tensor, Fit]:
    """Return the changed weight in `dtype`, or its own. Raises ArtifactError when that would overflow."""
    if before.shape != change.shape:
        raise ArtifactError(
            f"{name} has shape {tuple(before.shape)} in the base model's file, but {tuple(change.shape)} when loaded"
        )
    change = change.cpu().float()
    after = in_precision(before.float() + change, dtype or before.dtype, name)
    lost = after.float() - before.float() - change
    return after, Fit(name, float(change.square().sum()), float(lost.square().sum()))


def _variants(path: str) -> tuple[str, ...]:
    """Return both paths of a module: files of CLIP by transformers have the prefix `text_model.`, its modules not
    always."""
    bare = path.removeprefix(TEXT_MODEL)
    return (bare, TEXT_MODEL + bare)
