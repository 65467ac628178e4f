"""Runs one of several processes that prepare images together.

`torchrun … -m tests.trainer.distributed.shared_preparation SOURCE OUTPUT OPTIONS`: OPTIONS are settings of data
preparation as JSON.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from preprocess.dataset import PreparedDataset
from preprocess.prepare import preparing
from preprocess.workers.relay import drain
from preprocess.workers.workers import Workers
from settings.preparation import DataConfig
from settings.record import build_settings
from tests.preprocess.uploads.ugly_uploads.making import picture, shard


def write_shards(folder: Path, count: int = 5, first_seed: int = 0) -> Path:
    """Writes WebDataset shards with captions, an image that is in every shard, a damaged image, one that is too small,
    and a caption without an image.

    `first_seed`: is added to the seeds of the images; with another hundred, the images differ.
    """
    folder.mkdir()
    for number in range(count):
        files: dict[str, bytes] = {}
        for index in range(4):
            seed = 0 if index == 3 else 10 * number + index  # the last one is the same in all shards
            files[f"{number}_{index}.png"] = picture((90 + 10 * index, 80), seed=first_seed + seed)
            if index != 1:
                files[f"{number}_{index}.json"] = b'{"caption": "a robot on the moon %d"}' % index
        files[f"{number}_bad.jpg"] = b"no picture"
        files[f"{number}_small.png"] = picture((8, 8), seed=number)
        files[f"{number}_lost.txt"] = b"a caption without its picture"
        (folder / f"shard-{number:03d}.tar").write_bytes(shard(files))
    return folder


def prepared(sources: Sequence[Path], output: Path, workers: Workers, **options: Any) -> PreparedDataset:
    values = {"resolution": 64, "captioner": "none", "class_word": "robot", "num_workers": 2, **options}
    stages = preparing(sources, build_settings(DataConfig, values), output, workers=workers)
    dataset = drain(stages, lambda _: None)
    workers.release()
    return dataset


def contents(folder: Path) -> Mapping[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


if __name__ == "__main__":
    from trainer.distributed.preparation_workers import run_worker, workers_of
    from trainer.distributed.processes import Processes, start

    processes = Processes(start())
    if processes.is_main:
        prepared([Path(sys.argv[1])], Path(sys.argv[2]), workers_of(processes), **json.loads(sys.argv[3]))
    else:
        run_worker(processes)
    processes.accelerator.end_training()
