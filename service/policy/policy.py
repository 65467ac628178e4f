"""Checks requests of callers against the operator's policy. It does not apply to the plain commands."""

import difflib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from families.loading.allowed import is_allowed, patterns_in
from service.policy.amounts import amount, can_be_filled, default_of, marks_of
from service.policy.named_sources import refused_sources
from service.policy.rules import (
    HUB_TARGETS,
    JOB_MINUTES,
    LIMIT_PREFIX,
    LIMITS,
    LIST_OF,
    MAY_SET,
    MODEL_LISTS,
    PIXELS,
    REQUIRED_CHECKER,
    TOKENS,
    TRUSTED,
)  # fmt: skip
from settings.callers import Caller
from settings.record import ConfigError
from settings.training import TrainingConfig

if TYPE_CHECKING:
    from service.policy.amounts import Record
    from service.prediction_inputs import PredictionInputs

PUBLISHING, TRACKERS = "push_to_hub", "trackers"
UPLOADS = ("preservation_data",)
"""Settings whose value may be a file in a request."""


class NotAllowed(ConfigError):
    """A setting that callers may not use. The message names the variable with which the operator can allow it."""


@dataclass(frozen=True)
class Policy:
    """The operator's rules. `trusted`: whether callers may set everything, like the plain commands."""

    trusted: bool
    may_set: frozenset[str]
    use_tokens: bool
    models: Mapping[str, tuple[str, ...]]
    limits: Mapping[str, int]
    hub_targets: tuple[str, ...]
    safety_checker: str | None

    @classmethod
    def from_environment(cls) -> "Policy":
        """Read the policy from the environment. Raises ConfigError for an invalid variable."""
        _refuse_unknown_limits()
        may_set = frozenset(patterns_in(os.environ.get(MAY_SET, "")))
        for name in sorted(may_set - operators_settings()):
            raise ConfigError(f"{MAY_SET}: {name} is not one of {', '.join(sorted(operators_settings()))}")
        return cls(
            trusted=switch(TRUSTED),
            may_set=may_set,
            use_tokens=switch(TRUSTED) or switch(TOKENS),
            models={name: patterns_in(os.environ.get(name, "")) or usual for name, usual in MODEL_LISTS.items()},
            limits={name: whole_number(name, limit.most) for name, limit in LIMITS.items()},
            hub_targets=patterns_in(os.environ.get(HUB_TARGETS, "")),
            safety_checker=os.environ.get(REQUIRED_CHECKER) or None,
        )

    def allow_training(
        self, config: TrainingConfig, *, uploaded: frozenset[str], hub_token: bool, wandb_key: bool
    ) -> TrainingConfig:
        """Return the configuration, with limits filled in for defaults that would exceed them.

        `uploaded`: settings whose value is an uploaded file. `hub_token`, `wandb_key`: whether the caller gave one.
        Raises NotAllowed with a line for every refused setting.
        """
        if self.trusted:
            return config
        refused = [
            *self._refused(config, uploaded | {PUBLISHING, TRACKERS}),
            *self._refused_publishing(config.push_to_hub, hub_token),
            *self._refused_trackers(config.trackers, wandb_key),
        ]
        if refused:
            raise NotAllowed("\n".join(refused))
        return config.model_copy(update=self._filled(config))

    def allow_prediction(self, inputs: "PredictionInputs") -> "PredictionInputs":
        """Return the inputs, with the safety checker that the operator requires.

        Raises NotAllowed with a line for every refused input.
        """
        required = self.safety_checker
        if required and inputs.safety_checker and inputs.safety_checker != required:
            raise NotAllowed(f"safety_checker: the operator requires another one ({REQUIRED_CHECKER}); leave it out")
        requested = replace(inputs, safety_checker=None) if required else inputs
        refused = [] if self.trusted else list(self._refused(requested, frozenset()))
        if refused:
            raise NotAllowed("\n".join(refused))
        return replace(inputs, safety_checker=required) if required else inputs

    def require_model(self, name: str, text: str) -> None:
        """Raises NotAllowed for a model that is not on the list for the setting `name`."""
        if not self.trusted and (reason := self._refused_model(name, text)):
            raise NotAllowed(reason)

    def require_revision(self, revision: str) -> None:
        """Raises NotAllowed for any revision, unless the operator opened it: on the hub everyone can propose one."""
        if not self.trusted and "base_revision" not in self.may_set:
            raise NotAllowed(
                f"base_revision: the LoRA needs the revision {revision[:100]!r} of its base model, which the operator "
                f"must allow ({MAY_SET}=base_revision)"
            )

    def require_pixels(self, width: int, height: int) -> None:
        """Raises NotAllowed for an image that is larger than the operator allows."""
        if not self.trusted and width * height > self.limits[PIXELS]:
            raise NotAllowed(f"width, height: {self._exceeds(PIXELS, width * height)}")

    @property
    def job_seconds(self) -> float:
        """Time limit of a whole training job."""
        return math.inf if self.trusted else 60 * self.limits[JOB_MINUTES]

    def _refused(self, record: "Record", skipped: frozenset[str]) -> Iterator[str]:
        """Yield a line for each setting that its mark forbids. Settings without a mark are reserved to the operator."""
        marks = marks_of(type(record))
        for name in marks:
            value = getattr(record, name)
            if name in skipped | self.may_set or value in (default_of(record, name), None, ""):
                continue
            if marks[name] in (Caller.OPERATOR, None):
                upload = " in config; give the file in the input of that name" if name in UPLOADS else ""
                yield (
                    f"{name}: only the operator may set it{upload}; {MAY_SET}={name} in the server's environment "
                    "allows callers to set it"
                )
            if marks[name] is Caller.SOURCES:
                yield from refused_sources(name, value)
        for name in LIST_OF.keys() & marks.keys():
            if (value := getattr(record, name)) and (reason := self._refused_model(name, value)):
                yield reason
        for variable, limit in LIMITS.items():
            requested = amount(record, variable)
            if requested > self.limits[variable] and not can_be_filled(record, limit):
                yield f"{', '.join(n for n in limit.settings if n in marks)}: {self._exceeds(variable, requested)}"

    def _exceeds(self, variable: str, requested: float) -> str:
        limit = f"{self.limits[variable]:,} ({variable}: {LIMITS[variable].what})"
        return f"{requested:,g} exceeds the operator's limit of {limit}"

    def _refused_model(self, name: str, text: str) -> str | None:
        patterns = self.models[LIST_OF[name]]
        if is_allowed(text, patterns):
            return None
        shown = [pattern for pattern in patterns if not pattern.startswith(("/", "~", "."))]
        return (
            f"{name}: {text[:100]!r} is not one of the models that the operator allows ({LIST_OF[name]}): "
            f"{', '.join(shown)}"
        )

    def _refused_publishing(self, target: str | None, hub_token: bool) -> Iterator[str]:
        if target is None:
            return
        if not is_allowed(target, self.hub_targets):
            yield f"{PUBLISHING}: {target} is not one of the repositories that the operator allows ({HUB_TARGETS})"
        if not hub_token:
            yield f"{PUBLISHING}: needs your own token with write permission, in the input hf_token"

    def _refused_trackers(self, trackers: tuple[str, ...], wandb_key: bool) -> Iterator[str]:
        if "wandb" in trackers and not wandb_key and TRACKERS not in self.may_set:
            yield (
                f"{TRACKERS}: wandb needs your own key, in the input wandb_api_key; the operator can allow its own key "
                f"with {MAY_SET}={TRACKERS} in the server's environment"
            )

    def _filled(self, config: TrainingConfig) -> dict[str, int]:
        """Return values for settings at their defaults that would exceed their limits."""
        exceeded = (
            variable for variable, limit in LIMITS.items()
            if can_be_filled(config, limit) and amount(config, variable) > self.limits[variable]
        )  # fmt: skip
        return {LIMITS[variable].settings[0]: self.limits[variable] for variable in exceeded}


