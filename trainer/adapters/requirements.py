"""Checks that the base supports the chosen adapter, and warns about tools that cannot open its file."""

from collections.abc import Mapping, Sequence
from typing import Any

from peft.tuners.lora import LoraLayer as PeftLoraLayer
from torch import nn

from families.family import ModelFamily
from settings.record import ConfigError
from settings.sections.adapter import AdapterSection
from trainer.adapters.first_values import EVA, PARTS_OF_WEIGHTS
from trainer.adapters.kinds import KINDS
from trainer.adapters.targets import denoiser_targets

LINEAR_INITS = (EVA, *PARTS_OF_WEIGHTS)
B_LORA_DEPTH = 10
"""Transformer layers in each of SDXL's blocks that B-LoRA trains."""


def check_targets(family: ModelFamily, settings: AdapterSection) -> None:
    """Check, before training starts, that the base has the layers for the adapter. Raises ConfigError when it has
    not."""
    if settings.has_low_rank_adapter:
        paths = denoiser_targets(family, settings)
        modules = dict(family.denoiser.named_modules())
        convolutions = [path for path in paths if isinstance(modules[path], nn.Conv2d)]
        _require_whole(convolutions, modules, settings)
        if convolutions and KINDS[settings.adapter].linear_only:
            raise ConfigError(
                f"adapter: {settings.adapter} does not support convolutions such as {convolutions[0]}; choose "
                "lora_targets without them, or another adapter"
            )
        if convolutions and settings.lora_init in LINEAR_INITS:
            raise ConfigError(
                f"lora_init: {settings.lora_init} only supports linear layers, not convolutions such as "
                f"{convolutions[0]}; choose lora_targets without them, or kaiming"
            )
    if settings.train_text_encoder and not family.text_encoders:
        raise ConfigError(
            f"train_text_encoder: base models of the family {family.name} have no text encoder that can be trained"
        )


def _require_whole(convolutions: Sequence[str], modules: Mapping[str, Any], settings: AdapterSection) -> None:
    """Raises ConfigError for a LoRA on a grouped convolution: the product of its factors has another shape."""
    in_groups = [path for path in convolutions if modules[path].groups > 1]
    if in_groups and issubclass(KINDS[settings.adapter].module, PeftLoraLayer):
        raise ConfigError(
            f"adapter: {settings.adapter} does not support grouped convolutions such as {in_groups[0]}; choose a "
            "lora_target_regex without them, or adapter: lokr or loha"
        )


def b_lora_warning(settings: AdapterSection, family: ModelFamily) -> str | None:
    """A warning if the blocks of B-LoRA differ from those of SDXL, so that they may not represent content and style."""
    if settings.lora_target_regex is not None or not settings.lora_targets.startswith("b-lora"):
        return None
    depths = [
        len(family.denoiser.get_submodule(f"{block}.transformer_blocks")) for block in family.b_lora_blocks.values()
    ]
    if all(depth == B_LORA_DEPTH for depth in depths):
        return None
    return (
        f"lora_targets: {settings.lora_targets}: B-LoRA's blocks for content and style were found in SDXL, with "
        f"{B_LORA_DEPTH} transformer layers each; in this base model these blocks have "
        f"{' and '.join(map(str, depths))}, and training only them may have no effect. lora_targets: attention trains "
        "all blocks"
    )


def where_it_opens(settings: AdapterSection, family: ModelFamily) -> str | None:
    """Return a warning if some tools cannot open the adapter's file; None for a LoRA, which all tools open."""
    if settings.adapter == "dora" and family.layer_naming != "peft":
        return (
            "adapter dora: only predict.py applies its file exactly; diffusers drops the magnitudes, ComfyUI applies "
            "them approximately, A1111 along the other axis (docs/artifact.md). All tools open rslora and lora"
        )
    if settings.adapter in KINDS and (opens := KINDS[settings.adapter].opens) is not None:
        return f"adapter {settings.adapter}: {opens}"
    if settings.is_perfusion:
        return "adapter perfusion: only predict.py opens its file, because it does not change weights"
    if settings.adapter == "full":
        return (
            "adapter full: the file contains the change of every weight; predict.py and ComfyUI open it, diffusers "
            "does not"
        )
    return None
