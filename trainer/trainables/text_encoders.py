"""The text encoders as a trainable: an adapter on their attention."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from artifact.names.components import DENOISER, components
from families.family import ModelFamily
from trainer.adapters.adapter import Adapter, new_adapter
from trainer.adapters.peft_adapter import PeftAdapter
from trainer.adapters.targets import text_encoder_targets
from trainer.trainables.kind import Placement, TrainableKind, Updates, UpdateSettings
from trainer.trainables.part import Part


def _place(placement: Placement) -> Part | None:
    family, settings, generators = placement.family, placement.adapters, placement.generators
    if not settings.train_text_encoder:
        return None
    rank = settings.text_encoder_rank or settings.rank
    encoders = {name: module for name, module in components(family).items() if name != DENOISER}
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


def _drop_idle(family: ModelFamily, encoders: Mapping[str, nn.Module], adapters: Mapping[str, PeftAdapter]) -> None:
    """Remove adapters from layers whose output the family does not use: SDXL's first encoder skips its last layer."""
    features = family.encode_prompts(["a"])
    used = torch.stack([each.float().sum() for each in features.tensors]).sum()
    for name, adapter in adapters.items():
        inside = {id(module): path for path, module in encoders[name].named_modules()}
        modules = adapter.modules()
        of_module = [[p for p in module.parameters() if p.requires_grad] for module in modules]
        gradients = torch.autograd.grad(
            used, [p for some in of_module for p in some], allow_unused=True, retain_graph=True
        )
        found = iter(gradients)
        idle = [
            inside[id(module)]
            for module, some in zip(modules, of_module, strict=True)
            if all(gradient is None for gradient in [next(found) for _ in some])
        ]
        adapter.drop(idle)
