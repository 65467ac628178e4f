"""The denoiser as a trainable: an adapter on its layers, or all of its weights."""

from artifact.names.components import DENOISER
from trainer.adapters.adapter import Adapter, ComponentAdapter, new_adapter
from trainer.adapters.full import FullFineTuning
from trainer.adapters.targets import denoiser_targets
from trainer.distributed.on_every_rank import AdapterOnEveryRank
from trainer.trainables.kind import Placement, TrainableKind, Updates, UpdateSettings
from trainer.trainables.part import Part


def _place(placement: Placement) -> Part | None:
    family, settings = placement.family, placement.adapters
    if settings.trains_base:
        part: ComponentAdapter = _whole(placement)
    elif settings.has_low_rank_adapter:
        paths = denoiser_targets(family, settings)
        drawn, ends = placement.generators, family.timestep_ends
        part = new_adapter(family.denoiser, settings, settings.rank, paths, drawn, "init_lora", ends)
    else:
        return None
    return Adapter(family, {DENOISER: part})


def _whole(placement: Placement) -> ComponentAdapter:
    family, base = placement.family, placement.base
    tuning = FullFineTuning(family.denoiser, family.idle_modules, keeps_layers=placement.is_main or not base.sharded)
    return AdapterOnEveryRank(tuning, base) if base.sharded else tuning


def _updates(part: Part, settings: UpdateSettings) -> Updates:
    ups = part.up_projections if isinstance(part, Adapter) else ()
    return Updates(settings.weights, settings.optimization.max_grad_norm, first=settings.phases.tokens_first, ups=ups)


DENOISER_WEIGHTS = TrainableKind("lora", _place, _updates)
