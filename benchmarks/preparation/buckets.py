"""Number of bucket sizes for photographs, and the share that is cropped. `python -m benchmarks.preparation.buckets`"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.preparation.photographs import photograph_sizes
from benchmarks.record import RESULTS, markdown, write_record
from preprocess.crops.buckets import BucketRules, assign_buckets, crop_loss
from settings.command_line.parser import CommandParser

COUNTS = (30, 100, 1400)
RESOLUTION, STEP = 1024, 64


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and write the record."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the record")
    arguments = parser.parse_args(argv)
    rows = [row(count) for count in COUNTS]
    print(markdown(rows))
    print(write_record("buckets", rows, {"resolution": RESOLUTION, "step": STEP}, arguments.results))
    return 0


def row(count: int) -> dict[str, Any]:
    """Return the bucket statistics of `count` photographs. Losses are shares of an image's area."""
    images = photograph_sizes(count)
    buckets = assign_buckets(images, BucketRules(RESOLUTION, STEP))
    losses = [crop_loss(*pair) for pair in zip(images, buckets, strict=True)]
    areas = [width * height / RESOLUTION**2 for width, height in buckets]
    return {
        "photographs": count,
        "sizes": len(set(buckets)),
        "mean crop %": round(100 * sum(losses) / count, 2),
        "largest crop %": round(100 * max(losses), 2),
        "mean area": round(sum(areas) / count, 3),
    }


if __name__ == "__main__":
    sys.exit(main())
