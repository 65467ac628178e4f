"""Prepares pictures as train.py does, in a process of its own: `python -m studio.pictures.preparing REQUEST`.

The base is loaded, because sizes of crops and limits of captions are the base's. Its memory is free again when the
process ends.
"""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from job.progress import Progress
from preprocess.dataset import REJECTED_FILE, Rejected
from preprocess.errors import DatasetError
from service.child_process import ChildProcess
from service.quick_imports import quick_imports
from settings.record import ConfigError
from settings.training import build_config

if TYPE_CHECKING:
    from job.stage import Job

SUCCESS, REFUSED = 0, 2
NEEDS_FILE = "needs.txt"
"""In the folder of a set: the predicted memory."""
ROW = TypeAdapter(Rejected)
ERROR = "error: "


class PreparationFailed(Exception):
    """The message is the reason, in a line or more. `refused`: the files that cannot be used."""

    def __init__(self, reason: str, refused: Sequence[Rejected]) -> None:
        super().__init__(reason)
        self.refused = refused


def prepare_pictures(
    sources: Sequence[Path], settings: dict[str, Any], output: Path, request: Path
) -> Iterator[Progress]:
    """Prepare `sources` into `output / "dataset"`, and yield the progress. `request`: the file for the other process.

    Raises PreparationFailed. Closing the iterator stops the process. Both remove `output`.
    """
    values = {"sources": [str(source) for source in sources], "settings": settings, "output": str(output)}
    request.write_text(json.dumps(values), encoding="utf-8")
    child = ChildProcess([sys.executable, "-m", "studio.pictures.preparing", str(request)])
    others: list[str] = []
    status: int | None = None
    refused: list[Rejected] = []
    try:
        for line in child.lines():
            progress = Progress.from_line(line)
            if progress is not None:
                yield progress
            elif line.strip():
                others.append(line)
        status = child.exit_status()
    finally:
        child.stop()
        if status != SUCCESS:
            refused = _refused_files(output)
            shutil.rmtree(output, ignore_errors=True)
    if status != SUCCESS:
        reason = "\n".join(others).rpartition(ERROR)[2]
        raise PreparationFailed(reason or f"the preparation ended with status {status}", refused)


def _refused_files(output: Path) -> list[Rejected]:
    """What the preparation wrote of the files before it failed, if it came so far."""
    path = output / "dataset" / REJECTED_FILE
    if not path.is_file():
        return []
    return [ROW.validate_json(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def main(argv: Sequence[str]) -> int:
    """Run the preparation of a request. Returns the exit status: 0, or 2 for pictures or settings that are refused."""
    request = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    with quick_imports():
        from families.errors import BaseModelError
        from job.output_folder import OutputFolder
        from job.stage import Job
        from job.stages.load import load_family, start_device
        from job.stages.prepare import prepare

    try:
        job = Job(build_config(request["settings"]), request["sources"], OutputFolder.create(Path(request["output"])))
        start_device(job)
        print(job.progress(f"loading the base model {job.config.base_model}").to_json(), flush=True)
        load_family(job)
        job.span = (0.1, 1.0)
        with closing(prepare(job)) as events:
            for event in events:
                print(event.to_json(), flush=True)
        if (needs := predicted_needs(job)) is not None:
            print(job.progress(needs, 1.0).to_json(), flush=True)
            (job.output.path / NEEDS_FILE).write_text(needs, encoding="utf-8")
    except (BaseModelError, ConfigError, DatasetError) as error:
        print(f"{ERROR}{error}", flush=True)
        return REFUSED
    return SUCCESS


def predicted_needs(job: "Job") -> str | None:
    """Return a line on the memory of a training with the settings of the set, on a GPU as well as here; None for an
    adapter for which it cannot be predicted."""
    import torch

    from families.precision.stored_blocks import Storage
    from trainer.adapters.kinds import KINDS
    from trainer.duration import USUAL_BATCH
    from trainer.memory_plan import Choice, Workload, predicted

    config = job.config
    if config.adapter not in KINDS:
        return None
    images = min(config.train_batch_size or USUAL_BATCH, len(job.dataset.examples))
    features = job.family.encode_prompts([""]).to(torch.device("cpu"))
    precision = "bf16" if config.base_precision == "auto" else config.base_precision
    choice = Choice(images, config.gradient_checkpointing == "always", Storage(precision))
    return str(predicted(job.family, config.adapters, Workload(images, job.side, features), choice))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
