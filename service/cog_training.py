"""Runs one training under Cog as a child process, and relays its output and metrics.

With a child process, cancelling is prompt, GPU memory is always freed, and a crash or an out-of-memory kill fails one
job and not the server.
"""

import os
import signal
import sys
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import yaml

from job.output_folder import OutputFolder
from job.progress import Progress
from preprocess.progress_lines import Pace
from service.job_secrets import Secrets, child_environment, require_useful, secrets_of
from service.policy.policy import Policy
from service.policy.rules import JOB_MINUTES
from service.processes.base_keeper import KEPT_BASES, BaseOfTraining
from service.processes.child_process import PROJECT, ChildProcess
from service.processes.warm_worker import KEEP_BASE, WARM_WORKER, is_wanted, start_forked
from service.training_request import TrainingRequest, allowed_config, require_uploaded
from trainer.distributed.launch import processes_of_a_job

LINES_IN_ERROR = 15
OTHER_PROCESS = "[rank"
"""Prefix of torch's log lines of a process that is stopped because another one has ended."""
OUTPUTS_VARIABLE = "OUTPUTS_FOLDER"


class TrainingFailed(RuntimeError):
    """The training process ended without a result. The message contains the reason, as far as it is known."""


def train_in_child_process(request: TrainingRequest) -> OutputFolder:
    """Run one training. Blocks until it is done.

    Raises ConfigError for invalid inputs, NotAllowed for settings reserved to the operator, and TrainingFailed for a
    failed training. On any other exception, such as Cog's CancelationException, the child saves its state and ends.
    """
    policy = Policy.from_environment()
    config = allowed_config(request, policy)
    data = require_uploaded("input_images", request.input_images)
    secrets = secrets_of(request)
    require_useful(secrets, config.push_to_hub, config.trackers)
    output = OutputFolder(outputs_root() / f"training-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}")
    with tempfile.TemporaryDirectory() as scratch:
        config_file = Path(scratch) / "config.yaml"
        config_file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)), encoding="utf-8")
        base = BaseOfTraining.of(config)
        environment = child_environment(secrets, use_tokens=policy.use_tokens)
        job = _start(_arguments(data, config_file, output), environment, base)
        try:
            _relay(job, policy, secrets)
        except BaseException:
            job.stop()
            if output.weights.exists():
                print(f"stopped; the result so far is in {output.weights}", flush=True)
            raise
    KEPT_BASES.keep(base)
    return output


def _start(arguments: list[str], environment: Mapping[str, str], base: BaseOfTraining | None) -> ChildProcess:
    """Start `python train.py` with these arguments. If the operator has enabled it and one process trains, it is forked
    from the warm process, or from the one that keeps its base model."""
    count = processes_of_a_job()
    if count == 1 and is_wanted():
        keeper = KEPT_BASES.keeper_of(base)
        ways = {WARM_WORKER: start_forked} if keeper is None else {KEEP_BASE: keeper.start, WARM_WORKER: start_forked}
        for name, start in ways.items():
            try:
                return start(partial(train_command, arguments), environment)
            except (OSError, EOFError) as error:  # the process was killed; it is started again after this training
                print(
                    f"warning: {name}: the process has ended, so this training starts without it ({error!r})",
                    flush=True,
                )
    launcher = ["-m", "trainer.distributed.launcher", str(count)] if count > 1 else []
    return ChildProcess.start([sys.executable, *launcher, str(PROJECT / "train.py"), *arguments], environment)


def train_command(arguments: list[str]) -> int:
    """Run the training command in this process. Returns its exit status."""
    from service.train_command import main

    return main(arguments)


def _arguments(data: Path, config_file: Path, output: OutputFolder) -> list[str]:
    return [str(data), "--config", str(config_file), "--output", str(output.path), "--progress_json"]


def outputs_root() -> Path:
    """Return the folder of all trainings: OUTPUTS_FOLDER, otherwise `outputs` next to the code."""
    return Path(os.environ.get(OUTPUTS_VARIABLE) or PROJECT / "outputs")


def _relay(job: ChildProcess, policy: Policy, secrets: Secrets) -> None:
    """Print the child's lines and record its metrics. Raises TrainingFailed with the last lines in its message."""
    try:
        _relay_lines(job, map(secrets.masked, job.lines(policy.job_seconds)))
    except TimeoutError:
        limit = policy.limits[JOB_MINUTES]
        raise TrainingFailed(
            f"the training was stopped after {limit:,} minutes, the operator's limit ({JOB_MINUTES})"
        ) from None


def _relay_lines(job: ChildProcess, lines: Iterable[str]) -> None:
    tail: deque[str] = deque(maxlen=LINES_IN_ERROR)
    pace = Pace()
    last_step = 0
    has_reason = False
    for line in lines:
        progress = Progress.from_line(line)
        if progress is None:
            if not has_reason and line.startswith("error: "):  # later lines may be of other processes
                has_reason = True
                tail.clear()
            if not has_reason or (len(tail) < LINES_IN_ERROR and not line.startswith(OTHER_PROCESS)):
                tail.append(line)
            print(line, flush=True)
            continue
        _record(progress)
        last_step = progress.step or last_step
        if pace.is_due(progress):
            print(progress, flush=True)
    status = job.exit_status()
    if status != 0:
        raise TrainingFailed(_explain(status, last_step, tail))


def _record(progress: Progress) -> None:
    """Record the figures as metrics in Cog; without effect outside a Cog request."""
    from cog import current_scope

    scope = current_scope()
    metrics = {"progress": progress.fraction, "loss": progress.loss, "eta_seconds": progress.eta_seconds}
    metrics |= {f"seconds_{phase}": seconds for phase, seconds in (progress.phases or {}).items()}
    for name, value in metrics.items():
        if value is not None:
            scope.record_metric(name, float(value))


def _explain(status: int, step: int, tail: deque[str]) -> str:
    if tail and tail[0].startswith("error: "):
        return "\n".join(tail).removeprefix("error: ")
    if status < 0:
        name = signal.Signals(-status).name
        hint = ", probably out of memory; use a smaller train_batch_size or resolution" if name == "SIGKILL" else ""
        return f"the training process was killed by {name} after step {step}{hint}. The server accepts new trainings."
    return f"the training process ended with status {status} after step {step}:\n" + "\n".join(tail)
