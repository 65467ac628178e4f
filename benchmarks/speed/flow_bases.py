"""FLUX.2 klein 4B and Z-Image at full size, with random weights: steps, share of the peak and memory, compared with
diffusers' scripts for the same bases, and with the base in fp8. At most 12 minutes on an H200: cases for which no time
is left are skipped.

python -m benchmarks.speed.flow_bases [--script flux2-klein-4b=train_dreambooth_lora_flux2_klein.py]
    [--script z-image=train_dreambooth_lora_z_image.py] [--bases flux2-klein-4b z-image] [--cases 512x1 512x4 1024x1
    1024x4] [--steps 12] [--minutes 12] [--launcher FILE]

A case is resolution x batch. LoRA of rank 16 on the attention layers, the same in diffusers' scripts; bf16, precomputed
latents and prompts, no gradient checkpointing.
"""

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.learning.contenders import CLASS_WORD, FASTEST, run_measured
from benchmarks.record import Row, markdown, write_record
from benchmarks.speed.full_size import write_full_size
from benchmarks.speed.train_step import Case, measure
from benchmarks.speed.versus_at_full_size import RANK, RATE, WATCHER, captioned_photographs, measured
from families.precision.formats import PrecisionOfBase
from families.registry import load_base_model
from settings.command_line.parser import CommandParser
from settings.training import build_config
from trainer.adapters.targets import denoiser_targets

BASES = ("flux2-klein-4b", "z-image")
CASES = ("512x1", "512x4", "1024x1", "1024x4")
LONGEST_CASE = 60
"""Seconds that must be left to start another case."""


@dataclass(frozen=True)
class Run:
    """`cases`: resolution and batch. `scripts`: a command for each base that has one. `ends`: a value of
    time.monotonic(). `compiled`: whether the largest case is also measured with compiled blocks."""

    cases: Sequence[tuple[int, int]]
    steps: int
    ends: float = float("inf")
    scripts: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    compiled: bool = True

    @property
    def goes_on(self) -> bool:
        """Whether there is time for another case."""
        return self.ends - time.monotonic() > LONGEST_CASE


def main() -> None:
    """Measure, print the table after each base, write benchmarks/results/flow_bases.json."""
    begun = time.monotonic()
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", action="append", default=[], metavar="BASE=FILE", help="diffusers' for a base")
    parser.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES))
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each case")
    parser.add_argument("--minutes", type=float, default=12, help="limit after which no case is started")
    parser.add_argument("--launcher", type=Path, help="runs the scripts if torchvision is not installed")
    parser.add_argument("--name", default="flow_bases", help="name of the result")
    arguments = parser.parse_args()
    before = [arguments.launcher.resolve()] if arguments.launcher else []
    named = dict(each.split("=", 1) for each in arguments.script)
    run = Run(
        [_case(each) for each in arguments.cases],
        arguments.steps,
        begun + 60 * arguments.minutes,
        {base: [*before, Path(file).resolve()] for base, file in named.items()},
    )
    rows: list[Row] = []
    for base in arguments.bases:
        with tempfile.TemporaryDirectory() as scratch:
            rows += rows_of_base(base, Path(scratch), write_full_size, run)
        print(markdown(rows), flush=True)
    print(write_record(arguments.name, rows, {"rank": RANK, "steps": arguments.steps, "cases": arguments.cases}))


def rows_of_base(name: str, scratch: Path, write: Callable[[str, Path], Path], run: Run) -> Iterator[Row]:
    """Write the base, and measure diffusers' script, ours in bf16 and compiled, and ours in fp8."""
    base = write(name, scratch / "base")
    _free()
    if name in run.scripts:
        layers = attention_layers(base)
        for resolution, batch in run.cases:
            if _begins(run, f"diffusers' script, {resolution}x{batch}"):
                case = {"base": name, "training": "diffusers' script", "resolution": resolution, "batch": batch}
                yield {**case, **_theirs(run.scripts[name], base, layers, (resolution, batch), run.steps)}
    cases = [Case(resolution, batch, RANK) for resolution, batch in run.cases]
    if run.compiled:
        largest = max(run.cases, key=lambda case: case[0] ** 2 * case[1])
        cases.append(Case(*largest, RANK, compile="always"))
    formats: tuple[PrecisionOfBase, ...] = ("bf16", "fp8")
    for stored in formats:
        if not _begins(run, f"ours, {stored}"):
            continue
        waiting = (case for case in cases if _begins(run, f"ours, {stored}, {case.resolution}x{case.batch}"))
        for row in measure(str(base), waiting, run.steps, scratch / stored, stored):
            yield _as_ours(name, stored, row)
        _free()


def attention_layers(base: Path) -> list[str]:
    """Paths of the layers that `lora_targets: attention` adapts."""
    family = load_base_model(str(base), torch.bfloat16)
    return list(denoiser_targets(family, build_config({}).adapters))


def _theirs(
    script: Sequence[Path], base: Path, layers: Sequence[str], case: tuple[int, int], steps: int
) -> dict[str, Any]:
    """Figures of diffusers' script in a separate process; if it fails, its last line."""
    resolution, batch = case
    with tempfile.TemporaryDirectory() as scratch:
        photos, watched = captioned_photographs(Path(scratch) / "photos", resolution), Path(scratch) / "watched.json"
        options = {
            "pretrained_model_name_or_path": base, "dataset_name": photos, "cache_dir": Path(scratch) / "cache",
            "caption_column": "text", "instance_prompt": f"a photo of a {CLASS_WORD}", "resolution": resolution,
            "train_batch_size": batch, "rank": RANK, "lora_alpha": RANK, "lora_layers": ",".join(layers),
            "learning_rate": RATE, "lr_scheduler": "constant", "lr_warmup_steps": 0, "seed": 0,
            "mixed_precision": "bf16" if torch.cuda.is_available() else "no", "output_dir": "lora",
        }  # fmt: skip
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]

        def train(folder: Path, count: int, _: int) -> Any:
            length = ("--max_train_steps", count)
            command = [sys.executable, WATCHER, watched, *script, *flags, *length, *FASTEST, "--skip_final_inference"]
            return run_measured(command, folder.parent)

        try:
            found = measured(train, Path(scratch) / "theirs" / "run", steps, batch, watched)
        except RuntimeError as error:
            return {"failed": str(error).strip().splitlines()[-1]}
    return {
        "step, ms": round(found["step, ms"], 1),
        "images/s": round(found["images/s"], 1),
        "peak memory, GB": round(found["peak memory, GB"], 1),
    }


def _as_ours(name: str, stored: str, row: Mapping[str, Any]) -> Row:
    compiled = ", compiled" if row["compile"] == "always" else ""
    kept = ("resolution", "batch", "step, ms", "images/s", "GFLOP a step", "of peak")
    memory = round(row["peak memory, MB"] * 2**20 / 1e9, 1)
    return {"base": name, "training": f"ours, {stored}{compiled}", **{key: row[key] for key in kept},
            "peak memory, GB": memory}  # fmt: skip


def _case(text: str) -> tuple[int, int]:
    resolution, batch = map(int, text.split("x"))
    return resolution, batch


def _begins(run: Run, what: str) -> bool:
    print(f"{what}{'' if run.goes_on else ': left out, the time is over'}", flush=True)
    return run.goes_on


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
