"""The engines that encode: this process, or Ray actors; and their options."""

import argparse
import math

from preprocess.sources.extra import needing_extra
from settings.record import ConfigError
from trainer.distributed.launch import process_count

LOCAL, RAY = "local", "ray"
OF_RAY = ("workers", "cpus_per_worker", "gpus_per_worker")


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """`--engine`, and how many workers Ray may start."""
    parser.add_argument(
        "--engine", choices=(LOCAL, RAY), default=LOCAL,
        help="ray: many workers, here or on the cluster of RAY_ADDRESS (pip install -r requirements-ray.txt)",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, metavar="N", help="of ray: at most N (as many as there is room for)")
    parser.add_argument("--cpus_per_worker", type=int, metavar="N", help="of ray: cores of each worker (1)")
    parser.add_argument(
        "--gpus_per_worker", type=float, metavar="N", help="of ray: 0.5 for two workers a GPU (1 where there are GPUs)"
    )


def require_engine(arguments: argparse.Namespace) -> None:
    """Raises ConfigError for options that do not go together, and DatasetError where Ray is not installed."""
    given = {name: getattr(arguments, name) for name in OF_RAY if getattr(arguments, name) is not None}
    if arguments.engine == LOCAL:
        if given:
            raise ConfigError(f"{', '.join(given)}: only for --engine ray; add it, or leave this out")
        if process_count() > 1:  # they would write the same files
            raise ConfigError("encode: is one process. Start it without torchrun or accelerate; for many: --engine ray")
        return
    for name, value in given.items():
        if not math.isfinite(value) or value < 0 or (value == 0 and name != "gpus_per_worker"):
            raise ConfigError(f"{name}: {value:g} is out of range")
    if (gpus := given.get("gpus_per_worker", 0)) > 1 and gpus != int(gpus):
        raise ConfigError(f"gpus_per_worker: {gpus:g} is neither a part of one GPU nor a whole number")
    with needing_extra("--engine ray"):
        import ray.data  # noqa: F401
