"""The formats that a LoRA file can be converted to; a new one is a function and a line in FORMATS."""

from collections.abc import Callable, Mapping
from pathlib import Path

from artifact.errors import ArtifactError
from artifact.layers import DoraLayer, Layer, LoraLayer
from trainer.formats.cog_sdxl import to_cog_sdxl
from trainer.formats.files import LoraFile, require_free, write_layers, write_tensors
from trainer.formats.module_names import Naming, parse, written


def to_kohya(file: LoraFile, path: Path) -> None:
    """kohya's names and alphas. Tensors keep every bit."""
    _renamed(file, path, "kohya")


def to_diffusers(file: LoraFile, path: Path) -> None:
    """peft's names, the scale folded into the up projections, because diffusers passes over alphas there.

    Raises ArtifactError for kinds of layers that diffusers cannot load.
    """
    for name, layer in file.artifact.layers.items():
        lora = layer.direction if isinstance(layer, DoraLayer) else layer
        if not isinstance(lora, LoraLayer) or lora.mid is not None:
            raise ArtifactError(
                f"{name} is a {lora.kind} layer, which diffusers cannot load. Use --format kohya, or make it a plain "
                "LoRA with resize."
            )
    _renamed(file, path, "diffusers")


def to_bundle(file: LoraFile, path: Path) -> None:
    """kohya's file with its tokens as `bundle_emb.<trigger>.<encoder>` (OneTrainer), which A1111 and Forge read.

    diffusers and ComfyUI do not: for them, keep the embeddings in a file of their own.
    """
    description, tokens = file.artifact.description, file.artifact.tokens
    if description is None or not tokens:
        raise ArtifactError("there are no tokens to bundle. Use --format kohya.")
    layers = _layers(file, "kohya")
    tensors = {f"{name}.{key}": value for name, layer in layers.items() for key, value in layer.tensors().items()}
    placeholders = [name for names in description.triggers.values() for name in names]
    for trigger, names in description.triggers.items():
        rows = [placeholders.index(name) for name in names]
        for encoder, table in tokens.items():
            tensors[f"bundle_emb.{trigger}.{encoder}"] = table[rows]
    write_tensors(tensors, file.header, path)


def to_embeddings(file: LoraFile, path: Path) -> None:
    """The tokens alone: `clip_l`, `clip_g`, or `emb_params` where there is one text encoder."""
    tokens = file.artifact.tokens
    if not tokens:
        raise ArtifactError("the file has no tokens, so there are no embeddings to write")
    named = {"emb_params": next(iter(tokens.values()))} if len(tokens) == 1 else dict(tokens)
    write_tensors(named, {}, path)


FORMATS: Mapping[str, Callable[[LoraFile, Path], None]] = {
    "kohya": to_kohya,
    "diffusers": to_diffusers,
    "cog-sdxl": to_cog_sdxl,
    "bundle": to_bundle,
    "embeddings": to_embeddings,
}


def convert(source: Path, target: Path, format_name: str) -> None:
    """Write `source` as `target`. Raises ArtifactError with the remedy, and then nothing is written."""
    require_free(target)
    FORMATS[format_name](LoraFile.read(source), target)


def _layers(file: LoraFile, naming: Naming) -> dict[str, Layer]:
    return {written(parse(name), naming, file.family): layer for name, layer in file.artifact.layers.items()}


def _renamed(file: LoraFile, path: Path, naming: Naming) -> None:
    if not file.artifact.layers:
        raise ArtifactError("the file has no layers, only tokens. Use --format embeddings.")
    header = dict(file.header)
    if naming == "diffusers" and "ss_network_dim" in header:
        header["ss_network_alpha"] = str(float(header["ss_network_dim"]))  # folded in: alpha is the rank now
    write_layers(_layers(file, naming), header, path)
