"""Prepares images as train.py does, in a separate process: `python -m studio.pictures.preparing REQUEST`.

The base model is loaded, because it determines the sizes of crops and the limits of captions. The end of the process
frees its memory.
"""

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
from service.quick_imports import quick_imports
from settings.record import ConfigError
from settings.training import build_config
from studio.estimates.memory import keep_needs
from studio.estimates.presets import presets_of, settings_of_preset, training_settings
from studio.other_process import SUCCESS, read_request, reason_in, refuse, running_task

if TYPE_CHECKING:
    from job.stage import Job

ROW = TypeAdapter(Rejected)


class PreparationFailed(Exception):
    """The message is the reason, in one or more lines. `refused`: the files that cannot be used."""

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
    others: list[str] = []
    status: int | None = None
    refused: list[Rejected] = []
    try:
        with running_task("studio.pictures.preparing", values, request) as child:
            for line in child.lines():
                progress = Progress.from_line(line)
                if progress is not None:
                    yield progress
                elif line.strip():
                    others.append(line)
            status = child.exit_status()
    finally:
        if status != SUCCESS:
            refused = _refused_files(output)
            shutil.rmtree(output, ignore_errors=True)
    if status != SUCCESS:
        raise PreparationFailed(reason_in(others) or f"the preparation ended with status {status}", refused)


def _refused_files(output: Path) -> list[Rejected]:
    """Return the files that the preparation had rejected before it failed, if known."""
    path = output / "dataset" / REJECTED_FILE
    if not path.is_file():
        return []
    return [ROW.validate_json(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def main(argv: Sequence[str]) -> int:
    """Run the preparation of a request. Returns the exit status: 0, or 2 for wrong images or settings."""
    request = read_request(argv)
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
        _predict_needs(job, request["settings"])
    except (BaseModelError, ConfigError, DatasetError) as error:
        return refuse(error)
    return SUCCESS


def _predict_needs(job: "Job", settings: dict[str, Any]) -> None:
    """Store the predicted memory of a training with the settings of the set, and with each preset for its base model,
    which is already loaded here."""
    from studio.estimates.predicting import predict_alike

    images = len(job.dataset.examples)
    presets = [settings_of_preset(name, settings) for name in presets_of(job.config.base_model)]
    keep_needs(job.output.path, predict_alike(job, images, [training_settings(settings, {}), *presets]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
