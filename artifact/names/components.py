"""Maps layer names in files to modules: the component (denoiser, text encoder, other stage) and the path in it.

kohya's prefix for text encoders is `lora_te_text_model_…` for a single one, `lora_te1_text_model_…` and
`lora_te2_text_model_…` for two, `lora_prior_te_text_model_…` for that of a prior; peft's are `text_encoder.…` and
`text_encoder_2.…`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from artifact.names.kohya import PRIOR_ENCODER_PREFIX, decoder_name, file_names, has_weight, module_paths
from families.family import ModelFamily, further_stages

DENOISER = "denoiser"
TEXT_MODEL = "text_model."
"""Files contain this prefix in all paths of CLIP text encoders, transformers' modules only in those with a
projection."""


class Place(NamedTuple):
    """A module: the name of its component in `components`, and its path in there."""

    component: str
    path: str


def components(family: ModelFamily) -> dict[str, nn.Module]:
    """Return the modules that a file may change: the denoiser, `text_encoder`, `text_encoder_2` …, further stages."""
    return {DENOISER: family.denoiser, **text_encoders(family), **further_stages(family)}


def text_encoders(family: ModelFamily) -> dict[str, Any]:
    """Return the text encoders that can learn, by the names of their components."""
    names = (f"text_encoder{f'_{number}' if number > 1 else ''}" for number in range(1, len(family.text_encoders) + 1))
    return dict(zip(names, family.text_encoders, strict=True))


def place_names(family: ModelFamily) -> dict[Place, str]:
    """Return the name in this program's files of every module that a layer can change."""
    paths = _paths(family.denoiser)
    denoiser = file_names(family)
    names = {Place(DENOISER, path): denoiser[path] for path in paths}
    dotted = any("." in name for name in names.values())
    for number, (component, encoder) in enumerate(text_encoders(family).items(), start=1):
        for path in _paths(encoder):
            full = _with_text_model(path)
            kohya = f"{_kohya_prefixes(family, number)[0]}{full.replace('.', '_')}"
            names[Place(component, path)] = f"{component}.{full}" if dotted else kohya
    for component, stage in further_stages(family).items():
        names |= {Place(component, path): decoder_name(path) for path in _paths(stage)}
    return names


def module_places(family: ModelFamily) -> Mapping[str, Place]:
    """Return the place of every name that a file of this or another tool may use for a module."""
    places = {name: place for place, name in place_names(family).items()}
    places |= {name: Place(DENOISER, path) for name, path in module_paths(family).items()}
    for number, (component, encoder) in enumerate(text_encoders(family).items(), start=1):
        for path in _paths(encoder):
            for variant in {path, _with_text_model(path)}:
                places[f"{component}.{variant}"] = Place(component, path)
                for prefix in _kohya_prefixes(family, number):
                    places[prefix + variant.replace(".", "_")] = Place(component, path)
    return places


def _kohya_prefixes(family: ModelFamily, number: int) -> tuple[str, ...]:
    """Return the possible prefixes of an encoder's paths, beginning with this program's."""
    if number > 1:
        return (f"lora_te{number}_",)
    if family.layer_naming == "kohya_prior":
        return (PRIOR_ENCODER_PREFIX, "lora_te_", "lora_te1_")
    return ("lora_te1_",) if len(family.text_encoders) > 1 else ("lora_te_", "lora_te1_")


def _with_text_model(path: str) -> str:
    return path if path.startswith((TEXT_MODEL, "text_projection")) else TEXT_MODEL + path


def _paths(module: nn.Module) -> list[str]:
    return [path for path, part in module.named_modules() if has_weight(part)]
