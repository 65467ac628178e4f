"""Perfusion as a trainable: trigger words with their own values and the keys of their class words (Tewel et al. 2023,
arXiv 2305.01644).

The paper edits the states at the word's own position. A causal text encoder also carries the word into the positions
after it. These are edited here in the same way, with a second gate and second values for each word, which is not part
of the paper.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from artifact.layers import Gate, GatedLayer, Layer
from artifact.names.components import DENOISER, Place, place_names
from artifact.placement.gated import KEYS, VALUES, GatedEdits, Words
from families.family import ModelFamily
from families.parts.placeholder_tokens import first_free_placeholder, placeholder_names
from settings.record import ConfigError
from trainer.tokens.concept_states import concept_states
from trainer.tokens.text_moments import text_moments
from trainer.trainables.kind import Placement, TrainableKind, Updates, UpdateSettings
from trainer.trainables.part import Part

BIAS, TEMPERATURE = 0.75, 0.1
"""Of the gates, as in the paper's training."""


class PerfusionPart:
    """Edits of the cross-attention's keys and values for K words. The values are trained, the keys locked.

    i* is the mean state of a word over some sentences, computed anew whenever the tokens' rows have changed: the paper
    follows it by a moving average over the training captions. So it needs no state of its own, and is the same on all
    processes. For the positions after a word, i* is the difference between their states and those after the class
    word, in the same sentences. Subtracting it leaves the class word's state, so o* of the keys is 0 there, and o* of
    the values starts at 0.
    """

    def __init__(self, family: ModelFamily, words: Mapping[str, str], moments: Tensor) -> None:
        """`words`: placeholder tokens, already in place, with their class words. `moments`: (d, d), fp64."""
        self._family, self._words = family, list(words)
        self._root = torch.linalg.cholesky(moments)
        self._classes, self._after_classes = concept_states(family, list(words.values()))
        self._rows = [row for encoder in family.text_encoders for row in encoder.parameters() if row.requires_grad]
        self._seen = [row.detach().clone() for row in self._rows]
        gate = self._gate()
        self._edits = GatedEdits(family.denoiser, Words.of([gate], [1.0]), gate.targets)
        self._values = {
            path: nn.Parameter(outputs) for path, outputs in self._edits.outputs.items() if path.endswith(VALUES)
        }
        self._edits.outputs |= self._values
        self._handle = family.denoiser.register_forward_pre_hook(self._before_a_pass)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self._values.values())

    @property
    def undecayed(self) -> list[nn.Parameter]:
        """All: they begin as what the class words give, and 0 is no value to go back to."""
        return self.parameters

    def layers(self) -> dict[str, Layer]:
        self._follow_tokens()
        gate, names = self._gate(), place_names(self._family)
        return {
            names[Place(DENOISER, path)]: GatedLayer(outputs.detach().float().cpu().clone(), gate)
            for path, outputs in self._values.items()
        }

    def rows(self) -> dict[str, Tensor]:
        return {}

    def set_enabled(self, enabled: bool) -> None:
        self._edits.enabled = enabled

    def remove(self) -> None:
        self._handle.remove()
        self._edits.remove()

    def _before_a_pass(self, *_arguments: Any) -> None:
        if self._edits.enabled:
            self._follow_tokens()

    def _follow_tokens(self) -> None:
        """Compute i* anew where the tokens have changed."""
        if all(torch.equal(row, seen) for row, seen in zip(self._rows, self._seen, strict=True)):
            return
        for row, seen in zip(self._rows, self._seen, strict=True):
            seen.copy_(row.detach())
        gate = self._gate()
        self._edits.words.set_states(gate.inputs, gate.directions)
        self._edits.follow_words()

    @torch.no_grad()
    def _gate(self) -> Gate:
        device = self._family.device
        with torch.autocast(device.type, enabled=False):  # the same inside a step and outside of it
            own, after = concept_states(self._family, self._words)
        inputs = torch.cat([own, after - self._after_classes])
        directions = torch.cholesky_solve(inputs.double().T, self._root).T
        return Gate(inputs, directions.float(), self._classes, BIAS, TEMPERATURE)


def require_edits(family: ModelFamily) -> None:
    """Raises ConfigError for a family whose denoiser has no cross-attention to edit."""
    paths = [path for path, _ in family.denoiser.named_modules() if path.endswith((KEYS, VALUES))]
    if family.denoiser_kind != "unet" or not paths:
        raise ConfigError(
            f"adapter: perfusion edits the cross-attention of a UNet, and a base of the family {family.name} has none; "
            "choose SD1.5, SD2 or SDXL"
        )


def _place(placement: Placement) -> Part | None:
    if not placement.adapters.is_perfusion:
        return None
    concepts = [concept for concept in placement.concepts if concept.trigger_word]
    names = placeholder_names(len(concepts))  # one token each
    if first_free_placeholder(placement.family) > len(names):
        raise ConfigError(
            f"adapter: perfusion: {placement.base_model} contains trained placeholder tokens; use the base model "
            "that it was trained from"
        )
    words = {name: concept.class_word or "" for name, concept in zip(names, concepts, strict=True)}
    return PerfusionPart(placement.family, words, text_moments(placement.family))


def _updates(part: Part, settings: UpdateSettings) -> Updates:
    return Updates(settings.weights, settings.optimization.max_grad_norm, first=settings.phases.tokens_first)


PERFUSION = TrainableKind("perfusion", _place, _updates)
