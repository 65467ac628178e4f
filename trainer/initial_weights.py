"""Starts a training from an existing file: its layers and its tokens, of this trainer or of another tool."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from artifact.artifact import Artifact
from artifact.errors import ArtifactError
from artifact.layers import Layer
from artifact.merging.low_rank import Fit, relative_error
from artifact.names.components import DENOISER, Place
from artifact.placement.low_rank import LoraSlots
from artifact.placement.placing import resolve_layers
from families.family import ModelFamily
from settings.record import ConfigError
from trainer.adapters.adapter import Adapter
from trainer.adapters.starting import CannotHold
from trainer.tokens.concept_tokens import ConceptTokens
from trainer.trainables.part import Parts


@dataclass(frozen=True)
class InitialWeights:
    """Initial weights of a training. `layers` by their modules of the base model. `name`: of the file."""

    name: str
    artifact: Artifact
    layers: Mapping[Place, Layer]


def read_initial_weights(path: Path, triggers: Sequence[str], num_tokens: int, family: ModelFamily) -> InitialWeights:
    """Read the file and check, before training, that it matches this base and these triggers. Raises ConfigError."""
    artifact, layers = read_for_base("init_weights", path, family)
    _require_fitting_tokens(path.name, artifact, triggers, num_tokens, family)
    return InitialWeights(path.name, artifact, layers)


def read_for_base(setting: str, path: Path, family: ModelFamily) -> tuple[Artifact, dict[Place, Layer]]:
    """Read the file of a setting, and assign its layers to modules of the base. Raises ConfigError for a path that is
    not a file, a damaged file, and one for another base.
    """
    if not path.is_file():
        raise ConfigError(f"{setting}: {path} does not exist, or is not a file")
    try:
        artifact = Artifact.read(path)
        return artifact, resolve_layers(artifact, LoraSlots(family))
    except ArtifactError as error:
        raise ConfigError(f"{setting}: {error}") from error


def start_from(initial: InitialWeights, parts: Parts, tokens: ConceptTokens) -> list[str]:
    """Load the weights into the parts of a training. Returns messages on which layers are exact or approximate. Raises
    ConfigError for layers that the adapter cannot represent."""
    fits, refused = list[Fit](), list[tuple[Place, str]]()
    for place, layer in initial.layers.items():
        part = parts["lora" if place.component == DENOISER else "text_encoders"] if _has_part(parts, place) else None
        try:
            if not isinstance(part, Adapter):
                raise CannotHold("this component is not trained")
            fit = part.start(place, layer)
        except CannotHold as error:
            refused.append((place, str(error)))
            continue
        if fit is not None:
            fits.append(fit)
    if refused:
        raise ConfigError(_refusal(initial.name, refused, len(initial.layers)))
    return [*_said_of_layers(initial, fits), *_start_tokens(initial, tokens)]


def _has_part(parts: Parts, place: Place) -> bool:
    return ("lora" if place.component == DENOISER else "text_encoders") in parts


def _refusal(name: str, refused: Sequence[tuple[Place, str]], count: int) -> str:
    place, why = refused[0]
    if place.component == DENOISER:
        remedy = (
            "choose lora_targets that include it, or an adapter that can represent it (lora approximates all kinds)"
        )
    else:
        remedy = "set train_text_encoder: true"
    return (
        f"init_weights: {len(refused)} of {count} layers of {name} cannot be represented by the adapter, such as "
        f"{place.component} {place.path}: {why}; {remedy}"
    )


def _said_of_layers(initial: InitialWeights, fits: Sequence[Fit]) -> Iterator[str]:
    if not initial.layers:
        return
    exact = len(initial.layers) - len(fits)
    nearly = f", {len(fits)} by singular values with a relative error of {relative_error(fits):.2%}" if fits else ""
    yield f"starting from {initial.name}: {exact} of {len(initial.layers)} layers exactly{nearly}"


@torch.no_grad()
def _start_tokens(initial: InitialWeights, tokens: ConceptTokens) -> Iterator[str]:
    names = [name for each in initial.artifact.triggers.values() for name in each]
    for trigger, own in tokens.triggers.items():
        theirs = initial.artifact.triggers.get(trigger, ())
        if not own or not theirs or not initial.artifact.tokens:
            continue
        first = sum(len(each) for other, each in _before(tokens.triggers, trigger))
        rows = slice(names.index(theirs[0]), names.index(theirs[0]) + len(theirs))
        for encoder, parameter in zip(tokens.family.encoder_names, tokens.parameters, strict=True):
            parameter[first : first + len(own)] = initial.artifact.tokens[encoder][rows].to(parameter)
    left = [trigger for trigger, own in initial.artifact.triggers.items() if own and trigger not in tokens.triggers]
    if left:
        yield (
            f"init_weights: the trigger words {', '.join(left)} of {initial.name} are not used, because no concept has "
            "them"
        )


def _before(triggers: Mapping[str, Sequence[str]], trigger: str) -> Iterator[tuple[str, Sequence[str]]]:
    for other, own in triggers.items():
        if other == trigger:
            return
        yield other, own


def _require_fitting_tokens(
    name: str, artifact: Artifact, triggers: Sequence[str], num_tokens: int, family: ModelFamily
) -> None:
    learned = {trigger: len(own) for trigger, own in artifact.triggers.items() if own}
    if not learned:
        return
    if set(artifact.tokens) != set(family.encoder_names):
        raise ConfigError(
            f"init_weights: {name} has token embeddings for other text encoders than those of this base model"
        )
    known = [trigger for trigger in triggers if trigger in learned]
    if not known:
        raise ConfigError(
            f"init_weights: the trigger words of {name} are {', '.join(learned)}; set trigger_word (or concepts) "
            "accordingly"
        )
    wrong = [trigger for trigger in known if learned[trigger] != num_tokens]
    if wrong:
        raise ConfigError(
            f"init_weights: the trigger word {wrong[0]} has {learned[wrong[0]]} tokens in {name}; set num_tokens: "
            f"{learned[wrong[0]]}"
        )
