"""Describes a LoRA file as a table."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch

from artifact.conversion.files import LoraFile
from artifact.conversion.module_names import parse
from artifact.errors import ArtifactError
from artifact.layers import DoraLayer, GatedLayer, LohaLayer, LokrLayer, LoraLayer, OftLayer, TimedLoraLayer

SHOWN_HEADER = ("modelspec.", "ss_")
LONGEST_VALUE = 100


def inspect(path: Path) -> str:
    """Return the table. Raises ArtifactError when the file cannot be read."""
    return "\n".join(f"{label:<12} {text}".rstrip() for label, text in _rows(LoraFile.read(path)))


def _rows(file: LoraFile) -> Iterator[tuple[str, str]]:
    artifact, description = file.artifact, file.artifact.description
    yield "file", file.form
    yield "family", _family(file)
    if description is not None:
        yield "base", f"{description.base_model} ({description.prediction_type}, {description.base_fingerprint[:12]})"
        yield "steps", str(description.steps)
        yield "scale", f"{description.recommended_scale:g} recommended"
    for trigger, names in artifact.triggers.items():
        yield "trigger", f"{trigger} → {' '.join(names)}" if names else f"{trigger} (plain word, no token embeddings)"
    for encoder, rows in artifact.tokens.items():
        norms = ", ".join(f"{float(norm):.3g}" for norm in rows.norm(dim=1))
        yield "tokens", f"{encoder}: {len(rows)} of width {rows.shape[1]}, norms {norms}"
    kinds = Counter((layer.kind, layer.rank, layer.alpha) for layer in artifact.layers.values())
    for (kind, rank, alpha), count in kinds.most_common():
        size = "" if rank is None else f", rank {rank}" + ("" if alpha is None else f", alpha {alpha:g}")
        yield "layers", f"{count} {kind}{size}"
    yield from _blocks(file)
    for key in sorted(file.header):
        if key.startswith(SHOWN_HEADER):
            value = " ".join(file.header[key].split())
            yield "metadata", f"{key} = {value if len(value) <= LONGEST_VALUE else value[:LONGEST_VALUE] + ' …'}"
    for sentence in _limits(file):
        yield "note", sentence


def _family(file: LoraFile) -> str:
    try:
        return file.family
    except ArtifactError as error:
        return f"unknown ({error})"


def _blocks(file: LoraFile) -> Iterator[tuple[str, str]]:
    """Yield the number of layers and the norm of their parameters, by component and block."""
    counts: Counter[str] = Counter()
    squares: defaultdict[str, float] = defaultdict(float)
    for name, layer in file.artifact.layers.items():
        try:
            component, path = parse(name)
            block = ".".join([component, *path.split(".")[: 1 if path.startswith("mid_block") else 2]])
        except ArtifactError:
            block = "other"
        counts[block] += 1
        squares[block] += sum(float(torch.linalg.vector_norm(part.float())) ** 2 for part in layer.parameters)
    for block in sorted(counts):
        yield "block", f"{block:<32} {counts[block]:>4} layers, parameters of norm {squares[block] ** 0.5:.4g}"


def _limits(file: LoraFile) -> Iterator[str]:
    """Yield notes on tools that cannot load the file (checked with diffusers 0.42)."""
    layers = file.artifact.layers.values()
    if any(isinstance(layer, LohaLayer | LokrLayer) for layer in layers):
        yield "diffusers refuses LoHa and LoKr layers; ComfyUI and A1111 load them"
    if any(isinstance(layer, OftLayer) for layer in layers):
        yield (
            "diffusers and A1111 refuse OFT layers, ComfyUI needs a node for OFTv2: resize converts them to a plain "
            "LoRA"
        )
    if any(isinstance(layer, TimedLoraLayer) for layer in layers):
        yield (
            "only predict.py supports the timestep ranges of timed LoRA: resize converts it to a plain LoRA of the "
            "mean effect"
        )
    if any(isinstance(layer, GatedLayer) for layer in layers):
        yield "only predict.py opens it: Perfusion edits the outputs for its trigger words, and does not change weights"
    if any("." not in name and isinstance(layer, DoraLayer) for name, layer in file.artifact.layers.items()):
        yield "diffusers drops dora_scale from kohya's names with a warning only: convert to diffusers for it"
    for layer in layers:
        if isinstance(layer, DoraLayer) and layer.axis == 1:
            yield "its dora_scale is per input (as in LyCORIS): peft and diffusers do not support it"
            break
    if any(
        "." in name and isinstance(layer, LoraLayer) and layer.scale != 1
        for name, layer in file.artifact.layers.items()
    ):
        yield "diffusers ignores the alphas of peft's names: convert to diffusers to fold them in"
    if file.form == "LoRA with bundled embeddings":
        yield "diffusers ignores the whole file: convert to kohya or diffusers, and to embeddings"
    if file.form == "tar as cog-sdxl writes":
        yield "no other tool opens the tar: convert to kohya or diffusers, and to embeddings"
    if file.artifact.tokens and file.form == "LoRA":
        yield "ComfyUI, A1111 and diffusers need the token embeddings in a separate file: convert to embeddings"
