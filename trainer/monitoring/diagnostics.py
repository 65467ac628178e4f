"""Measures the change of the weights per block and per token, with one transfer from the device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional

from families.family import ModelFamily
from families.parts.whole_tensor import whole
from trainer.adapters.base_precision import lora_factors
from trainer.adapters.kinds import KINDS
from trainer.tokens.concept_tokens import ConceptTokens
from trainer.trainables.trainable import Trainable


@dataclass(frozen=True)
class Diagnostics:
    """Figures of the trained weights.

    `weight_change`: ‖ΔW‖/‖W‖ (Frobenius) by the denoiser's block groups. `token_norms`: mean norm of the trained rows
    relative to the vocabulary's mean, by text encoder. `token_cosines`: mean cosine of the rows to their initial
    values. `rates`: effective learning rates, including Prodigy's estimate.
    """

    weight_change: dict[str, float]
    token_norms: dict[str, float]
    token_cosines: dict[str, float]
    rates: dict[str, float]


@dataclass
class Observer:
    """Measures the weights between two steps."""

    family: ModelFamily
    tokens: ConceptTokens
    trainables: Sequence[Trainable]
    _initial: list[Tensor] = field(init=False)
    _vocabulary: list[Tensor] = field(init=False)
    _base: dict[str, Tensor] = field(init=False)

    @torch.no_grad()
    def __post_init__(self) -> None:
        self._initial = [parameter.detach().clone() for parameter in self.tokens.parameters]
        tables = [encoder.get_input_embeddings().weight for encoder in self.family.text_encoders if self._initial]
        self._vocabulary = [table.float().norm(dim=1).mean() for table in tables]
        self._base = {  # computed here because all ranks must take part: the base may be sharded
            path: whole(layer.get_base_layer().weight.float().square().sum()) for path, layer in self._adapted()
        }

    @torch.no_grad()
    def look(self) -> Diagnostics:
        """Return the current figures."""
        changes = self._weight_changes()
        rows = list(zip(self.tokens.parameters, self._initial, self._vocabulary, strict=True))
        norms = [row.norm(dim=1).mean() / usual for row, _, usual in rows]
        cosines = [functional.cosine_similarity(row, first, dim=1).mean() for row, first, _ in rows]
        figures = [*changes.values(), *norms, *cosines]
        values = torch.stack(figures).tolist() if figures else []  # a ControlNet changes neither layers nor tokens
        names = self.family.encoder_names
        blocks, count = len(changes), len(rows)
        return Diagnostics(
            weight_change=dict(zip(changes, values, strict=False)),
            token_norms=dict(zip(names, values[blocks : blocks + count], strict=False)),
            token_cosines=dict(zip(names, values[blocks + count :], strict=False)),
            rates={trainable.name: trainable.effective_learning_rate for trainable in self.trainables},
        )

    def _weight_changes(self) -> dict[str, Tensor]:
        moved: dict[str, Tensor] = {}
        before: dict[str, Tensor] = {}
        for path, layer in self._adapted():
            block = path.split(".")[0]
            moved[block] = moved.get(block, 0) + change_squared(layer)
            before[block] = before.get(block, 0) + self._base[path]
        return {block: (moved[block] / before[block]).sqrt() for block in moved}

    def _adapted(self) -> Iterator[tuple[str, Any]]:
        """Yield the paths and modules of peft's layers in the denoiser."""
        for path, module in self.family.denoiser.named_modules():
            if isinstance(module, BaseTunerLayer):
                yield path, module


def change_squared(module: nn.Module) -> Tensor:
    """Return ‖ΔW‖² of a peft layer: ().

    For a LoRA it is computed without ΔW: ‖s·BA‖² = s²·tr(BᵀB·AAᵀ). DoRA's magnitudes are ignored.
    """
    layer: Any = module
    (adapter,) = layer.active_adapters
    if not isinstance(module, LoraLayer):
        kind = next(kind for kind in KINDS.values() if isinstance(module, kind.module))
        return kind.change(layer).float().square().sum()
    down, up = (factor.flatten(1) for factor in lora_factors(layer, adapter))
    return layer.scaling[adapter] ** 2 * ((up.T @ up) * (down @ down.T)).sum()
