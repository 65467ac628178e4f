"""An adapter as a part of a training: of one component of the base, or of several that are trained alike."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from artifact.layers import Layer
from artifact.names.components import Place, place_names
from families.family import ModelFamily
from settings.sections.adapter import AdapterSection
from trainer.adapters.dropout import AdapterDropout
from trainer.adapters.peft_adapter import PeftAdapter
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
    """The adapters by component: `denoiser`, `text_encoder`, `text_encoder_2`."""

    def __init__(self, family: ModelFamily, parts: Mapping[str, ComponentAdapter]) -> None:
        self._parts = dict(parts)
        self._names = place_names(family)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for part in self._parts.values() for parameter in part.parameters]

    @property
    def undecayed(self) -> list[nn.Parameter]:
        return [parameter for part in self._parts.values() for parameter in part.undecayed]

    def layers(self) -> dict[str, Layer]:
        return {
            self._names[Place(component, path)]: layer
            for component, part in self._parts.items()
            for path, layer in part.layers().items()
        }

    def rows(self) -> dict[str, Tensor]:
        return {}

    def set_enabled(self, enabled: bool) -> None:
        for part in self._parts.values():
            part.set_enabled(enabled)

    def remove(self) -> None:
        for part in self._parts.values():
            part.remove()


def new_adapter(
    component: nn.Module,
    settings: AdapterSection,
    rank: int,
    paths: list[str],
    generators: NamedGenerators,
    init: str,
) -> PeftAdapter:
    """On the layers at `paths`; the generator `init` draws its first values. Tokens must be in place already."""
    alpha = settings.resolved_alpha if rank == settings.rank else settings.resolved_alpha * rank / settings.rank
    dropout = None
    if settings.adapter_dropout > 0:
        dropout = AdapterDropout(settings.adapter_dropout, generators["adapter_dropout"], generators.share.index)
    return PeftAdapter(component, settings.adapter, rank, alpha, paths, generators[init], dropout)
