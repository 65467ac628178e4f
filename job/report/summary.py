"""report.json: configuration, every warning and refusal, verification, verdict, times, versions and machine."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch

from job.output_folder import OutputFolder
from job.phases import PhaseClock
from job.verification.verify import Verification
from preprocess.dataset import PreparedDataset
from settings.training import TrainingConfig

PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors")


def write_report(
    output: OutputFolder,
    config: TrainingConfig,
    dataset: PreparedDataset,
    verification: Verification,
    phases: PhaseClock,
    evaluation: Mapping[str, Any] | None = None,
) -> None:
    """Write report.json. `evaluation`: as in evaluation.json."""
    report = {
        "config": config.model_dump(mode="json"),
        "images": len(dataset.examples),
        "triggers": [concept.trigger_word for concept in config.all_concepts],
        "rejected": [asdict(rejected) for rejected in dataset.rejected],
        "warnings": list(dataset.all_warnings),
        "verification": asdict(verification),
        "evaluation": evaluation,
        "seconds": round(phases.total, 2),
        "phases": {name: round(value, 2) for name, value in phases.seconds.items()},
        "versions": versions(),
        "machine": machine(),
    }
    output.report.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what a training does."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def machine() -> dict[str, Any]:
    """What it ran on: no host name, no user, no path."""
    cuda = torch.cuda.is_available()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if cuda else "none",
        "cuda": torch.version.cuda if cuda else None,
    }
