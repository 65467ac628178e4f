"""The engines of the encode command (this process, or Ray actors) and their options."""

import argparse
import math

from preprocess.sources.extra import needing_extra
from settings.record import ConfigError
from trainer.distributed.launch import process_count

LOCAL, RAY = "local", "ray"
OF_RAY = ("workers", "cpus_per_worker", "gpus_per_worker")


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add `--engine`, and the number and resources of Ray's workers."""
    parser.add_argument(
        "--engine", choices=(LOCAL, RAY), default=LOCAL,
        help="ray: several workers, locally or on the cluster of RAY_ADDRESS (pip install -r requirements-ray.txt)",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=int, metavar="N", help="with ray: maximum number of workers (by default as many as fit)"
    )
    parser.add_argument("--cpus_per_worker", type=int, metavar="N", help="with ray: cores of each worker (default: 1)")
    parser.add_argument(
        "--gpus_per_worker",
        type=float,
        metavar="N",
        help="with ray: GPUs of each worker; 0.5: two workers per GPU (default: 1 if there are GPUs)",
    )


def require_engine(arguments: argparse.Namespace) -> None:
    """Raises ConfigError for contradictory options, and DatasetError if Ray is not installed."""
    given = {name: getattr(arguments, name) for name in OF_RAY if getattr(arguments, name) is not None}
    if arguments.engine == LOCAL:
        if given:
            raise ConfigError(f"{', '.join(given)}: only with --engine ray; add it, or leave these options out")
        if process_count() > 1:  # they would write the same files
            raise ConfigError(
                "encode: must be a single process. Start it without torchrun or accelerate; --engine ray uses several"
            )
        return
    for name, value in given.items():
        if not math.isfinite(value) or value < 0 or (value == 0 and name != "gpus_per_worker"):
            raise ConfigError(f"{name}: {value:g} is out of range")
    if (gpus := given.get("gpus_per_worker", 0)) > 1 and gpus != int(gpus):
        raise ConfigError(f"gpus_per_worker: {gpus:g} must be a fraction below 1 or a whole number")
    with needing_extra("--engine ray"):
        import ray.data  # noqa: F401
