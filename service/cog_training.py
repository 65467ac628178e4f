"""One training under Cog: a child process whose lines and metrics are passed on.

A child, so that cancelling is prompt, GPU memory is surely freed, and a crash or an out-of-memory kill fails one job
and not the server.
"""

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from job.output_folder import OutputFolder
from job.progress import Progress
from settings.record import ConfigError, parse_settings
from settings.training import TrainingConfig, build_config
from trainer.distributed.launch import processes_of_a_job

PROJECT = Path(__file__).resolve().parent.parent
POLL_SECONDS = 0.1
SECONDS_TO_SAVE = 3.5
SECONDS_BETWEEN_LOG_LINES = 5.0
LINES_IN_ERROR = 15
JOB_INPUTS = ("input_images", "config", "return_extras")
END_OF_OUTPUT = None
OTHER_PROCESS = "[rank"
"""How torch marks the lines of a process that ends because another one has ended."""
OUTPUTS_VARIABLE = "OUTPUTS_FOLDER"


class TrainingFailed(RuntimeError):
    """The training process ended without a result. The text says why, as far as is known."""


def train_in_child_process(inputs: Mapping[str, Any]) -> OutputFolder:
    """Run one training with the inputs of `Trainer.train`. Blocks until it is done.

    Raises ConfigError for wrong inputs and TrainingFailed for a training that failed. On any other exception, such as
    Cog's CancelationException, the child is told to save and end.
    """
    config = build_config(merge_inputs(inputs))
    data = require_uploaded(inputs["input_images"])
    output = OutputFolder(outputs_root() / f"training-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}")
    with tempfile.TemporaryDirectory() as scratch:
        config_file = Path(scratch) / "config.yaml"
        config_file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)), encoding="utf-8")
        count = processes_of_a_job()
        command = [
            sys.executable,
            *(("-m", "trainer.distributed.launcher", str(count)) if count > 1 else ()),
            str(PROJECT / "train.py"),
            str(data),
            "--config",
            str(config_file),
            "--output",
            str(output.path),
            "--progress_json",
        ]
        job = ChildProcess(command)
        try:
            _relay(job)
        except BaseException:
            job.stop()
            if output.weights.exists():
                print(f"stopped; what was trained so far is in {output.weights}", flush=True)
            raise
    return output


def outputs_root() -> Path:
    """Where trainings are kept: `outputs` beside the code, or the folder that OUTPUTS_FOLDER names."""
    return Path(os.environ.get(OUTPUTS_VARIABLE) or PROJECT / "outputs")


def merge_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Cog's inputs and the text of `config` as settings; an input that was left at its default gives way.

    Raises ConfigError when an input and the text say different things.
    """
    values = {name: value for name, value in inputs.items() if name not in JOB_INPUTS}
    for name, value in (parse_settings(inputs["config"], "config") if inputs["config"] else {}).items():
        if name in values and value != values[name] != TrainingConfig.model_fields[name].default:
            raise ConfigError(f"{name}: the input says {values[name]!r}, the text of config says {value!r}; give one")
        values[name] = value
    return values


def require_uploaded(input_images: object) -> Path:
    """The uploaded or downloaded file. A plain path of the server's own disk is refused.

    Raises ConfigError.
    """
    if input_images is None:
        raise ConfigError("input_images: is missing. Give a zip or tar of images.")
    if not isinstance(input_images, os.PathLike):
        raise ConfigError(f"input_images: {str(input_images)[:100]!r} is not an upload or a http(s) URL")
    return Path(input_images)


class ChildProcess:
    """A command in a session of its own, read line by line without ever blocking for long."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=PROJECT,
            start_new_session=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def lines(self) -> Iterator[str]:
        """Every line of stdout and stderr until the process ends. Polls, so that a cancellation gets through."""
        while True:
            try:
                line = self._lines.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if line is END_OF_OUTPUT:
                return
            yield line

    def exit_status(self) -> int:
        """The status; negative is the signal that killed it."""
        return self._process.wait()

    def stop(self) -> None:
        """Ask the process to save and end; kill it and all that it has started when it takes too long."""
        deadline = time.monotonic() + SECONDS_TO_SAVE
        started = self._descendants()  # a launcher's are in sessions of their own
        self._signal(signal.SIGTERM)
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        self._signal(signal.SIGKILL)
        for process in started:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def _descendants(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(END_OF_OUTPUT)


def _relay(job: ChildProcess) -> None:
    """Print the child's lines and record its metrics. Raises TrainingFailed with the last lines in its text."""
    tail: deque[str] = deque(maxlen=LINES_IN_ERROR)
    last_line = last_step = 0.0
    told_why = False
    for line in job.lines():
        progress = Progress.from_line(line)
        if progress is None:
            told_why = told_why or line.startswith("error: ")
            if not (told_why and line.startswith(OTHER_PROCESS)):
                tail.append(line)
            print(line, flush=True)
            continue
        _record(progress)
        last_step = progress.step or last_step
        worth_a_line = progress.step in (None, 1) or progress.eta_seconds == 0
        if worth_a_line or time.monotonic() - last_line >= SECONDS_BETWEEN_LOG_LINES:
            print(progress, flush=True)
            last_line = time.monotonic()
    status = job.exit_status()
    if status != 0:
        raise TrainingFailed(_explain(status, int(last_step), tail))


def _record(progress: Progress) -> None:
    """Hand the figures to Cog; outside a Cog request this does nothing."""
    from cog import current_scope

    scope = current_scope()
    metrics = {"progress": progress.fraction, "loss": progress.loss, "eta_seconds": progress.eta_seconds}
    metrics |= {f"seconds_{phase}": seconds for phase, seconds in (progress.phases or {}).items()}
    for name, value in metrics.items():
        if value is not None:
            scope.record_metric(name, float(value))


def _explain(status: int, step: int, tail: deque[str]) -> str:
    errors = [line.removeprefix("error: ") for line in tail if line.startswith("error: ")]
    if errors:
        return "\n".join(list(tail)[list(tail).index(f"error: {errors[0]}") :]).removeprefix("error: ")
    if status < 0:
        name = signal.Signals(-status).name
        hint = " (out of memory? try a smaller train_batch_size or resolution)" if name == "SIGKILL" else ""
        return f"the training process was killed by {name} after step {step}{hint}. The server takes the next training."
    return f"the training process ended with status {status} after step {step}:\n" + "\n".join(tail)
