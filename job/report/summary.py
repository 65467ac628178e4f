"""Writes report.json: configuration, warnings, rejected files, verification, verdict, times, versions and machine."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch

from job.output_folder import OutputFolder, write_whole
from job.phases import PhaseClock
from job.restoring.outcome import Restoration
from job.verification.verify import Verification
from preprocess.dataset import PreparedDataset
from settings.public import hide_paths

PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors")


@dataclass(frozen=True)
class BaseUsed:
    """The base model's properties for other tools. `pipeline`: diffusers' class. `encoders`: keys of the token
    embeddings in the order of the pipeline's text encoders, empty if the trigger words have no embeddings."""

    pipeline: str
    encoders: tuple[str, ...]
    restores: bool = False
    """Whether it reconstructs images and cannot generate from a prompt."""
    controlnet_in_comfyui: bool = True
    """Whether ComfyUI recognises the ControlNet that was trained."""


def write_report(
    output: OutputFolder,
    config: Mapping[str, Any],
    triggers: Sequence[str],
    dataset: PreparedDataset,
    warnings: Sequence[str],
    base: BaseUsed,
    verification: Verification,
    phases: PhaseClock,
    resumed_at: int = 0,
    evaluation: Mapping[str, Any] | None = None,
    steps: int | None = None,
    restoration: Restoration | None = None,
    ending: Mapping[str, Any] | None = None,
    plan: str | None = None,
) -> None:
    """Write report.json. `config`: all settings, as in JSON. `evaluation`: as in evaluation.json. `resumed_at`: the
    step from which a run was resumed and its `phases` are measured; 0 for others. `steps`: number of steps of the run,
    which may have ended early. `restoration`: for a base model that reconstructs images. `ending`: why a run without a
    fixed length ended.
    """
    report = {
        "steps": config.get("max_train_steps") if steps is None else steps,
        "config": config,
        "base": asdict(base),
        "images": len(dataset.largest),
        "triggers": list(triggers),
        "rejected": [asdict(rejected) for rejected in dataset.rejected],
        "warnings": list(warnings),
        "image_warnings": [hide_paths(line) for example in dataset.examples for line in example.warnings],
        "verification": asdict(verification),
        "evaluation": evaluation,
        "restoration": None if restoration is None else asdict(restoration),
        "ending": ending,
        "plan": plan,
        "seconds": round(phases.total, 2),
        "resumed_at": resumed_at,
        "phases": {name: round(value, 2) for name, value in phases.seconds.items()},
        "versions": versions(),
        "machine": machine(),
    }
    write_whole(output.report, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect training."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def machine() -> dict[str, Any]:
    """Return a description of the machine without host name, user and paths."""
    cuda = torch.cuda.is_available()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if cuda else "none",
        "cuda": torch.version.cuda if cuda else None,
    }
