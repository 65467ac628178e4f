"""Optimizers that need an additional package."""

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from settings.record import ConfigError
from settings.sections.optimization import OptimizerName


@dataclass(frozen=True)
class Extra:
    """An optional package. `package`: its name for pip. `module`: its name for import."""

    package: str
    module: str
    needs_gpu: bool = False


EXTRAS: dict[OptimizerName, Extra] = {
    "adamw_8bit": Extra("bitsandbytes", "bitsandbytes", needs_gpu=True),
    "adamw_schedule_free": Extra("schedulefree", "schedulefree"),
    "prodigy_schedule_free": Extra("prodigy-plus-schedule-free", "prodigyplus"),
    "came": Extra("came-pytorch", "came_pytorch"),
    "lion": Extra("lion-pytorch", "lion_pytorch"),
}


def require_available(name: OptimizerName, setting: str = "optimizer") -> None:
    """Raises ConfigError, naming `setting`, when the optimizer's package is not installed, or when it needs a GPU and
    there is none."""
    extra = EXTRAS.get(name)
    if extra is None:
        return
    if find_spec(extra.module) is None:
        raise ConfigError(
            f"{setting}: {name} needs the package {extra.package}, which is not installed. "
            f"Run `pip install {extra.package}`, or set {setting}: adamw"
        )
    if extra.needs_gpu and not torch.cuda.is_available():
        raise ConfigError(
            f"{setting}: {name} needs a GPU, and there is none. Set {setting}: adamw, which runs on every device"
        )


def import_extra(name: OptimizerName) -> Any:
    """Import the optimizer's package. Raises ConfigError as `require_available` does."""
    require_available(name)
    return importlib.import_module(EXTRAS[name].module)
