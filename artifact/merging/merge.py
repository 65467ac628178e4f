"""Merges several LoRAs into one."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count as count_from
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from artifact.conversion.files import LoraFile, require_free, write_layers
from artifact.conversion.module_names import ModuleName, Naming, parse, written
from artifact.errors import ArtifactError
from artifact.layers import Layer, LoraLayer
from artifact.merging.conflicts import COMBINERS, ties
from artifact.merging.dense import at_rank_on_base, open_base
from artifact.merging.klora import klora
from artifact.merging.low_rank import Fit, nearest_lora, relative_error
from artifact.merging.on_base import ON_BASE, merged_on_base
from artifact.merging.plain import Outcome, at_rank, concatenated, network_header, plain_lora, squared_norm
from artifact.merging.resize import require_layers, require_use_for_base
from artifact.metadata import TRIGGER_PHRASE, own_header, words_header
from families.lora_files import has_kohya_names

Mode = Literal["concat", "linear", "svd", "ties", "dare", "klora", "ziplora", "closed-form"]
MODES: tuple[Mode, ...] = ("concat", "linear", "svd", "ties", "dare", "klora", "ziplora", "closed-form")
OF_TWO = ("klora", "ziplora")
DENSITY = 0.5
OF_THE_BASE = ("base_config", "base_revision", "vae", "prediction_type", "zero_terminal_snr", "mixed_precision")
"""Settings of a training that say how its base model is loaded."""
REMEDY = "Merge with --mode svd --rank R --base BASE: its change of the base weights then becomes part of a plain LoRA."


def merge(
    sources: Sequence[Path],
    weights: Sequence[float],
    target: Path,
    mode: Mode = "concat",
    rank: int | None = None,
    base: str | None = None,
    base_config: str | None = None,
    density: float | None = None,
    prompts: Sequence[str] = (),
) -> Outcome:
    """Write the weighted sum of LoRAs as one LoRA with all their trigger words.

    concat: exact, the ranks add up. svd: the nearest LoRA of `rank`; with `base`, for files of any kind. linear: sums
    the factors instead of their products, as peft's "linear" does; the rank is unchanged, but untrained products of one
    file's up with another's down are added. ties and dare: see `artifact.merging.conflicts`; of `rank`, and each file
    keeps the share `density` of its entries, by default half. klora, ziplora: of a subject and a style, see
    `artifact.merging`; closed-form: of words. The last two need `base`, and use `prompts`, one for each file. The
    outcome contains the error relative to the exact sum; for ties and dare the error relative to their own result, and
    the distance of that from the sum. Raises
    ArtifactError with the remedy, BaseModelError for the base.
    """
    require_free(target)
    _require_sense(mode, rank, base, density)
    _require_count(mode, len(sources), base, prompts)
    files = read_all(sources, weights)
    notes: list[str] = []
    triggers, tokens = joined_words(files, notes)
    header = words_header(triggers, tokens)
    layers: Mapping[str, Layer]
    if base is not None and mode in ON_BASE:
        artifacts = [file.artifact for file in files]
        layers, outcome = merged_on_base(mode, artifacts, weights, open_base(base, base_config), prompts, REMEDY)
    elif mode == "klora":
        layers, outcome = _in_turn(files, weights)
    elif base is not None:
        require_use_for_base(files)
        layers, outcome = at_rank_on_base(
            [file.artifact for file in files], weights, open_base(base, base_config), rank or 1
        )
    else:
        layers, fits = _combined(files, weights, mode, rank or 1, density or DENSITY, notes)
        outcome = Outcome(fits)
    header |= network_header(files[0].header, layers)
    header |= _base_header(files, triggers)
    header["modelspec.merged_from"] = ", ".join(source.name for source in sources)
    if phrase := _trigger_phrase(files, triggers):
        header[TRIGGER_PHRASE] = phrase
    write_layers(layers, header, target)
    return Outcome(outcome.fits, [*outcome.left_out, *notes])


def read_all(sources: Sequence[Path], weights: Sequence[float]) -> list[LoraFile]:
    """Read the files. Raises ArtifactError when the counts differ, or the files are for different families."""
    if len(weights) != len(sources):
        raise ArtifactError(f"--weights: {len(weights)} numbers for {len(sources)} files; give one for each")
    if not all(map(math.isfinite, weights)):
        raise ArtifactError(f"--weights: {' '.join(map(str, weights))}; all must be finite numbers")
    files = [LoraFile.read(source) for source in sources]
    for file, source in zip(files, sources, strict=True):
        require_layers(file, source)
    families = sorted({file.family for file in files})
    if len(families) > 1:
        raise ArtifactError(f"the files are for different families, {' and '.join(families)}, and cannot be merged")
    return files


def joined_words(files: Sequence[LoraFile], notes: list[str]) -> tuple[dict[str, list[str]], dict[str, Tensor]]:
    """Return the trigger words of all files with their rows. Repeated words get a number, which is added to `notes`.

    Raises ArtifactError when the files' embeddings are for different text encoders.
    """
    with_words = [file.artifact for file in files if file.artifact.tokens]
    if len({tuple(sorted(artifact.tokens)) for artifact in with_words}) > 1:
        raise ArtifactError("the files' token embeddings are for different text encoders, and cannot be merged")
    triggers, count = dict[str, list[str]](), 0
    for artifact in with_words:
        for word, names in artifact.triggers.items():
            name = next(name for number in count_from(1)
                        if (name := f"{word}{'' if number == 1 else number}") not in triggers)  # fmt: skip
            if name != word:
                notes.append(f"two files have the trigger word {word}: that of the later one is now {name}")
            triggers[name] = [f"<s{count + index}>" for index in range(len(names))]
            count += len(names)
    encoders = with_words[0].tokens if with_words else {}
    return triggers, {name: torch.cat([artifact.tokens[name] for artifact in with_words]) for name in encoders}


def _base_header(files: Sequence[LoraFile], triggers: Mapping[str, list[str]]) -> dict[str, str]:
    """Return a description with the base model, so that images are generated on it; empty if the files do not name the
    same one. Steps, data and other settings of the trainings are left out."""
    described = [file.artifact.description for file in files]
    first = described[0]
    if first is None or len({one and (one.base_model, one.base_fingerprint) for one in described}) > 1:
        return {}
    words = triggers or {word: [] for file in files for word in file.artifact.triggers}
    config = {name: first.config[name] for name in OF_THE_BASE if name in first.config}
    merged = replace(first, triggers=dict(words), steps=0, config=config, dataset_digest="", recommended_scale=1.0,
                     sample_prompts=[])  # fmt: skip
    return own_header(merged)


def _trigger_phrase(files: Sequence[LoraFile], triggers: Iterable[str]) -> str:
    """Return the words with embeddings, and those of files without embeddings, which are plain text."""
    plain = [
        ", ".join(file.artifact.triggers) or file.header.get(TRIGGER_PHRASE, "")
        for file in files
        if not file.artifact.tokens
    ]
    return ", ".join(dict.fromkeys(filter(None, [*triggers, *plain])))


def _require_sense(mode: Mode, rank: int | None, base: str | None, density: float | None) -> None:
    ranked = mode in ("svd", *COMBINERS)
    if ranked and (rank is None or rank < 1):
        raise ArtifactError(f"--mode {mode}: give --rank, at least 1")
    if base is not None and mode not in ("svd", *ON_BASE):
        raise ArtifactError(
            f"--base is only supported with --mode svd, ziplora and closed-form, not with {mode}. Remove it."
        )
    if rank is not None and not ranked:
        raise ArtifactError(f"--rank is only supported with --mode svd, ties and dare, not with {mode}. Remove it.")
    if density is not None and mode not in COMBINERS:
        raise ArtifactError(f"--density is only supported with --mode ties and dare, not with {mode}. Remove it.")
    if density is not None and not 0 < density <= 1:
        raise ArtifactError(f"--density: {density:g} must be above 0, at most 1")


def _require_count(mode: Mode, count: int, base: str | None, prompts: Sequence[str]) -> None:
    if mode in ON_BASE and base is None:
        raise ArtifactError(f"--mode {mode}: give --base, the model that the files were trained on")
    if mode in OF_TWO and count != 2:
        raise ArtifactError(f"--mode {mode} needs two files, a subject and a style; {count} were given")
    if prompts and mode not in ON_BASE:
        raise ArtifactError(
            f"--prompts is only supported with --mode ziplora and closed-form, not with {mode}. Remove it."
        )
    if prompts and len(prompts) != count:
        raise ArtifactError(f"--prompts: {len(prompts)} prompts for {count} files; give one for each")


def _in_turn(files: Sequence[LoraFile], weights: Sequence[float]) -> tuple[dict[str, Layer], Outcome]:
    family = files[0].family
    naming: Naming = "kohya" if has_kohya_names(family) else "diffusers"
    subject, style = (
        {
            written(parse(name), naming, family): plain_lora(name, layer, weight, REMEDY)
            for name, layer in file.artifact.layers.items()
        }
        for file, weight in zip(files, weights, strict=True)
    )
    layers, note = klora(subject, style)
    return layers, Outcome([], [note])


def _combined(
    files: Sequence[LoraFile], weights: Sequence[float], mode: Mode, rank: int, density: float, notes: list[str]
) -> tuple[dict[str, Layer], list[Fit]]:
    parts: dict[ModuleName, list[LoraLayer]] = {}
    strengths: dict[ModuleName, list[float]] = {}
    for file, weight in zip(files, weights, strict=True):
        for name, layer in file.artifact.layers.items():
            plain = plain_lora(name, layer, weight, REMEDY)
            parts.setdefault(parse(name), []).append(plain)
            strengths.setdefault(parse(name), []).append(weight * getattr(layer, "scale", 1.0))
    family = files[0].family
    naming: Naming = "kohya" if has_kohya_names(family) else "diffusers"
    layers, fits, distances = dict[str, Layer](), list[Fit](), list[Fit]()
    combine, drawn = COMBINERS.get(mode, ties), torch.Generator().manual_seed(0)
    for module, group in parts.items():
        name = written(module, naming, family)
        whole = concatenated(f"{module.component}.{module.path}", group)
        if mode == "concat":
            layers[name], fit = whole, Fit(name, squared_norm(whole), 0.0)
        elif mode in COMBINERS:
            layers[name], fit, apart = _of_conflicts(name, group, rank, lambda parts: combine(parts, density, drawn))
            distances.append(apart)
        elif mode == "svd":
            layers[name], fit = at_rank(name, whole, rank)
        else:
            layers[name], fit = _linear(name, group, strengths[module], whole)
        fits.append(fit)
    if distances:
        notes.append(
            f"{mode} with density {density:g}: distance from the plain sum {relative_error(distances):.4g}, relative "
            "to its norm"
        )
    return layers, fits


def _of_conflicts(
    name: str, group: Sequence[LoraLayer], rank: int, combine: Callable[[Sequence[Tensor]], Tensor]
) -> tuple[LoraLayer, Fit, Fit]:
    """The LoRA nearest to the combined full changes, its error, and the distance of these from their sum."""
    changes = [(p.up.flatten(1) @ p.down.flatten(1)).reshape(-1, *p.down.shape[1:]) for p in group]
    combined, total = combine(changes), torch.stack(changes).sum(0)
    layer, fit = nearest_lora(name, combined, rank)
    return layer, fit, Fit(name, float(total.square().sum()), float((combined - total).square().sum()))


def _linear(
    name: str, group: Sequence[LoraLayer], strengths: Sequence[float], whole: LoraLayer
) -> tuple[LoraLayer, Fit]:
    """Sum the factors: Σ √|c| up and Σ ±√|c| down over the files, with c = weight · alpha / rank, which `up`
    contains."""
    if len({part.rank for part in group}) > 1:
        ranks = " and ".join(str(part.rank) for part in group)
        raise ArtifactError(f"{name} has the ranks {ranks}; --mode linear needs equal ranks. Use --mode svd or concat.")
    roots = [abs(strength) ** 0.5 for strength in strengths]
    down = torch.stack([part.down * root for part, root in zip(group, roots, strict=True)]).sum(0)
    up = torch.stack([part.up / (root or 1.0) for part, root in zip(group, roots, strict=True)]).sum(0)
    summed = LoraLayer(down, up, float(len(down)))
    apart = concatenated(name, [summed, LoraLayer(whole.down, -whole.up, whole.alpha)])
    return summed, Fit(name, squared_norm(whole), max(squared_norm(apart), 0.0))
