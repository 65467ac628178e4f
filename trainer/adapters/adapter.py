"""Groups the adapters of one or several components into one trained part."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from artifact.layers import Layer
from artifact.merging.low_rank import Fit
from artifact.names.components import Place, place_names
from families.family import ModelFamily
from settings.sections.adapter import AdapterSection
from trainer.adapters.dropout import AdapterDropout
from trainer.adapters.peft_adapter import PeftAdapter, Timed
from trainer.adapters.starting import CannotHold
from trainer.adapters.t_lora import component_times
from trainer.distributed.on_every_rank import AdapterOnEveryRank
from trainer.randomness import NamedGenerators


class ComponentAdapter(Protocol):
    """A trained change of one component, such as `PeftAdapter` or `FullFineTuning`."""

    @property
    def parameters(self) -> list[nn.Parameter]: ...

    @property
    def undecayed(self) -> list[nn.Parameter]: ...

    def layers(self) -> dict[str, Layer]: ...

    def start(self, path: str, layer: Layer) -> Fit | None: ...

    def set_enabled(self, enabled: bool) -> None: ...

    def remove(self) -> None: ...


class Adapter:
    """Adapters by component name: `denoiser`, `text_encoder`, `text_encoder_2`. Implements
    `trainer.trainables.part.Part`."""

    def __init__(self, family: ModelFamily, parts: Mapping[str, ComponentAdapter]) -> None:
        self._parts = dict(parts)
        self._names = place_names(family)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for part in self._parts.values() for parameter in part.parameters]

    @property
    def undecayed(self) -> list[nn.Parameter]:
        return [parameter for part in self._parts.values() for parameter in part.undecayed]

    def lora_modules(self) -> list[Any]:
        """peft's layers of the plain LoRAs among them."""
        return [module for part in self._parts.values() if isinstance(part, PeftAdapter) for module in part.modules()]

    @property
    def on_every_rank(self) -> AdapterOnEveryRank | None:
        """The adapter of the sharded component; None if no component is sharded."""
        return next((part for part in self._parts.values() if isinstance(part, AdapterOnEveryRank)), None)

    @property
    def up_projections(self) -> list[nn.Parameter]:
        """The up projections of the plain LoRAs among them."""
        plain = [part for part in self._parts.values() if isinstance(part, PeftAdapter)]
        return [parameter for part in plain for parameter in part.up_projections]

    def layers(self) -> dict[str, Layer]:
        return {
            self._names[Place(component, path)]: layer
            for component, part in self._parts.items()
            for path, layer in part.layers().items()
        }

    def start(self, place: Place, layer: Layer) -> Fit | None:
        """Initialise the module at `place` with `layer`. Returns the quality of the approximation, None if it is exact.
        Raises CannotHold."""
        if place.component not in self._parts:
            raise CannotHold(f"{place.component} is not trained")
        return self._parts[place.component].start(place.path, layer)

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
    timestep_ends: tuple[float, float] | None = None,
) -> PeftAdapter:
    """Add an adapter of `rank` to the layers of `component` at `paths`.

    `timestep_ends`: of a denoiser (`ModelFamily.timestep_ends`). Components without a timestep get a lora instead of a
    t-lora. `init` names the generator of the initial values. The placeholder tokens must already be in place. Alpha is
    scaled with `rank` where it differs from `settings.rank`, so that alpha / rank is the same; not for rsLoRA, whose
    alpha is for any rank (Kalajdzievski 2023, arXiv 2312.03732).
    """
    alpha = settings.resolved_alpha
    if rank != settings.rank and settings.adapter != "rslora":
        alpha *= rank / settings.rank
    dropout = None
    if settings.adapter_dropout > 0:
        dropout = AdapterDropout(settings.adapter_dropout, generators["adapter_dropout"], generators.share.index)
    kind, timed = settings.adapter, None
    if kind == "t-lora" and timestep_ends is not None:
        timed = Timed(component_times(rank, settings.resolved_t_lora_min_rank), timestep_ends)
    elif kind == "t-lora":
        kind = "lora"
    return PeftAdapter(component, kind, rank, alpha, paths, generators[init], dropout, settings.lora_init, timed)
