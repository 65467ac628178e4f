"""One request to the Cog trainer: its inputs, and the configuration that results from them under the policy."""

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from service.policy.policy import Policy
from settings.presets import preset_beside
from settings.record import ConfigError, parse_settings
from settings.training import TrainingConfig, build_config

JOB_INPUTS = ("input_images", "preservation_data", "config", "preset", "hf_token", "wandb_api_key", "return_extras")
"""Inputs that are not settings: files, secrets, a preset, and the text of all other settings."""


@dataclass(frozen=True)
class TrainingRequest:
    """The inputs of `Trainer.train`, as Cog passes them: files as paths, secrets as `cog.Secret`."""

    input_images: object
    base_model: str
    concept_mode: str
    trigger_word: str
    class_word: str | None
    captioner: str
    resolution: int | None
    max_train_steps: int | None
    train_batch_size: int | None
    rank: int
    learning_rate: float | None
    token_learning_rate: float | None
    num_tokens: int
    validation_prompt: str | None
    seed: int
    preservation_data: object = None
    config: str | None = None
    preset: str | None = None
    hf_token: object = field(default=None, repr=False)
    wandb_api_key: object = field(default=None, repr=False)

    @property
    def hub_token(self) -> str | None:
        """The caller's own token for the hub."""
        return _secret_text(self.hf_token)

    @property
    def wandb_key(self) -> str | None:
        """The caller's own key for W&B."""
        return _secret_text(self.wandb_api_key)


def allowed_config(request: TrainingRequest, policy: Policy) -> TrainingConfig:
    """Return the checked settings of a request. Prints a line for each setting that the operator's limits changed.

    Raises ConfigError for invalid values, and NotAllowed for settings reserved to the operator.
    """
    values = merge_inputs(request)
    uploaded: frozenset[str] = frozenset()
    if request.preservation_data is not None:
        if "preservation_data" in values:
            raise ConfigError("preservation_data: is given as an input and in config; leave one of them out")
        values["preservation_data"] = require_uploaded("preservation_data", request.preservation_data)
        uploaded = frozenset({"preservation_data"})
    config = build_config(values)
    allowed = policy.allow_training(
        config,
        uploaded=uploaded,
        hub_token=request.hub_token is not None,
        wandb_key=request.wandb_key is not None,
    )
    for name in TrainingConfig.model_fields:
        if getattr(allowed, name) != getattr(config, name):
            print(f"{name}: set to {getattr(allowed, name):,}, the operator's limit", flush=True)
    return allowed


def merge_inputs(request: TrainingRequest) -> dict[str, Any]:
    """Merge the preset, Cog's inputs and the text of `config` into settings. An input at its default counts as not
    given.

    Inputs and text override the preset. Raises ConfigError for an unknown preset, and for contradictory inputs and
    text.
    """
    names = (each.name for each in fields(request) if each.name not in JOB_INPUTS)
    inputs = {name: getattr(request, name) for name in names}
    defaults = {name: TrainingConfig.model_fields[name].default for name in inputs}
    values = {name: value for name, value in inputs.items() if value != defaults[name]}  # others are not given
    for name, value in (parse_settings(request.config, "config") if request.config else {}).items():
        if name in values and value != values[name]:
            raise ConfigError(f"{name}: the input is {values[name]!r}, and config has {value!r}; leave one of them out")
        values[name] = value
    return (preset_beside(request.preset, values) if request.preset else {}) | values


def require_uploaded(name: str, value: object) -> Path:
    """Return the uploaded or downloaded file of the input `name`. A plain path on the server is refused.

    Raises ConfigError.
    """
    if value is None:
        raise ConfigError(f"{name}: is missing. Give a zip or tar of images.")
    if not isinstance(value, os.PathLike):
        raise ConfigError(f"{name}: {str(value)[:100]!r} is not an upload or a http(s) URL")
    return Path(value)


def _secret_text(secret: object) -> str | None:
    """Return the text of a Cog Secret, or a plain text where the server has no schema. None for an empty one."""
    value = secret.get_secret_value() if hasattr(secret, "get_secret_value") else secret
    return None if value is None else str(value).strip() or None
