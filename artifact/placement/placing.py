"""Places artifacts on a base model, and removes them so that the base is exactly restored."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from artifact.artifact import Artifact
from artifact.errors import ArtifactError
from artifact.layers import FullLayer, GatedLayer, Layer, LoraLayer, TimedLoraLayer
from artifact.names.components import Place, components
from artifact.placement.gated import PlacedEdits
from artifact.placement.low_rank import LoraSlots
from artifact.placement.weight_changes import WeightChanges
from families.family import ModelFamily
from families.parts.placeholder_tokens import PlaceholderTokens


class PlacedArtifacts:
    """Placed artifacts, each with its own scale. The family's modules are changed until `remove`.

    Plain LoRA layers are peft adapters, because merged into bf16 weights they would lose bits. Layers of other kinds
    are merged into the weights. Every change is computed from the base's own weight, so the order does not matter.
    """

    def __init__(
        self,
        family: ModelFamily,
        artifacts: Sequence[Artifact],
        scales: Sequence[float] = (),
        slots: LoraSlots | None = None,
    ) -> None:
        """`scales` default to 1. `slots`: those of this base, when several LoRAs are placed one after another.

        Raises ArtifactError, with nothing changed, when an artifact does not fit this base. Where two artifacts have
        the same trigger word, the later one gets a number, which is in `notes`. `class_words` are those of the
        triggers, where the artifacts contain them.
        """
        self._family = family
        self._scales = list(scales) or [1.0] * len(artifacts)
        self._slots = slots or LoraSlots(family)
        resolved = [resolve_layers(artifact, self._slots) for artifact in artifacts]
        self.triggers, self.class_words, self.notes, names = distinct_triggers(
            artifacts, self._slots.first_free_placeholder
        )
        self._tokens: PlaceholderTokens | None = None
        self._changes = WeightChanges(_weight_changes(family, resolved))
        self._adapters: dict[str, int] = {}
        self._edits = PlacedEdits()
        try:
            self._tokens = place_tokens(family, artifacts, names, self._slots)
            self._edits.place(family, resolved, self._scales)
            self._changes.apply(self._scales)
            self._place_lora(resolved)
            self.set_scales(*self._scales)
        except BaseException:
            self.remove()
            raise

    def set_scales(self, *scales: float) -> None:
        """Set the scale of each artifact: 0 disables it, 1 is as trained. Tokens are not scaled."""
        if self._scales != list(scales):
            self._scales = list(scales)
            self._changes.apply(self._scales)
        self._edits.set_scales(scales)
        self._slots.set_scales({name: self._scales[number] for name, number in self._adapters.items()})

    def remove(self) -> None:
        """Restore the base exactly."""
        self._edits.remove()
        self._slots.remove()
        self._changes.undo()
        if self._tokens is not None:
            self._tokens.remove()

    def _place_lora(self, resolved: Sequence[Mapping[Place, Layer]]) -> None:
        for number, layers in enumerate(resolved):
            adapter = f"artifact_{number}"
            self._adapters[adapter] = number
            beside = {place: layer for place, layer in layers.items() if _stands_beside(layer)}
            self._slots.place(beside, adapter)


def resolve_layers(artifact: Artifact, slots: LoraSlots) -> dict[Place, Layer]:
    """Return the artifact's layers by the modules of this base.

    Raises ArtifactError when a name has no module here, two layers have the same module, or a shape does not fit.
    """
    places = slots.places
    unknown = [name for name in artifact.layers if name not in places]
    if unknown:
        raise ArtifactError(
            f"{len(unknown)} of {len(artifact.layers)} layers of the LoRA do not exist in this base model, such as "
            f"{unknown[0]}. Use a base model of the family on which the LoRA was trained."
        )
    layers: dict[Place, Layer] = {}
    for name, layer in artifact.layers.items():
        place = places[name]
        module = slots.module(place)
        if place in layers:
            raise ArtifactError(f"{name}: the file has two layers for {place.component} {place.path}")
        if not layer.fits(module.weight.shape):
            shapes = " and ".join(str(tuple(parameter.shape)) for parameter in layer.parameters)
            raise ArtifactError(
                f"{name}: the layer's shapes {shapes} do not match the base model's {tuple(module.weight.shape)}. Use "
                "the base model on which it was trained."
            )
        _require_fitting_bias(name, layer, module)
        layers[place] = layer
    return layers


def _require_fitting_bias(name: str, layer: Layer, module: Any) -> None:
    change = layer.diff_bias if isinstance(layer, FullLayer) else None
    bias: Tensor | None = getattr(module, "bias", None)
    if change is not None and (bias is None or bias.shape != change.shape):
        shape = None if bias is None else tuple(bias.shape)
        raise ArtifactError(
            f"{name}: its diff_b of shape {tuple(change.shape)} does not match the base model's bias: {shape}"
        )


def _weight_changes(
    family: ModelFamily, resolved: Sequence[Mapping[Place, Layer]]
) -> list[tuple[str, nn.Module, list[tuple[int, Layer]]]]:
    changes: defaultdict[Place, list[tuple[int, Layer]]] = defaultdict(list)
    for number, layers in enumerate(resolved):
        for place, layer in layers.items():
            if not _stands_beside(layer) and not isinstance(layer, GatedLayer):
                changes[place].append((number, layer))
    modules = components(family)
    return [
        (f"{place.component}.{place.path}", modules[place.component].get_submodule(place.path), layers)
        for place, layers in changes.items()
    ]


def _stands_beside(layer: Layer) -> TypeGuard[LoraLayer | TimedLoraLayer]:
    """Whether peft can represent the layer as an adapter."""
    return isinstance(layer, TimedLoraLayer) or (isinstance(layer, LoraLayer) and layer.mid is None)


def distinct_triggers(
    artifacts: Sequence[Artifact], first: int = 0
) -> tuple[dict[str, list[str]], dict[str, str], list[str], list[str]]:
    """Return triggers with their placeholders, their class words, notes on renamed triggers, and all placeholders.

    The placeholders of every artifact are <s0>, <s1> …, so they are renumbered, from `first` on. Plain words have none.
    """
    triggers, class_words = dict[str, list[str]](), dict[str, str]()
    notes, count = [], first
    for number, artifact in enumerate(artifacts, start=1):
        for trigger, placeholders in artifact.triggers.items():
            if not placeholders:
                if triggers.setdefault(trigger, []):
                    notes.append(
                        f"the trigger word {trigger} of LoRA {number} is also that of another LoRA, whose tokens are "
                        "used for it"
                    )
                _note_class_word(artifact, trigger, trigger, class_words)
                continue
            if not artifact.tokens:
                continue
            name, suffix = trigger, 1
            while name in triggers:
                suffix += 1
                name = f"{trigger}{suffix}"
            if name != trigger:
                notes.append(f"two LoRAs have the trigger word {trigger}: write {name} for that of LoRA {number}")
            triggers[name] = [f"<s{count + index}>" for index in range(len(placeholders))]
            count += len(placeholders)
            _note_class_word(artifact, trigger, name, class_words)
    return triggers, class_words, notes, [name for names in triggers.values() for name in names]


def _note_class_word(artifact: Artifact, trigger: str, name: str, class_words: dict[str, str]) -> None:
    """Record the trigger's class word under `name`, the possibly renamed trigger."""
    if artifact.description and trigger in artifact.description.class_words:
        class_words[name] = artifact.description.class_words[trigger]


def place_tokens(
    family: ModelFamily, artifacts: Sequence[Artifact], names: Sequence[str], slots: LoraSlots
) -> PlaceholderTokens | None:
    """Add the rows of all artifacts to the vocabularies, in one call."""
    with_tokens = [artifact for artifact in artifacts if artifact.tokens]
    if not with_tokens:
        return None
    for artifact in with_tokens:
        missing = [encoder for encoder in family.encoder_names if encoder not in artifact.tokens]
        if missing:
            raise ArtifactError(
                f"the artifact has no token embeddings for {', '.join(missing)}. It belongs to another model family."
            )
        strange = [encoder for encoder in artifact.tokens if encoder not in family.encoder_names]
        if strange:
            raise ArtifactError(
                f"the artifact has token embeddings for {', '.join(strange)}, but this base model has the text "
                f"encoders {', '.join(family.encoder_names)}. It belongs to another model family."
            )
    try:
        rows = [torch.cat([artifact.tokens[name].float() for artifact in with_tokens]) for name in family.encoder_names]
        return PlaceholderTokens(family, names, rows, slots.tokenizers(names))
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(f"the artifact's token embeddings do not match this base model: {error}") from error
