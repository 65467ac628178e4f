"""The same training of a base of full size, with diffusers' advanced SDXL script and with this trainer.

python -m benchmarks.speed.full_size sdxl BASE
python -m benchmarks.speed.versus_at_full_size SCRIPT --base BASE [--cases 512x8 1024x4] [--steps 40] [--launcher FILE]

A case is resolution x batch. Attention LoRA of rank 16, two tokens trained in both text encoders, bf16 on a GPU,
latents cached. Each runs once, in a separate process; the time of a step is the median of the second half of its steps.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks.learning.contenders import CLASS_WORD, FASTEST, Train, our_training, their_training
from benchmarks.learning.diffusers_results import TRIGGER
from benchmarks.preparation.photographs import scaled_sizes, write_photographs
from benchmarks.record import Row, markdown, write_record
from settings.command_line.parser import CommandParser

PHOTOGRAPHS = 8
RANK, RATE, TOKEN_RATE = 16, 1e-4, 1e-3
WATCHER = Path(__file__).resolve().parents[1] / "learning" / "watched_script.py"


def main() -> None:
    """Measure, print the table, write benchmarks/results/versus_at_full_size.json."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("script", type=Path, help="diffusers' training script")
    parser.add_argument("--base", type=Path, required=True, help="folder in diffusers' layout")
    parser.add_argument("--cases", nargs="+", default=["512x8", "1024x4"])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--launcher", type=Path, help="runs the script if torchvision is not installed")
    parser.add_argument("--name", default="versus_at_full_size", help="name of the result")
    arguments = parser.parse_args()
    script = [path.resolve() for path in (arguments.launcher, arguments.script) if path]
    rows: list[Row] = []
    for case in arguments.cases:
        resolution, batch = map(int, case.split("x"))
        rows += compare(script, arguments.base.resolve(), resolution, batch, arguments.steps)
        print(markdown(rows), flush=True)
    print(write_record(arguments.name, rows, {"base": arguments.base.name, "rank": RANK, "steps": arguments.steps}))


def compare(script: Sequence[Path], base: Path, resolution: int, batch: int, steps: int) -> Iterator[Row]:
    """Return a row for each of the two, and one with the ratio."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        photos, watched = captioned_photographs(folder / "photos", resolution), folder / "watched.json"
        precision = "bf16" if torch.cuda.is_available() else "no"
        theirs = their_training([WATCHER, watched, *script], photos, [
            *("--pretrained_model_name_or_path", base, "--resolution", resolution, "--train_batch_size", batch),
            *("--rank", RANK, "--learning_rate", RATE, "--text_encoder_lr", TOKEN_RATE),
            *("--mixed_precision", precision),
            *FASTEST,
        ])  # fmt: skip
        ours = our_training([
            *("--class_word", CLASS_WORD, "--lr_scheduler", "constant", "--lr_warmup_steps", 0),
            *("--resolution", resolution, "--train_batch_size", batch, "--aspect_ratio_bucketing", "false"),
            *("--rank", RANK, "--learning_rate", RATE, "--token_learning_rate", TOKEN_RATE),
        ], photos, base, [WATCHER, watched])  # fmt: skip
        case = {"resolution": resolution, "batch": batch}
        found = {
            name: measured(train, folder / name / "run", steps, batch, watched)
            for name, train in (("diffusers' script", theirs), ("ours", ours))
        }
        first, second = found.values()
        for name, figures in found.items():
            yield {**case, "training": name, **figures}
        yield {**case, "training": "ours by theirs", **{key: second[key] / first[key] for key in first}}


def captioned_photographs(folder: Path, resolution: int) -> Path:
    """Write photographs in diffusers' imagefolder layout, which this trainer reads, too."""
    folder.mkdir()
    write_photographs(folder, scaled_sizes(PHOTOGRAPHS, resolution))
    lines = [
        json.dumps({"file_name": path.name, "text": f"a photo of {TRIGGER}, number {number}"})
        for number, path in enumerate(sorted(folder.glob("*.jpg")))
    ]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def measured(train: Train, folder: Path, steps: int, batch: int, watched: Path) -> dict[str, float]:
    """Train once, in `folder`. `watched`: the record of benchmarks/learning/watched_script.py."""
    folder.parent.mkdir()
    started = time.time()
    usage = train(folder, steps, 0)
    seen = json.loads(watched.read_text(encoding="utf-8"))
    begun = [wall for wall, _ in seen["backward_begun"]]
    if len(begun) != steps:
        sys.exit(f"{len(begun)} backward passes in {steps} steps: they cannot be assigned to steps")
    between = [later - earlier for earlier, later in pairwise(begun)]
    step = statistics.median(between[len(between) // 2 :])
    return {
        "whole job, s": usage.seconds,
        "until the first step, s": begun[0] - started,
        "step, ms": 1000 * step,
        "images/s": batch / step,
        "peak memory, GB": seen["peak_bytes"] / 1e9,
    }


if __name__ == "__main__":
    main()
