"""Encodes sources to shards of features on Ray Data: on all cores of a machine, or on all machines of a cluster.

Each actor of an autoscaling pool loads the base, and prepares, captions and encodes one shard at a time, into the
folder that all machines share. Ray only transfers numbers and lines of text: an actor gets the next shard when it has
written the previous one, so memory and disk contain the images of one shard per actor. Results are on the disk, as in
`trainer.data.local_encoding`, and the files are the same.
"""

import logging
import os
import socket
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from families.errors import BaseModelError
from families.family import ModelFamily
from families.loading.fingerprint import fingerprint
from preprocess.errors import DatasetError, SetupError
from preprocess.prepare import BaseRequirements
from settings.preparation import DataConfig
from settings.record import ConfigError
from trainer.data.encoding_rounds import Answer, Task, Tell, answer, encode_in_rounds
from trainer.data.feature_encoding import encode_shard, times_killed
from trainer.data.feature_shards import FeaturePlan, ShardRecord, is_features

MOST_KILLS = 4
"""Number of killed workers after which a shard is given up. Ray itself would retry it without limit, even if the shard
causes the failure."""
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
"""Disables Ray's usage reports, and its default nice level of 15 for workers of this machine, with which they hardly
run beside other work."""

OpenBase = Callable[[], tuple[ModelFamily, BaseRequirements]]
"""Loads the base, on the device that encodes. Picklable."""


@dataclass(frozen=True)
class ActorPool:
    """`most`: the maximum number of actors; None: as many as fit into the cluster. `cpus`: cores and threads of each.
    `gpus`: of each, may be a fraction, so that one actor prepares while another encodes; None: one if the cluster has
    GPUs."""

    most: int | None = None
    cpus: int = 1
    gpus: float | None = None


class ShardEncoder:
    """An actor. The base is loaded with the first shard, so that a machine without it is reported in one line."""

    def __init__(self, open_base: OpenBase, config: DataConfig, vae: str, folder: Path, working: Path) -> None:
        """`vae`: the fingerprint of the plan's. `working`: the folder to which relative sources refer."""
        self._open_base, self._config, self._vae = open_base, config, vae
        self._folder, self._working = folder, working

    def __call__(self, task: Task) -> Answer:
        """Encode the shard. Errors are returned, so that the other shards continue."""
        number, source = task["number"], task["source"]
        if (kills := times_killed(self._folder, number)) >= MOST_KILLS:
            problem = (
                f"{source}: {kills} workers were killed while encoding it, usually because of too little memory. Start "
                "fewer "
            )
            return answer(number, problem=f"{problem}(--workers), or use smaller shards")
        try:
            family, base = self._base
            encode_shard(number, source, self._config, base, family, self._folder, task["state"])
        except (SetupError, ConfigError, BaseModelError) as error:
            return answer(number, setup=str(error))
        except DatasetError as error:
            return answer(number, problem=str(error))
        except Exception:
            return answer(number, trace=traceback.format_exc())
        return answer(number)

    @cached_property
    def _base(self) -> tuple[ModelFamily, BaseRequirements]:
        if not (is_features(self._folder) and self._working.is_dir()):
            raise SetupError(
                f"{socket.gethostname()}: cannot read {self._folder} or {self._working}. All machines need the same "
                "folders: put --output and the working directory of the command on a shared disk"
            )
        os.chdir(self._working)
        family, base = self._open_base()
        if fingerprint(family.vae) != self._vae:
            raise SetupError(
                f"{socket.gethostname()}: its base_model has another VAE. Copy the base model to this machine"
            )
        return family, base


def encode_features_on_ray(
    plan: FeaturePlan,
    config: DataConfig,
    open_base: OpenBase,
    folder: Path,
    pool: ActorPool,
    tell: Tell = lambda problem: None,
) -> Iterator[tuple[int, ShardRecord]]:
    """As `encode_features`, in an autoscaling pool of actors. Yields finished shards, in any order.

    The cluster is that of RAY_ADDRESS, or one that already runs on this machine, or this machine alone.
    """
    folder = folder.resolve()
    threads = {} if config.num_workers is not None else {"num_workers": pool.cpus}
    arguments = (open_base, config.model_copy(update=threads), plan.vae, folder, Path.cwd())
    with ExitStack() as stack:
        started: list[ModuleType] = []

        def answers(tasks: Sequence[Task]) -> Iterator[Answer]:
            if not started:
                started.append(stack.enter_context(_running_ray()))
            return _answers(started[0], tasks, arguments, pool)

        yield from encode_in_rounds(plan, folder, answers, tell)


def _answers(ray: ModuleType, tasks: Sequence[Task], arguments: tuple[Any, ...], pool: ActorPool) -> Iterator[Answer]:
    """Yield the answers of the actors as they arrive."""
    gpus = pool.gpus if pool.gpus is not None else float(ray.cluster_resources().get("GPU", 0) > 0)
    _require_resources(ray, pool.cpus, gpus)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1  # a shard may take hours
    # with one task in flight per actor, the default of 1.75 is never reached, and the pool would stay at one actor
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    most = len(tasks) if pool.most is None else min(pool.most, len(tasks))
    rows = ray.data.from_items(list(tasks), override_num_blocks=len(tasks)).map(
        ShardEncoder,
        fn_constructor_args=arguments,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most, max_tasks_in_flight_per_actor=1),
        num_cpus=pool.cpus,
        num_gpus=gpus,
    )
    yield from rows.iter_rows()


def _require_resources(ray: ModuleType, cpus: int, gpus: float) -> None:
    """Raises DatasetError if no machine has the resources of an actor: Ray would wait for one."""
    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
    if not any(each.get("CPU", 0) >= cpus and each.get("GPU", 0) >= gpus for each in machines):
        there_are = "; ".join(f"{each.get('CPU', 0):g} cores and {each.get('GPU', 0):g} GPUs" for each in machines)
        raise DatasetError(
            f"no machine of the cluster has {cpus} cores and {gpus:g} GPUs for a worker (it has: {there_are}). Lower "
            "--cpus_per_worker or --gpus_per_worker"
        )


@contextmanager
def _running_ray() -> Iterator[ModuleType]:
    """The library, connected to a cluster. Raises DatasetError if the connection fails."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray
    import ray.data

    own = not ray.is_initialized()
    if own:
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise DatasetError(
                f"engine: ray does not start ({reason}). Check RAY_ADDRESS, and that the cluster is running"
            ) from error
    try:
        yield ray
    finally:
        if own:
            ray.shutdown()
