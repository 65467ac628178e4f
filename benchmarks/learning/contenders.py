"""Ways to train the same concept: this trainer, and diffusers' advanced SDXL script, each in a separate process."""

import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.learning.diffusers_results import TRIGGER
from families.loading.sources import EMBEDDED_BASE, EMBEDDED_BASE_FOLDER

PROJECT = Path(__file__).resolve().parents[2]
EXAMPLE = PROJECT / "assets" / "examples" / "robot.zip"
DEMO = PROJECT / "configs" / "demo.yaml"
CLASS_WORD = "figure"
BATCH, RANK, RATE, TOKEN_RATE, SIDE = 8, 8, 2e-3, 2e-2, 64
FASTEST = ("--cache_latents",)
"""Options with which diffusers' script is fastest where memory is sufficient."""
DOCUMENTED = ("--gradient_checkpointing",)
"""The options of the command in its README, which does not cache latents."""


@dataclass(frozen=True)
class Usage:
    """Resource usage of one process: wall time and CPU time in seconds, peak resident memory in MB."""

    seconds: float
    megabytes: float
    processor_seconds: float = 0.0


Train = Callable[[Path, int, int], Usage]
"""Writes a LoRA and embeddings to a folder that must not exist; the arguments are folder, steps and seed."""


@dataclass(frozen=True)
class Contender:
    """A way to train. A finished run with other `settings` is repeated."""

    name: str
    train: Train
    settings: Mapping[str, Any] = field(default_factory=dict)


def same_job() -> list[object]:
    """Return this trainer's options for the job of diffusers' script: its layers, weighting and schedule, unchanged
    captions, and no prior matching."""
    return [
        *("--class_word", CLASS_WORD, "--lr_scheduler", "constant", "--lr_warmup_steps", 0),
        *("--learning_rate", RATE, "--token_learning_rate", TOKEN_RATE, "--train_batch_size", BATCH, "--rank", RANK),
        *("--lora_targets", "attention", "--loss_weighting", "min_snr", "--min_snr_gamma", 5),
        *("--prior_matching_weight", 0, "--caption_dropout", 0, "--trigger_only_dropout", 0),
    ]


def demo_job() -> list[object]:
    """Return the options of configs/demo.yaml, the preset for this base, with batch size and rank stated explicitly."""
    return ["--config", DEMO, "--train_batch_size", BATCH, "--rank", RANK]


def our_training(
    options: Sequence[object], data: Path = EXAMPLE, base: Path | str = EMBEDDED_BASE, before: Sequence[object] = ()
) -> Train:
    """Train with `python train.py` without samples or evaluation, which diffusers' script does not have either.
    `before`: the command that runs the script."""

    def train(folder: Path, steps: int, seed: int) -> Usage:
        arguments = [*options, "--max_train_steps", steps, "--seed", seed, "--output", folder]
        always = ["--base_model", base, "--trigger_word", TRIGGER, "--num_validation_images", 0]
        return run_measured([sys.executable, *before, "train.py", data, *always, *arguments], PROJECT)

    return train


def their_training(command: Sequence[object], photos: Path, changes: Sequence[object] = ()) -> Train:
    """diffusers' script, with pivotal tuning. Its output folder must be a name without a path. `changes`: options that
    are appended.
    """

    def train(folder: Path, steps: int, seed: int) -> Usage:
        options = {
            "pretrained_model_name_or_path": EMBEDDED_BASE_FOLDER,
            "dataset_name": photos,
            "cache_dir": folder.parent / "cache",
            "caption_column": "text",
            "instance_prompt": f"a photo of {TRIGGER}",
            "token_abstraction": TRIGGER,
            "output_dir": folder.name,
            "resolution": SIDE,
            "train_batch_size": BATCH,
            "max_train_steps": steps,
            "learning_rate": RATE,
            "text_encoder_lr": TOKEN_RATE,
            "rank": RANK,
            "snr_gamma": 5.0,
            "lr_scheduler": "constant",
            "lr_warmup_steps": 0,
            "seed": seed,
            "mixed_precision": "no",
            "report_to": "tensorboard",
        }
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        flags += ["--train_text_encoder_ti", "--train_text_encoder_ti_frac", 1.0]
        return run_measured([sys.executable, *command, *flags, *changes], folder.parent)

    return train


def run_measured(command: Sequence[object], folder: Path) -> Usage:
    """Run a command to its end. Raises RuntimeError with the end of its output when it fails."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as said:
        started = time.monotonic()
        process = subprocess.Popen(
            [str(part) for part in command], cwd=folder, stdout=said, stderr=subprocess.STDOUT, env=environment
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{command[1]} failed ({process.returncode}):\n{said.read()[-3000:]}")
    return Usage(seconds, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime)


def unpack_example(folder: Path) -> Path:
    """The example in diffusers' imagefolder layout: images and metadata.jsonl with the captions."""
    folder.mkdir()
    with zipfile.ZipFile(EXAMPLE) as archive:
        archive.extractall(folder)  # a file of this repository
    lines = []
    for path in sorted(folder.glob("*.png")):
        sidecar = path.with_suffix(".txt")
        lines.append(json.dumps({"file_name": path.name, "text": sidecar.read_text(encoding="utf-8")}))
        sidecar.unlink()
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
