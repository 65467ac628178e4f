"""K-LoRA (Ouyang et al. 2025, arXiv 2502.18461): at each sampling step, each layer uses the subject or the style.

Which one depends on the largest entries of both changes and on how far the drawing is, so it is known beforehand, and
one file can hold it: both factors side by side, and from when to when each acts.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from artifact.errors import ArtifactError
from artifact.layers import Layer, LoraLayer, TimedLoraLayer
from artifact.layers.timed_lora import TO_THE_END
from artifact.merging.plain import concatenated

GROWTH, BEGINNING = 1.5, 0.5
"""α and β of the paper: the style has the weight α · progress + β, so that it is used in later steps."""
OUTLIER = 3.0
"""Layers whose ratio of norms exceeds the mean by this factor are left out of the balance γ."""


def klora(subject: Mapping[str, LoraLayer], style: Mapping[str, LoraLayer]) -> tuple[dict[str, Layer], str]:
    """Return the layers of the merged file by name, and what is to be said of them. Both of scale 1.

    Σ of the k = r_c · r_s largest entries: the subject acts while S_c / γ > S_s · (α · progress + β), afterwards the
    style. γ balances the files: the mean over layers of ‖ΔW_c‖₁ / ‖ΔW_s‖₁. Progress is taken as 1 - τ, which it is
    where a sampler's timesteps are evenly spaced. Layers that one file alone has act always. Raises ArtifactError where
    no layer is in both.
    """
    shared = [name for name in subject if name in style]
    if not shared:
        raise ArtifactError("--mode klora: the two files have no layer in common. Use --mode concat.")
    both = {name: (_change(subject[name]), _change(style[name])) for name in shared}
    balance = _balance([pair for pair in both.values() if pair[1].any()])
    layers: dict[str, Layer] = {**subject, **style}
    turns = []
    for name, (change, other) in both.items():
        count = min(subject[name].rank * style[name].rank, change.numel())
        ours, theirs = (float(each.abs().flatten().topk(count).values.sum()) for each in (change / balance, other))
        progress = (ours / theirs - BEGINNING) / GROWTH if theirs else 1.0
        turns.append(min(max(progress, 0.0), 1.0))
        layers[name] = _in_turn(name, subject[name], style[name], turns[-1])
    mean = sum(turns) / len(turns)
    return (
        layers,
        f"klora: the subject is used in the first {mean:.0%} of the sampling steps, on average over {len(turns)} "
        "layers",
    )


def _change(layer: LoraLayer) -> Tensor:
    return layer.up.flatten(1) @ layer.down.flatten(1)


def _balance(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    if not pairs:
        return 1.0
    ratios = torch.stack([change.abs().sum() / other.abs().sum() for change, other in pairs])
    usual = ratios[ratios <= OUTLIER * ratios.mean()]  # one at least, also where the subject changes nothing
    return float(usual.mean()) or 1.0


def _in_turn(name: str, subject: LoraLayer, style: LoraLayer, progress: float) -> Layer:
    """The subject until `progress` (0: noise, 1: image), then the style."""
    if progress == 0.0 or progress == 1.0:
        return subject if progress else style
    change = 1 - progress
    times = torch.tensor([[change, TO_THE_END]] * subject.rank + [[0.0, change]] * style.rank)
    return TimedLoraLayer(concatenated(name, [subject, style]), times)
