"""The layer-by-layer checks of a written file, as a table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from artifact.layers import Layer
from artifact.names.layer_keys import named_tensors

LAYER_TOLERANCE = 2e-2
"""Relative difference of a layer's tensors: bf16, the coarsest precision of a file, keeps 8 bits."""
HALF_STEP = 2.0**-25
"""Half the distance between fp16 numbers near 0: the largest rounding error."""
SHOWN = 8


@dataclass(frozen=True)
class Check:
    """A value that must be between two limits. `detail`: an example of the counted items."""

    name: str
    value: float
    most: float = math.inf
    least: float = -math.inf
    detail: str = ""

    @property
    def failed(self) -> bool:
        return not self.least <= self.value <= self.most  # NaN fails

    @property
    def allowed(self) -> str:
        return f"≤ {self.most:.3g}" if self.most < math.inf else f"≥ {self.least:.3g}"


@dataclass(frozen=True)
class LayerComparison:
    """Result of a comparison. `differing`: name, kind and relative difference of the differing layers, the worst
    first."""

    checks: Sequence[Check]
    differing: Sequence[tuple[str, str, float]] = field(default=())


def compare_layers(file: Mapping[str, Layer], trained: Mapping[str, Layer]) -> LayerComparison:
    """Compare the layers of a file with those of a model."""
    missing, extra = sorted(trained.keys() - file.keys()), sorted(file.keys() - trained.keys())
    found = [(name, file[name].kind, _difference(name, file[name], trained[name])) for name in file if name in trained]
    differing = sorted((row for row in found if not row[2] <= LAYER_TOLERANCE), key=lambda row: row[2], reverse=True)
    lost = [row[0] for row in differing if file[row[0]].changes_nothing]
    checks = (
        _count(f"of {len(trained)} trained layers are missing", missing),
        _count("layers that were not trained are in the file", extra),
        _count(f"of {len(file)} layers were trained, but have no effect in the file", lost),
        _count(f"layers differ by more than {LAYER_TOLERANCE:.0%}", [row[0] for row in differing]),
    )
    return LayerComparison(checks, differing)


def untrained_layers(trained: Mapping[str, Layer]) -> list[str]:
    """Return the layers that are unchanged since the initialisation of the adapter."""
    return [name for name, layer in trained.items() if layer.changes_nothing]


def compare_tokens(file: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> list[Check]:
    """Compare the token rows: they are kept in fp32, so they must be equal."""
    names = sorted(file.keys() | trained.keys())
    both = file.keys() & trained.keys()
    odd = [name for name in names if name not in both or not torch.equal(file[name], trained[name].float().cpu())]
    return [_count("encoders have different token embeddings", odd)]


def table(checks: Sequence[Check], differing: Sequence[tuple[str, str, float]]) -> str:
    """Format all checks with failed ones marked, and the layers with the largest differences."""
    lines = [f"{'':7}{'found':>10}  {'allowed':>10}  check"]
    for check in checks:
        mark = "FAILED" if check.failed else "ok"
        detail = f", such as {check.detail}" if check.detail else ""
        lines.append(f"{mark:7}{check.value:>10.3g}  {check.allowed:>10}  {check.name}{detail}")
    if differing:
        lines.append("layers that differ most:")
        lines += [f"  {difference:>9.3g}  {kind:5} {name}" for name, kind, difference in differing[:SHOWN]]
    return "\n".join(lines)


def _count(name: str, odd: Sequence[str]) -> Check:
    return Check(name, len(odd), most=0, detail=odd[0] if odd else "")


def _difference(name: str, one: Layer, other: Layer) -> float:
    """Return the difference of all tensors and alpha, relative to the trained ones; infinite for different kinds or
    shapes.

    The rounding of numbers near 0 in fp16 does not count: after a few small steps all numbers are near 0.
    """
    ours, theirs = named_tensors(name, one), named_tensors(name, other)
    if ours.keys() != theirs.keys() or any(ours[key].shape != theirs[key].shape for key in ours):
        return float("inf")
    worst = 0.0
    for key, tensor in theirs.items():
        size = tensor.float().norm().item()
        gap = (ours[key].float().cpu() - tensor.float().cpu()).norm().item()
        gap = max(0.0, gap - HALF_STEP * tensor.numel() ** 0.5)
        worst = max(worst, gap / size if size > 0 else float(gap > 0))
    return worst
