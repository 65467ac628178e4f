"""Converts LoRA files between formats. A new format is a function and a line in FORMATS."""

from collections.abc import Callable, Mapping
from pathlib import Path

from artifact.conversion.cog_sdxl import to_cog_sdxl
from artifact.conversion.files import LoraFile, require_change_of_weights, require_free, write_layers, write_tensors
from artifact.conversion.module_names import Naming, parse, written
from artifact.conversion.transformer_names import FAMILIES, ai_toolkit_layers, kohya_layers
from artifact.errors import ArtifactError
from artifact.layers import DoraLayer, Layer, LoraLayer
from artifact.metadata import implementation, network_header
from families.lora_files import has_prior_names, has_sgm_names


def to_kohya(file: LoraFile, path: Path) -> None:
    """Write kohya's names and alphas; musubi-tuner's for the families that it alone trains. Tensors are bit-identical,
    except for parts of FLUX's joined layers that have different scales."""
    _renamed(file, path, "kohya")


def to_diffusers(file: LoraFile, path: Path) -> None:
    """Write peft's names, with the scale folded into the up projections, because diffusers ignores alphas there.

    Raises ArtifactError for kinds of layers that diffusers cannot load.
    """
    _require_plain(file, "diffusers")
    _renamed(file, path, "diffusers")


def to_ai_toolkit(file: LoraFile, path: Path) -> None:
    """Write ai-toolkit's names of a transformer, with peft's keys and the scale folded in, as for diffusers.

    Raises ArtifactError for other bases, and for kinds of layers that peft's keys cannot say.
    """
    if file.family not in FAMILIES:
        raise ArtifactError(
            f"--format ai-toolkit supports {', '.join(FAMILIES)}; this LoRA is for {file.family}. Use --format "
            "diffusers."
        )
    _require_plain(file, "ai-toolkit")
    _renamed(file, path, "ai-toolkit")


def _require_plain(file: LoraFile, reader: str) -> None:
    for name, layer in file.artifact.layers.items():
        lora = layer.direction if isinstance(layer, DoraLayer) else layer
        if not isinstance(lora, LoraLayer) or lora.mid is not None:
            raise ArtifactError(
                f"{name} is a {lora.kind} layer, which {reader} cannot load. Use --format kohya, or convert it to a "
                "plain LoRA first: python -m artifact resize FILE OUT --rank R --base BASE"
            )


def to_bundle(file: LoraFile, path: Path) -> None:
    """Write kohya's format with tokens as `bundle_emb.<trigger>.<encoder>` (OneTrainer), which A1111 and Forge read.

    diffusers and ComfyUI do not: they need the embeddings in a separate file.
    """
    triggers, tokens = file.artifact.triggers, file.artifact.tokens
    if not tokens:
        raise ArtifactError("the file has no token embeddings to bundle. Use --format kohya.")
    layers = _layers(file, "kohya")
    tensors = {f"{name}.{key}": value for name, layer in layers.items() for key, value in layer.tensors().items()}
    first = 0
    for trigger, names in triggers.items():
        for encoder, table in tokens.items():
            key = "clip_l" if encoder == "clip_h" else encoder  # OneTrainer uses the same name for SD2's encoder
            tensors[f"bundle_emb.{trigger}.{key}"] = table[first : first + len(names)]
        first += len(names)
    write_tensors(tensors, file.header_with_words, path)


def to_embeddings(file: LoraFile, path: Path) -> None:
    """Write the tokens alone: `clip_l`, `clip_g`, or `emb_params` for a single text encoder that is not a prior's.

    The header stores the trigger words. Other tools read all rows as one word, the file's name.
    """
    tokens = file.artifact.tokens
    if not tokens:
        raise ArtifactError("the file has no token embeddings, so --format embeddings has nothing to write")
    alone = len(tokens) == 1 and not has_prior_names(file.family)
    named = {"emb_params": next(iter(tokens.values()))} if alone else dict(tokens)
    header = {key: value for key, value in file.header_with_words.items() if not key.startswith("ss_network_")}
    if architecture := header.get("modelspec.architecture"):
        header["modelspec.architecture"] = architecture.rpartition("/")[0] + "/textual-inversion"
    write_tensors(named, header, path)


FORMATS: Mapping[str, Callable[[LoraFile, Path], None]] = {
    "kohya": to_kohya,
    "diffusers": to_diffusers,
    "ai-toolkit": to_ai_toolkit,
    "cog-sdxl": to_cog_sdxl,
    "bundle": to_bundle,
    "embeddings": to_embeddings,
}


def convert(source: Path, target: Path, format_name: str) -> None:
    """Write `source` as `target`. Raises ArtifactError with the remedy, without writing anything."""
    require_free(target)
    file = LoraFile.read(source)
    if format_name != "embeddings":
        require_change_of_weights(file, source)
    FORMATS[format_name](file, target)


def _layers(file: LoraFile, naming: Naming) -> dict[str, Layer]:
    if naming == "kohya" and file.family in FAMILIES:
        return kohya_layers(file.artifact.layers, file.family)
    if naming == "ai-toolkit":
        return ai_toolkit_layers(file.artifact.layers, file.family)
    return {written(parse(name), naming, file.family): layer for name, layer in file.artifact.layers.items()}


def _renamed(file: LoraFile, path: Path, naming: Naming) -> None:
    if not file.artifact.layers:
        raise ArtifactError("the file has no layers, only token embeddings. Use --format embeddings.")
    header = file.header_with_tokens
    if naming != "kohya" and "ss_network_dim" in header:
        header["ss_network_alpha"] = str(float(header["ss_network_dim"]))  # alpha / rank is folded in
    if "modelspec.implementation" in header:
        header["modelspec.implementation"] = implementation(sgm_names=naming == "kohya" and has_sgm_names(file.family))
    layers = _layers(file, naming)
    if "ss_network_dim" in header and len(layers) < len(file.artifact.layers):
        header |= network_header(layers.values())  # joined layers have the sum of ranks
    write_layers(layers, header, path)
