"""Tests of the SLURM script: it requeues after kills and time limits, resumes, and gives up if there is no progress.

`sbatch`, `srun` and `scontrol` are stand-ins: a job runs again as long as it asks to be requeued.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from job.output_folder import OutputFolder
from tests.conftest import EXAMPLE, PROJECT
from tests.tiny_models import write_sd15

SCRIPT = PROJECT / "tools/slurm/train.sh"
SRUN = """#!/bin/bash
[ "$1" = --kill-on-bad-exit=1 ] || exit 99
shift
for task in $(seq 0 $((SLURM_NTASKS - 1))); do
    SLURM_PROCID=$task SLURM_LOCALID=$task setsid "$@" & tasks+=($!)
done
trap 'again=1; kill -TERM "${tasks[@]}"' TERM
worst=0
while [ "${#tasks[@]}" -gt 0 ]; do
    again=; ended=; wait -n -p ended "${tasks[@]}"; status=$?
    [ -n "$again" ] && continue
    left=(); for task in "${tasks[@]}"; do [ "$task" = "$ended" ] || left+=("$task"); done
    tasks=("${left[@]}")
    if [ "$status" -gt "$worst" ]; then worst=$status; fi
    if [ "$status" -ne 0 ]; then for task in "${tasks[@]}"; do kill -KILL -- "-$task"; done; fi
done
exit $worst
"""
SCONTROL = """#!/bin/bash
case "$1 $2" in
    "requeue 7") touch "$REQUEUED" ;;
    "show hostnames") echo 127.0.0.1 ;;
    *) exit 99 ;;
esac
"""
PRETENDED = """#!/bin/bash
# Instead of python train.py: writes down how it was called, and ends as the next line of the plan says.
echo "$RANK/$WORLD_SIZE $*" >>calls
plan=$(head -n 1 plan); sed -i 1d plan
trap 'kill $sleeping; checkpoint 9; exit 130' TERM
checkpoint() { mkdir -p "out/checkpoints/step_00000$1"; touch "out/checkpoints/step_00000$1/state.json"; }
mkdir -p out; touch out/config.yaml
for word in $plan; do
    case "$word" in
        wait) touch waiting; sleep 30 & sleeping=$!; wait $sleeping ;;
        checkpoint*) checkpoint "${word#checkpoint}" ;;
        kill) kill -KILL $$ ;;
        *) exit "$word" ;;
    esac