def operators_settings() -> set[str]:
    """Settings that CALLERS_MAY_SET can open."""
    return {name for name, mark in marks_of(TrainingConfig).items() if mark in (Caller.OPERATOR, Caller.SOURCES)} - {
        PUBLISHING
    }


def switch(name: str) -> bool:
    """Whether the operator has set this environment variable. Raises ConfigError for anything but 1, 0 or nothing."""
    value = os.environ.get(name, "0").strip()
    if not is_on(value) and not is_off(value):
        raise ConfigError(f"{name}: {value!r} is neither 1 nor 0")
    return is_on(value)


def is_on(value: str) -> bool:
    """Whether the value of a variable switches something on."""
    return value.strip().lower() in ("1", "true", "yes")


def is_off(value: str) -> bool:
    """Whether the value switches it off. An empty one does, too."""
    return value.strip().lower() in ("", "0", "false", "no")


def _refuse_unknown_limits() -> None:
    """Raises ConfigError for a variable with the prefix of a limit that is not one."""
    for name in sorted(os.environ):
        if name.startswith(LIMIT_PREFIX) and name not in LIMITS:
            near = difflib.get_close_matches(name, LIMITS, n=1)
            meant = f"did you mean {near[0]}?" if near else f"the limits are {', '.join(LIMITS)}"
            raise ConfigError(f"{name}: is not a limit; {meant}")


def whole_number(name: str, usual: int) -> int:
    """Return the number in this environment variable, else `usual`. Raises ConfigError for any but whole ones above
    0."""
    value = os.environ.get(name, "").strip().replace("_", "")
    if not value:
        return usual
    if not value.isdigit() or int(value) < 1:
        raise ConfigError(f"{name}: {value!r} is not a whole number above 0")
    return int(value)
