"""Secrets of a caller for one training. They are passed to its process by the environment only."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fetching.rules import USE_TOKENS
from service.training_request import TrainingRequest
from settings.record import ConfigError
from settings.sections.publishing import TOKEN_VARIABLE

MASK = "**********"
WANDB_PREFIX, WANDB_MODE, WANDB_KEY = "WANDB_", "WANDB_MODE", "WANDB_API_KEY"


@dataclass(frozen=True)
class Secrets:
    """`hub_token`: for publishing. `wandb_key`: for the tracker. None where the caller gave none."""

    hub_token: str | None = field(default=None, repr=False)
    wandb_key: str | None = field(default=None, repr=False)

    def masked(self, text: str) -> str:
        """Return the text with secrets masked: errors of libraries may contain them."""
        for secret in (self.hub_token, self.wandb_key):
            if secret:
                text = text.replace(secret, MASK)
        return text


def secrets_of(request: TrainingRequest) -> Secrets:
    """Return the secrets of a request."""
    return Secrets(request.hub_token, request.wandb_key)


def require_useful(secrets: Secrets, push_to_hub: str | None, trackers: Sequence[str]) -> None:
    """Raises ConfigError for a secret without effect on the training."""
    if secrets.hub_token and push_to_hub is None:
        raise ConfigError("hf_token has no effect without push_to_hub; set it, or leave hf_token out")
    if secrets.wandb_key and "wandb" not in trackers:
        raise ConfigError("wandb_api_key has no effect without trackers: [wandb]; set it, or leave wandb_api_key out")


def child_environment(
    secrets: Secrets, environment: Mapping[str, str] = os.environ, *, use_tokens: bool = True
) -> dict[str, str]:
    """Return the environment of the training's process. `use_tokens`: whether the caller's data may be read with the
    operator's tokens.

    With the caller's own key, the operator's W&B settings, such as account and server, are removed.
    """
    child = {name: value for name, value in environment.items() if name != TOKEN_VARIABLE}
    if not use_tokens:
        child[USE_TOKENS] = "0"
    if secrets.hub_token:
        child[TOKEN_VARIABLE] = secrets.hub_token
    if secrets.wandb_key:
        child = {name: value for name, value in child.items() if not _is_operators_wandb(name)}
        child[WANDB_KEY] = secrets.wandb_key
    return child


def _is_operators_wandb(name: str) -> bool:
    return name.startswith(WANDB_PREFIX) and name != WANDB_MODE
