"""The search space of a sweep: every combination of listed values, or random draws."""

import itertools
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from settings.record import ConfigError, Settings, build_settings, read_settings_file
from settings.training import TrainingConfig, build_config
from settings.unknown_names import advice

MAX_TRIALS = 1000


class Span(Settings):
    """A range of values. Values are integers if both ends are."""

    low: float | int = Field(description="Smallest value")
    high: float | int = Field(description="Largest value")
    log: bool = Field(False, description="Sample uniformly on a logarithmic scale, as for learning rates")

    @model_validator(mode="after")
    def _ordered(self) -> "Span":
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError(f"low {self.low:g} must be less than high {self.high:g}, and above 0 with log")
        return self

    def draw(self, rng: random.Random) -> float | int:
        """Draw a value."""
        ends = (math.log(self.low), math.log(self.high)) if self.log else (float(self.low), float(self.high))
        value = rng.uniform(*ends)
        value = math.exp(value) if self.log else value
        if isinstance(self.low, int) and isinstance(self.high, int):
            return min(self.high, max(self.low, round(value)))
        return float(f"{value:.4g}")


class Sweep(Settings):
    """The contents of the file given by `--sweep`."""

    search: Literal["grid", "random"] = Field("grid", description="Every combination, or random samples")
    trials: int | None = Field(None, ge=1, le=MAX_TRIALS, description="Number of random trials")
    seed: int = Field(0, ge=0, description="Seed of the random trials")
    fields: dict[str, list[Any] | Span] = Field(min_length=1, description="Values or a range, by setting")

    @model_validator(mode="after")
    def _search_rules(self) -> "Sweep":
        unknown = [name for name in self.fields if name not in TrainingConfig.model_fields]
        if unknown:
            found = advice(unknown[0], TrainingConfig.model_fields)
            raise ValueError(f"fields: {unknown[0]} is not a setting; {found or 'docs/settings.md lists them'}")
        if "evaluate" in self.fields:
            raise ValueError("fields: evaluate is true in every trial, since trials are ranked by it; leave it out")
        if any(isinstance(values, list) and not values for values in self.fields.values()):
            raise ValueError("fields: a list of values is empty; add values, or remove the field")
        if self.search == "random" and self.trials is None:
            raise ValueError("trials: give the number of random trials")
        if self.search == "grid" and self.trials is not None:
            raise ValueError(
                "trials has no effect with search: grid, which runs all combinations; leave it out, or set search: "
                "random"
            )
        if self.search == "grid" and any(isinstance(values, Span) for values in self.fields.values()):
            raise ValueError("fields: a grid needs lists of values; ranges need search: random")
        return self


def read_sweep(path: Path) -> Sweep:
    """Read a sweep file. Raises ConfigError."""
    return build_settings(Sweep, read_settings_file(path))


def trial_settings(sweep: Sweep, common: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the settings of each trial, all of them checked together with `common`.

    Raises ConfigError, naming the trial.
    """
    trials = _grid(sweep) if sweep.search == "grid" else _random(sweep)
    if len(trials) > MAX_TRIALS:
        raise ConfigError(f"fields: {len(trials)} combinations exceed the limit of {MAX_TRIALS}; list fewer values")
    for number, values in enumerate(trials):
        try:
            build_config({**common, **values})
        except ConfigError as error:
            raise ConfigError(f"trial {number} with {values}: {error}") from None
    return trials


def _grid(sweep: Sweep) -> list[dict[str, Any]]:
    lists = [values for values in sweep.fields.values() if isinstance(values, list)]
    return [dict(zip(sweep.fields, values, strict=True)) for values in itertools.product(*lists)]


def _random(sweep: Sweep) -> list[dict[str, Any]]:
    assert sweep.trials is not None
    rng = random.Random(sweep.seed)
    return [
        {
            name: values.draw(rng) if isinstance(values, Span) else rng.choice(values)
            for name, values in sweep.fields.items()
        }
        for _ in range(sweep.trials)
    ]
