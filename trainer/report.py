"""What a training did, as JSON: configuration, every warning and refusal, verification, times and versions."""

import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from preprocess.dataset import PreparedDataset
from trainer.config import TrainingConfig
from trainer.verification import Verification

PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors")


def write_report(
    path: Path, config: TrainingConfig, dataset: PreparedDataset, verification: Verification, seconds: float
) -> None:
    """Write report.json. `seconds`: of the whole job."""
    report = {
        "config": config.model_dump(mode="json"),
        "images": len(dataset.examples),
        "rejected": [asdict(rejected) for rejected in dataset.rejected],
        "warnings": list(dataset.all_warnings),
        "verification": asdict(verification),
        "seconds": round(seconds, 2),
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
    }
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
