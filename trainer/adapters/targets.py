"""Selects the layers that get an adapter, by preset or by regular expression."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from families.family import ModelFamily
from families.parts.blocks import repeated_blocks
from settings.record import ConfigError
from settings.sections.adapter import AdapterSection
from trainer.patterns.matching import matching

TEXT_ENCODER_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj")
CROSS_ATTENTION_KV = ("attn2.to_k", "attn2.to_v")
"""Key and value projections of cross-attention in a UNet: the layers of Custom Diffusion (Kumari et al. 2023)."""
EXAMPLES = 6


def denoiser_targets(family: ModelFamily, config: AdapterSection) -> list[str]:
    """Return the paths of the denoiser's linear and convolution layers that `config` selects, in the model's order.

    Raises ConfigError when the base has no such layers, or the regular expression is wrong or matches none.
    """
    layers = [path for path in layer_paths(family.denoiser) if path not in family.idle_modules]
    if config.lora_target_regex is not None:
        return _matching(config.lora_target_regex, layers)
    if config.lora_targets == "cross-attention-kv":
        return _required(family, config, [path for path in layers if path.endswith(CROSS_ATTENTION_KV)])
    if config.lora_targets == "all-linear":
        return [path for path in _linear_of_blocks(family.denoiser) if path in layers]
    if config.lora_targets.startswith("b-lora"):
        return _b_lora(family, config, layers)
    kinds = config.lora_targets.split("+")
    missing = [kind for kind in kinds if not family.adapter_modules[kind]]
    if missing:
        remedy = "+".join(kind for kind in kinds if kind not in missing)
        raise ConfigError(
            f"lora_targets: base models of the family {family.name} have no {missing[0]}; choose {remedy}"
        )
    return ending_with(layers, [name for kind in kinds for name in family.adapter_modules[kind]])


def _linear_of_blocks(denoiser: nn.Module) -> list[str]:
    """Return the paths of all linear layers in the repeated blocks: attention, feed-forward, and modulation."""
    inside = {id(module) for block in repeated_blocks(denoiser) for module in block.modules()}
    return [path for path, module in denoiser.named_modules() if isinstance(module, nn.Linear) and id(module) in inside]


def text_encoder_targets(encoder: nn.Module) -> list[str]:
    """Return the paths of the attention layers of a CLIP text encoder."""
    return ending_with(layer_paths(encoder), TEXT_ENCODER_LAYERS)


def layer_paths(model: nn.Module) -> list[str]:
    """Return the paths of all linear and convolution layers, in the model's order."""
    return [path for path, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]


def _b_lora(family: ModelFamily, config: AdapterSection, layers: Sequence[str]) -> list[str]:
    if not family.b_lora_blocks:
        raise ConfigError(
            f"lora_targets: B-LoRA's blocks are only known for SDXL, not for {family.name}. Choose attention"
        )
    wanted = config.lora_targets.removeprefix("b-lora").removeprefix("-")
    blocks = [block for name, block in family.b_lora_blocks.items() if wanted in ("", name)]
    attention = ending_with(layers, family.adapter_modules["attention"])
    return _required(family, config, [path for path in attention if path.startswith(tuple(f"{b}." for b in blocks))])


def ending_with(paths: Sequence[str], endings: Sequence[str]) -> list[str]:
    """Return the paths that end with one of `endings`, at the start of a path component. `*` in an ending matches any
    characters."""
    return [path for path in paths if any(fnmatchcase(f".{path}", f"*.{ending}") for ending in endings)]


def _required(family: ModelFamily, config: AdapterSection, paths: list[str]) -> list[str]:
    if not paths:
        raise ConfigError(
            f"lora_targets: base models of the family {family.name} have no layers for {config.lora_targets}; choose "
            "attention"
        )
    return paths


def _matching(pattern: str, paths: Sequence[str]) -> list[str]:
    """Return the paths that `pattern` matches completely."""
    found = matching(pattern, paths, whole=True, setting="lora_target_regex")
    if not found:
        some = paths[:: max(1, len(paths) // EXAMPLES)][:EXAMPLES]
        raise ConfigError(
            f"lora_target_regex: {pattern!r} matches none of the {len(paths)} layers; it must match whole paths such "
            "as "
            f"{', '.join(some)}"
        )
    return found
