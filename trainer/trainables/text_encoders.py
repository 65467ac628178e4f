"""The text encoders as a trainable: an adapter on their attention, or their weights."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from artifact.names.components import text_encoders
from artifact.names.kohya import has_weight
from families.family import ModelFamily
from trainer.adapters.adapter import Adapter, new_adapter
from trainer.adapters.full import FullFineTuning
from trainer.adapters.peft_adapter import PeftAdapter
from trainer.adapters.targets import text_encoder_targets
from trainer.trainables.kind import Placement, TrainableKind, Updates, UpdateSettings
from trainer.trainables.part import Part


def _place(placement: Placement) -> Part | None:
    family, settings, generators = placement.family, placement.adapters, placement.generators
    if not settings.train_text_encoder:
        return None
    encoders = text_encoders(family)
    if settings.trains_base:
        return Adapter(family, _whole(family, encoders))
    rank = settings.text_encoder_rank or settings.rank
    adapters = {
        name: new_adapter(encoder, settings, rank, text_encoder_targets(encoder), generators, f"init_lora_{name}")
        for name, encoder in encoders.items()
    }
    _drop_idle(family, encoders, adapters)
    return Adapter(family, adapters)


def _updates(part: Part, settings: UpdateSettings) -> Updates:
    optimizer = replace(settings.weights, learning_rate=settings.text_encoder_learning_rate)
    ups = part.up_projections if isinstance(part, Adapter) else ()
    return Updates(optimizer, settings.optimization.max_grad_norm, first=settings.phases.tokens_first, ups=ups)


TEXT_ENCODERS = TrainableKind("text_encoders", _place, _updates)


def _whole(family: ModelFamily, encoders: Mapping[str, nn.Module]) -> dict[str, FullFineTuning]:
    """All weights except the embedding tables, which all prompts share: new tokens have separate rows."""
    stored, others = dict[str, dict[str, nn.Module]](), dict[str, list[str]]()
    for name, encoder in encoders.items():
        modules = {path: module for path, module in encoder.named_modules() if _own(module)}
        stored[name] = {path: module for path, module in modules.items() if _is_layer(module)}
        others[name] = [path for path in modules if path not in stored[name]]
    weights = [own for modules in stored.values() for module in modules.values() for own in _own(module)]
    for weight in weights:
        weight.requires_grad_(True)
    idle = _idle(family, {name: list(modules.values()) for name, modules in stored.items()})
    for weight in weights:
        weight.requires_grad_(False)
    return {
        name: FullFineTuning(
            encoder, {*others[name], *(path for path, module in stored[name].items() if id(module) in idle)}
        )
        for name, encoder in encoders.items()
    }


def _is_layer(module: nn.Module) -> bool:
    """Whether the file format supports the module's own weights; for a table with new rows, these are its own."""
    return has_weight(module) and "weight" in module._parameters


def _own(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters(recurse=False))


def _drop_idle(family: ModelFamily, encoders: Mapping[str, nn.Module], adapters: Mapping[str, PeftAdapter]) -> None:
    """Remove adapters from layers whose output the family does not use: SDXL's first encoder skips its last layer."""
    idle = _idle(family, {name: adapter.modules() for name, adapter in adapters.items()})
    for name, adapter in adapters.items():
        inside = {id(module): path for path, module in encoders[name].named_modules()}
        adapter.drop([inside[id(module)] for module in adapter.modules() if id(module) in idle])


def _idle(family: ModelFamily, modules: Mapping[str, Sequence[nn.Module]]) -> set[int]:
    """Return the ids of those modules whose trainable parameters do not reach the features of a prompt."""
    features = family.encode_prompts(["a"])
    used = torch.stack([each.float().sum() for each in features.tensors]).sum()
    trained = {
        id(module): [parameter for parameter in module.parameters() if parameter.requires_grad]
        for of_encoder in modules.values()
        for module in of_encoder
    }
    flat = [parameter for parameters in trained.values() for parameter in parameters]
    found = iter(torch.autograd.grad(used, flat, allow_unused=True))
    return {
        module
        for module, parameters in trained.items()
        if all(gradient is None for gradient in [next(found) for _ in parameters])
    }