done
"""


@dataclass
class Cluster:
    """A folder in which jobs run. `python`: the program that runs train.py."""

    folder: Path
    python: Path
    tasks: int = 1
    attempts: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
            write_program(self.folder / "bin" / name, text)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the job once more."""
        self.attempts += 1
        environment = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PYTHON": str(self.python),
            "REQUEUED": str(self.folder / "requeued"),
            "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "here", "SLURM_NNODES": "1", "SLURM_NTASKS": str(self.tasks),
            "SLURM_RESTART_COUNT": str(self.attempts - 1), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        where = PROJECT if self.tasks > 1 else self.folder
        return subprocess.Popen([SCRIPT, *arguments], cwd=where, env=environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip

    def is_requeued(self) -> bool:
        asked = (self.folder / "requeued").exists()
        (self.folder / "requeued").unlink(missing_ok=True)
        return asked

    def sbatch(self, *arguments: str) -> tuple[int, list[str]]:
        """Run the job until it is no longer requeued. Returns the last status, and the output of each attempt."""
        said: list[str] = []
        while True:
            job = self.start(*arguments)
            said.append(job.communicate(timeout=500)[0])
            if not self.is_requeued():
                return job.returncode, said
            assert job.returncode == 0


def write_program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def pretended(folder: Path, *plan: str) -> Cluster:
    (folder / "plan").write_text("".join(f"{line}\n" for line in plan), encoding="utf-8")
    return Cluster(folder, write_program(folder / "python", PRETENDED))


def calls(folder: Path) -> list[str]:
    return [line.removeprefix("0/1 train.py ") for line in (folder / "calls").read_text().splitlines()]


NEW, GOING_ON = "data --rank 4 --output out", "--resume latest --output out"


@pytest.mark.parametrize(
    ("plan", "called", "status"),
    [
        (["0"], [NEW], 0),
        (["checkpoint1 kill", "checkpoint2 0"], [NEW, GOING_ON], 0),
        (["kill", "checkpoint1 1", "0"], [NEW, NEW, GOING_ON], 0),
        (["2"], [NEW], 2),
        (["checkpoint1 3"], [NEW], 3),
        (["checkpoint1 130"], [NEW], 130),
        (["checkpoint1 kill", "kill", "kill", "kill"], [NEW, *[GOING_ON] * 3], 137),
        (["checkpoint1 kill", "kill", "kill", "checkpoint2 kill", "0"], [NEW, *[GOING_ON] * 4], 0),
    ],
    ids=["done", "killed", "killed before a checkpoint", "wrong input", "diverged", "stopped", "in vain", "in time"],
)
def test_it_goes_on_by_itself(plan: list[str], called: list[str], status: int, tmp_path: Path) -> None:
    cluster = pretended(tmp_path, *plan)
    assert cluster.sbatch("out", "data", "--rank", "4")[0] == status
    assert calls(tmp_path) == called
    assert not (tmp_path / "plan").read_text()
    assert (tmp_path / "out.slurm").exists() == (status == 137)
    assert (tmp_path / "out.interrupted-1").exists() == (called[1:2] == [NEW])


def test_wrong_input_is_not_tried_again_where_srun_kills_the_other_task(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, write_program(tmp_path / "python", "#!/bin/bash\n[ $RANK = 0 ] && exit 2\nsleep 30"), 2)
    assert cluster.sbatch(str(tmp_path / "out"), "data")[0] == 2
    assert cluster.attempts == 1


def test_before_the_time_limit_it_saves_and_is_requeued(tmp_path: Path) -> None:
    cluster = pretended(tmp_path, "wait", "0")
    job = cluster.start("out", "data", "--rank", "4")
    end = time.monotonic() + 60
    while not (tmp_path / "waiting").exists():
        assert time.monotonic() < end and job.poll() is None
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    assert "requeued: stopped before the time limit" in job.communicate(timeout=60)[0]
    assert cluster.is_requeued() and (tmp_path / "out/checkpoints/step_000009").exists()
    assert cluster.sbatch("out", "data", "--rank", "4")[0] == 0
    assert calls(tmp_path) == [NEW, GOING_ON]


@pytest.mark.slow
def test_two_processes_are_killed_requeued_and_end(tmp_path: Path) -> None:
    """Uses real processes. The second is killed after the checkpoint of step 2, and the run resumes from the last."""
    output = OutputFolder(tmp_path / "out")
    killing = f"""#!/bin/bash
    if [ "$RANK" = 1 ] && [ ! -e {tmp_path}/killed ]; then
        {sys.executable} "$@" & training=$!
        until [ -e {output.checkpoints}/step_000002 ]; do kill -0 $training || exit 98; sleep 0.05; done
        touch {tmp_path}/killed; kill -KILL $training; wait $training; exit 137
    fi
    exec {sys.executable} "$@"
    """
    settings = {
        "base_model": str(write_sd15(tmp_path / "base")), "class_word": "robot", "num_tokens": 1,
        "lr_warmup_steps": 0, "num_validation_images": 0, "captioner": "none", "resolution": 64, "evaluate": "false",
        "checkpointing_steps": 1, "max_train_steps": 6, "train_batch_size": 2, "adapter": "full", "learning_rate": 1e-4,
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    cluster = Cluster(tmp_path, write_program(tmp_path / "python", killing), tasks=2)
    status, said = cluster.sbatch(str(output.path), str(EXAMPLE), "--config", str(tmp_path / "job.yaml"))
    assert status == 0 and len(said) == 2, said
    assert "requeued: status 137" in said[0] and "resuming after step" in said[1], said
    steps = [json.loads(line)["step"] for line in output.metrics.read_text(encoding="utf-8").splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6] and output.weights.exists()
