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
                f"adapter: {settings.adapter} cannot be put on convolutions such as {convolutions[0]}; choose "
                "lora_targets without them, or another adapter"
            )
        if convolutions and settings.lora_init in LINEAR_INITS:
            raise ConfigError(
                f"lora_init: {settings.lora_init} is for linear layers, not for convolutions such as "
                f"{convolutions[0]}; choose lora_targets without them, or kaiming"
            )
    if settings.train_text_encoder and not family.text_encoders:
        raise ConfigError(f"train_text_encoder: a base of the family {family.name} has no text encoder that can learn")


def _require_whole(convolutions: Sequence[str], modules: Mapping[str, Any], settings: AdapterSection) -> None:
    """Raises ConfigError where a LoRA should change a convolution in groups: the product of its factors is another."""
    in_groups = [path for path in convolutions if modules[path].groups > 1]
    if in_groups and issubclass(KINDS[settings.adapter].module, PeftLoraLayer):
        raise ConfigError(
            f"adapter: {settings.adapter} cannot be put on convolutions in groups, such as {in_groups[0]}; choose "
            "a lora_target_regex without them, or adapter: lokr or loha"
        )


def b_lora_warning(settings: AdapterSection, family: ModelFamily) -> str | None:
    """A warning where the blocks of B-LoRA are not what they are in SDXL, and may hold neither content nor style."""
    if settings.lora_target_regex is not None or not settings.lora_targets.startswith("b-lora"):
        return None
    depths = [
        len(family.denoiser.get_submodule(f"{block}.transformer_blocks")) for block in family.b_lora_blocks.values()
    ]
    if all(depth == B_LORA_DEPTH for depth in depths):
        return None
    return (
        f"lora_targets: {settings.lora_targets}: content and style were found in two blocks of SDXL with "
        f"{B_LORA_DEPTH} transformer layers each; this base has {' and '.join(map(str, depths))} there, and may learn "
        "nothing in them. lora_targets: attention learns in all"
    )


def where_it_opens(settings: AdapterSection, family: ModelFamily) -> str | None:
    """Return a warning when some tools cannot open the adapter's file, None for a LoRA, which all tools open."""
    if settings.adapter == "dora" and family.layer_naming != "peft":
        return (
            "adapter dora: its file opens exactly in predict.py only; diffusers drops the magnitudes, ComfyUI comes "
            "close, A1111 takes them along the other axis (docs/artifact.md). rslora or lora open everywhere"
        )
    if settings.adapter in KINDS and (opens := KINDS[settings.adapter].opens) is not None:
        return f"adapter {settings.adapter}: {opens}"
    if settings.is_perfusion:
        return "adapter perfusion: only predict.py opens its file, which is no change of weights"
    if settings.adapter == "full":
        return (
            "adapter full: the file holds the change of every weight; predict.py and ComfyUI open it, diffusers cannot"
        )
    return None
