"""Logs to TensorBoard and Weights & Biases through accelerate's trackers."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker
from PIL import Image

from job.output_folder import OutputFolder
from job.progress import Progress
from job.report.summary import machine, versions
from pages.pictures import numbered_pictures
from settings.record import ConfigError
from settings.sections.output import OutputSection

Log = Callable[[GeneralTracker, int], None]
"""Logs one row, or the samples of one step, to a tracker."""
PROJECT = "lora-trainer"
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}


def require_trackers(settings: OutputSection) -> None:
    """Raises ConfigError, before any work, if a package or the login for W&B is missing."""
    for name in settings.trackers:
        if find_spec(PACKAGES[name]) is None:
            raise ConfigError(
                f"trackers: {name} needs a package that is not installed: pip install {PACKAGES[name]}, or leave it out"
            )
    if "wandb" in settings.trackers:
        with _explained():
            _wandb().login()


def start_trackers(
    names: Sequence[str], settings: Mapping[str, Any], output: OutputFolder, first: int
) -> list[GeneralTracker]:
    """Start a tracker for each name, with all settings of the run. `first`: the step after which a run is resumed,
    otherwise 0.

    Raises ConfigError if W&B cannot be reached.
    """
    trackers: list[GeneralTracker] = []
    for name in names:
        if name == "tensorboard":
            purge = first + 1 if first else None  # removes entries after the last checkpoint
            trackers.append(TensorBoardTracker("tensorboard", logging_dir=str(output.path), purge_step=purge))
            trackers[-1].start()
            trackers[-1].store_init_configuration(_flat(settings))
        else:
            trackers.append(_start_wandb(output, settings))
    return trackers


def _start_wandb(output: OutputFolder, settings: Mapping[str, Any]) -> GeneralTracker:
    # W&B's own metadata would contain the command line, in which a URL of the data may contain a signature.
    tracker = WandBTracker(PROJECT, dir=str(output.path), settings=_wandb().Settings(x_disable_meta=True))
    with _explained():
        tracker.start()
    tracker.store_init_configuration({**settings, "versions": versions(), "machine": machine()})
    return tracker


def _wandb() -> Any:
    import wandb  # type: ignore[import-not-found,unused-ignore]

    return wandb


@contextmanager
def _explained() -> Iterator[None]:
    """Convert W&B's errors to ConfigError with a remedy."""
    try:
        yield
    except (_wandb().errors.Error, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"trackers: W&B: {reason} Run `wandb login` or set WANDB_API_KEY; WANDB_MODE=offline logs only to the "
            "output folder"
        ) from None


def followed(
    events: Iterator[Progress], trackers: Sequence[GeneralTracker], output: OutputFolder, first: int
) -> Iterator[Progress]:
    """Yield the events of a training, and log new output after each. `first`: the step before the first event."""
    if not trackers:
        yield from events
        return
    follower = Follower(trackers, output, first)
    failed = True
    try:
        for event in events:
            yield event
            follower.catch_up()
        failed = False
    except GeneratorExit:  # stopped by the user, with weights saved
        failed = False
        raise
    finally:
        try:
            follower.catch_up()
        finally:
            for tracker in trackers:
                _finish(tracker, failed)


def _finish(tracker: GeneralTracker, failed: bool) -> None:
    if tracker.name == "wandb" and failed:
        tracker.tracker.finish(exit_code=1)  # accelerate's own method would mark the run as successful
    else:
        tracker.finish()


class Follower:
    """Logs new entries of the output folder to trackers. Nothing is logged twice, also in a resumed run."""

    def __init__(self, trackers: Sequence[GeneralTracker], output: OutputFolder, first: int) -> None:
        self._trackers, self._output = trackers, output
        self._logged = {output.metrics: first, output.validation: first if first else -1}
        self._samples: set[Path] = set(output.samples_by_step.glob("step_*")) if first else set()

    def catch_up(self) -> None:
        """Log new lines of metrics.jsonl and validation.jsonl, and new samples."""
        for step, log in sorted([*self._new_rows(), *self._new_samples()], key=lambda pair: pair[0]):
            for tracker in self._trackers:  # in order of steps: W&B ignores earlier ones
                log(tracker, step)

    def _new_rows(self) -> Iterator[tuple[int, Log]]:
        for path, prefix in ((self._output.metrics, "train"), (self._output.validation, "validation")):
            for row in _rows(path, self._logged[path]):
                self._logged[path] = row["step"]
                values = _flat({name: value for name, value in row.items() if name != "step"}, prefix)
                yield row["step"], partial(_log_values, values)

    def _new_samples(self) -> Iterator[tuple[int, Log]]:
        if not self._output.step_prompts.is_file():  # written after the first samples
            return
        prompts = json.loads(self._output.step_prompts.read_text(encoding="utf-8"))
        for folder in sorted(set(self._output.samples_by_step.glob("step_*")) - self._samples):
            self._samples.add(folder)
            images = [np.asarray(Image.open(path).convert("RGB")) for path in numbered_pictures(folder)]
            yield int(folder.name.removeprefix("step_")), partial(_log_images, images, prompts)


def _log_values(values: Mapping[str, Any], tracker: GeneralTracker, step: int) -> None:
    tracker.log(dict(values), step=step)


def _log_images(images: Sequence[np.ndarray], prompts: Sequence[str], tracker: GeneralTracker, step: int) -> None:
    """Log images, each (H, W, 3), 0 to 255. Each prompt has a separate row: `samples`, or `samples_00` …"""
    for name, prompt, row in _by_prompt(images, prompts):
        if tracker.name == "wandb":
            tracker.log({name: [_wandb().Image(image, caption=prompt) for image in row]}, step=step)
            continue
        for index, image in enumerate(row):
            tracker.log_images({f"{name}/{index:02d}": image[None]}, step=step, dataformats="NHWC")


def _by_prompt(images: Sequence[np.ndarray], prompts: Sequence[str]) -> Iterator[tuple[str, str, list[np.ndarray]]]:
    """Yield the name of each row, its prompt, and its images, which may be fewer if sampling failed."""
    pairs = zip(prompts, images, strict=False)
    rows = [(prompt, [image for _, image in row]) for prompt, row in groupby(pairs, key=lambda pair: pair[0])]
    for number, (prompt, row) in enumerate(rows):
        name = "samples" if len(set(prompts)) == 1 else f"samples_{number:02d}"
        yield name, prompt, row


def _rows(path: Path, after: int) -> list[dict[str, Any]]:
    """Return the rows whose step is later than `after`."""
    if not path.is_file():
        return []
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}"))
    return [row for row in rows if row["step"] > after]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, int | float | str | bool]:
    """Flatten nested names with slashes. Lists and None become text."""
    flat: dict[str, int | float | str | bool] = {}
    for name, value in values.items():
        key = f"{prefix}/{name}" if prefix else name
        if isinstance(value, Mapping):
            flat |= _flat(value, key)
        else:
            flat[key] = value if isinstance(value, int | float | str | bool) else json.dumps(value)
    return flat
