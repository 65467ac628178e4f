"""The same training through diffusers' advanced SDXL script and through ours: speed, memory and what was learned.

python -m benchmarks.versus_diffusers train_dreambooth_lora_sdxl_advanced.py [--launcher FILE] [--pairs 5] [--seeds 3]

The script is diffusers' examples/advanced_diffusion_training/train_dreambooth_lora_sdxl_advanced.py, fetched by hand;
it needs the package `datasets`. A launcher is a Python file that is run with the script as its first argument.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.diffusers_results import TRIGGER, draw_of, judge_of
from benchmarks.record import Row, markdown, write_record
from families.sources import EMBEDDED_BASE_FOLDER

PROJECT = Path(__file__).resolve().parents[1]
EXAMPLE = PROJECT / "assets" / "examples" / "robot.zip"
CLASS_WORD = "figure"
SHORT, LONG = 40, 120
"""Steps of two runs whose difference is the time of a step, without start and end."""
LEARNING_STEPS = 300
BATCH, RANK, RATE, TOKEN_RATE, SIDE = 8, 8, 2e-3, 2e-2, 64


@dataclass(frozen=True)
class Usage:
    """Of one process: wall time in seconds, peak resident memory in MB."""

    seconds: float
    megabytes: float


@dataclass(frozen=True)
class Contender:
    """A way to train. `train(folder, steps, seed)` leaves a LoRA and embeddings in the folder, which does not exist."""

    name: str
    train: Callable[[Path, int, int], Usage]


def main() -> None:
    """Measure, print the tables, write benchmarks/results/versus_diffusers.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("script", type=Path, help="diffusers' training script")
    parser.add_argument("--launcher", type=Path, help="runs the script where torchvision is missing")
    parser.add_argument("--pairs", type=int, default=5, help="paired runs for speed and memory")
    parser.add_argument("--seeds", type=int, default=3, help="trainings for what is learned")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        photos = unpack_example(folder / "photos")
        launcher = [arguments.launcher.resolve()] if arguments.launcher else []
        theirs = Contender("diffusers", their_training([*launcher, arguments.script.resolve()], photos))
        ours = Contender("ours, the same job", our_training(same_job()))
        demo = Contender("ours, configs/demo.yaml", our_training(["--config", PROJECT / "configs" / "demo.yaml"]))
        speed = measure_speed((theirs, ours), folder, arguments.pairs)
        learned = [
            row for each in (theirs, ours, demo) for row in measure_learning(each, folder, photos, arguments.seeds)
        ]
    for rows in (speed, learned):
        print(markdown(rows), end="\n\n")
    settings = {
        "pairs": arguments.pairs,
        "seeds": arguments.seeds,
        "batch": BATCH,
        "rank": RANK,
        "steps": [SHORT, LONG],
    }
    print(write_record("versus_diffusers", [*speed, *learned], settings))


def same_job() -> list[object]:
    """Our options for what diffusers' script is asked to do."""
    return [
        *("--class_word", CLASS_WORD, "--lr_scheduler", "constant", "--lr_warmup_steps", 0),
        *("--learning_rate", RATE, "--token_learning_rate", TOKEN_RATE, "--train_batch_size", BATCH, "--rank", RANK),
    ]


def our_training(options: Sequence[object]) -> Callable[[Path, int, int], Usage]:
    """`python train.py` without samples or evaluation, which the other side is not asked for either."""

    def train(folder: Path, steps: int, seed: int) -> Usage:
        arguments = [*options, "--max_train_steps", steps, "--seed", seed, "--output", folder]
        always = ["--base_model", "mini-sdxl", "--trigger_word", TRIGGER, "--num_validation_images", 0]
        return run_measured([sys.executable, "train.py", EXAMPLE, *always, *arguments], PROJECT)

    return train


def their_training(command: Sequence[Path], photos: Path) -> Callable[[Path, int, int], Usage]:
    """diffusers' script, with pivotal tuning. It wants a bare name as its output folder."""

    def train(folder: Path, steps: int, seed: int) -> Usage:
        options = {
            "pretrained_model_name_or_path": EMBEDDED_BASE_FOLDER,
            "dataset_name": photos,
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
        flags += ["--train_text_encoder_ti", "--train_text_encoder_ti_frac", 1.0, "--cache_latents"]
        return run_measured([sys.executable, *command, *flags], folder.parent)

    return train


def run_measured(command: Sequence[object], folder: Path) -> Usage:
    """Run a command to its end. Raises RuntimeError with the end of what it said when it fails."""
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
    return Usage(seconds, usage.ru_maxrss / 1024)


def measure_speed(contenders: Sequence[Contender], folder: Path, pairs: int) -> list[Row]:
    """Medians over runs of SHORT and of LONG steps, in which the contenders take turns; then the last by the first."""
    runs: dict[str, list[tuple[Usage, Usage]]] = {contender.name: [] for contender in contenders}
    for pair in range(pairs):
        for number, contender in enumerate(contenders):
            place = folder / f"speed-{number}-{pair}"
            short = contender.train(place.with_name(f"{place.name}-short"), SHORT, pair)
            runs[contender.name].append((short, contender.train(place.with_name(f"{place.name}-long"), LONG, pair)))
    rows = [_speed_row(name, usages) for name, usages in runs.items()]
    first, *_, last = rows
    ratios = {name: last[name] / value for name, value in first.items() if name != "speed"}
    return [*rows, {"speed": "ratio", **ratios}]


def _speed_row(name: str, usages: Sequence[tuple[Usage, Usage]]) -> dict[str, Any]:
    steps = [(long.seconds - short.seconds) / (LONG - SHORT) for short, long in usages]
    edges = [short.seconds - step * SHORT for (short, _), step in zip(usages, steps, strict=True)]
    return {
        "speed": name,
        f"wall time of {LONG} steps, s": statistics.median(long.seconds for _, long in usages),
        "step, ms": 1000 * statistics.median(steps),
        "start and end, s": statistics.median(edges),
        "peak memory, MB": statistics.median(long.megabytes for _, long in usages),
    }


def measure_learning(contender: Contender, folder: Path, photos: Path, seeds: int) -> list[Row]:
    """A row a seed."""
    judge = judge_of(photos)
    rows: list[Row] = []
    for seed in range(seeds):
        output = folder / f"learning-{re.sub(r'[^a-z]+', '-', contender.name)}-{seed}"
        contender.train(output, LEARNING_STEPS, seed)
        scores: dict[str, Any] = dict(judge.score(draw_of(output), TRIGGER, CLASS_WORD).row())
        rows.append({"learning": contender.name, "seed": seed, **scores})
        print(rows[-1], flush=True)
    return rows


def unpack_example(folder: Path) -> Path:
    """The example in diffusers' imagefolder layout: pictures and metadata.jsonl with the captions."""
    folder.mkdir()
    with zipfile.ZipFile(EXAMPLE) as archive:
        archive.extractall(folder)  # our own file
    lines = []
    for path in sorted(folder.glob("*.png")):
        sidecar = path.with_suffix(".txt")
        lines.append(json.dumps({"file_name": path.name, "text": sidecar.read_text(encoding="utf-8")}))
        sidecar.unlink()
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


if __name__ == "__main__":
    main()
