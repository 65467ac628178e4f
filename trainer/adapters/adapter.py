"""All that a configuration puts on a base beside the tokens, as one object."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import nn

from artifact.layers import Layer
from artifact.names.components import DENOISER, Place, components, place_names
from families.family import ModelFamily
from settings.record import ConfigError
from settings.sections.adapter import AdapterSection
from trainer.adapters.dropout import AdapterDropout
from trainer.adapters.full import FullFineTuning
from trainer.adapters.peft_adapter import PeftAdapter
from trainer.adapters.targets import denoiser_targets, text_encoder_targets
from trainer.randomness import NamedGenerators


class ComponentAdapter(Protocol):
    """What is trained on one component."""

    @property
    def parameters(self) -> list[nn.Parameter]: ...

    @property
    def undecayed(self) -> list[nn.Parameter]: ...

    def layers(self) -> dict[str, Layer]: ...

    def set_enabled(self, enabled: bool) -> None: ...

    def remove(self) -> None: ...


class Adapter:
    """The adapters by component (`denoiser`, `text_encoder`, `text_encoder_2`); none where only tokens are trained."""

    def __init__(self, family: ModelFamily, parts: Mapping[str, ComponentAdapter], names: Mapping[Place, str]) -> None:
        self._family = family
        self._parts = dict(parts)
        self._names = names

    @property
    def denoiser_parameters(self) -> list[nn.Parameter]:
        return self._parts[DENOISER].parameters if DENOISER in self._parts else []

    @property
    def text_encoder_parameters(self) -> list[nn.Parameter]:
        return [parameter for name, part in self._parts.items() if name != DENOISER for parameter in part.parameters]

    @property
    def undecayed(self) -> list[nn.Parameter]:
        """Those of the parameters that weight decay must leave alone, of every component."""
        return [parameter for part in self._parts.values() for parameter in part.undecayed]

    def layers(self) -> dict[str, Layer]:
        """Everything that has been trained up to now, of every component, by its name in the file."""
        return {
            self._names[Place(component, path)]: layer
            for component, part in self._parts.items()
            for path, layer in part.layers().items()
        }

    @contextmanager
    def off(self) -> Iterator[None]:
        """The bare base (with the tokens), for as long as it is needed."""
        for part in self._parts.values():
            part.set_enabled(False)
        try:
            yield
        finally:
            for part in self._parts.values():
                part.set_enabled(True)

    def remove(self) -> None:
        """Leave the bare base."""
        for part in self._parts.values():
            part.remove()


def check_targets(family: ModelFamily, settings: AdapterSection) -> None:
    """Raises ConfigError, before anything is trained, when the base lacks what the adapter would be put on."""
    if settings.has_low_rank_adapter:
        denoiser_targets(family, settings)
    if settings.train_text_encoder and not family.text_encoders:
        raise ConfigError(f"train_text_encoder: a base of the family {family.name} has no text encoder that can learn")


def where_it_opens(settings: AdapterSection, family: ModelFamily) -> str | None:
    """A warning where not every tool can open what will be trained; None for a LoRA, which all open."""
    if settings.adapter == "dora" and family.layer_naming != "peft":
        return (
            "adapter dora: its file opens exactly in predict.py only; diffusers drops the magnitudes, ComfyUI comes "
            "close, A1111 takes them along the other axis (docs/artifact.md). rslora or lora open everywhere"
        )
    if settings.adapter in ("loha", "lokr"):
        return f"adapter {settings.adapter}: diffusers cannot open its file; predict.py, ComfyUI and A1111 can"
    if settings.adapter == "full":
        return (
            "adapter full: the file holds the change of every weight; predict.py and ComfyUI open it, diffusers cannot"
        )
    return None


def place_adapter(family: ModelFamily, settings: AdapterSection, generators: NamedGenerators) -> Adapter:
    """Put on the base what `settings` (resolved) asks for. Tokens must be in place already.

    Raises ConfigError as `check_targets`.
    """
    names = place_names(family)
    parts: dict[str, ComponentAdapter] = {}
    if settings.adapter == "full":
        parts[DENOISER] = FullFineTuning(family.denoiser, family.idle_modules)
    elif settings.has_low_rank_adapter:
        paths = denoiser_targets(family, settings)
        parts[DENOISER] = _peft_adapter(family.denoiser, settings, settings.rank, paths, generators, "init_lora")
    if settings.train_text_encoder:
        rank = settings.text_encoder_rank or settings.rank
        encoders = {name: module for name, module in components(family).items() if name != DENOISER}
        adapters = {
            name: _peft_adapter(encoder, settings, rank, text_encoder_targets(encoder), generators, f"init_lora_{name}")
            for name, encoder in encoders.items()
        }
        _drop_idle(family, encoders, adapters)
        parts |= adapters
    return Adapter(family, parts, names)


def _peft_adapter(
    component: nn.Module,
    settings: AdapterSection,
    rank: int,
    paths: list[str],
    generators: NamedGenerators,
    init: str,
) -> PeftAdapter:
    alpha = settings.resolved_alpha if rank == settings.rank else settings.resolved_alpha * rank / settings.rank
    dropout = None
    if settings.adapter_dropout > 0:
        dropout = AdapterDropout(settings.adapter_dropout, generators["adapter_dropout"], generators.share.index)
    return PeftAdapter(component, settings.adapter, rank, alpha, paths, generators[init], dropout)


def _drop_idle(family: ModelFamily, encoders: Mapping[str, nn.Module], adapters: Mapping[str, PeftAdapter]) -> None:
    """Take the adapters off the layers whose output the family does not read: SDXL's first encoder stops one early."""
    features = family.encode_prompts(["a"])
    used = features.prompt_embeds.float().sum()
    if features.pooled_prompt_embeds is not None:
        used = used + features.pooled_prompt_embeds.float().sum()
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
