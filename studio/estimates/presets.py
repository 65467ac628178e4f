"""The settings of a training on a prepared set, and the presets for its base model."""

from collections.abc import Mapping
from typing import Any

from preprocess.reopen import ALSO_IN_TRAINING
from settings.preparation import DataConfig
from settings.presets import preset_names, read_preset
from settings.record import ConfigError
from settings.training import build_config


def training_settings(of_the_set: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the settings of the set with those for the training, without those that preparation has already applied."""
    kept = {
        name: value
        for name, value in of_the_set.items()
        if name not in DataConfig.model_fields or name in ALSO_IN_TRAINING or name == "resolution"
    }
    return kept | dict(given)


def presets_of(base_model: str) -> list[str]:
    """Return the names of the presets for a base."""
    return [name for name in preset_names() if read_preset(name).get("base_model") == base_model]


def settings_of_preset(name: str, of_the_set: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a training with the preset. The settings of data preparation are those of the set."""
    return training_settings(of_the_set, values_of_preset(name))


def values_of_preset(name: str) -> dict[str, Any]:
    """Return the settings of a preset for the training, without those of data preparation."""
    return {key: value for key, value in read_preset(name).items() if key not in DataConfig.model_fields}


def is_sound(values: Mapping[str, Any]) -> bool:
    """Whether the settings are valid for a training."""
    try:
        build_config(values)
    except ConfigError:
        return False
    return True
