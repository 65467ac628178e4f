"""Predicts the memory of trainings with the plan of the trainer: `python -m studio.estimates.predicting REQUEST`.

It runs in a separate process because it loads the base model's text encoders.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from service.quick_imports import quick_imports
from settings.record import ConfigError
from settings.training import build_config
from studio.estimates.memory import RESULT, Settings, key, load_key, micro_batch
from studio.estimates.presets import is_sound
from studio.other_process import SUCCESS, read_request, refuse

if TYPE_CHECKING:
    from job.stage import Job


def predict_all(job: "Job", images: int, wanted: Sequence[Settings]) -> dict[str, str]:
    """Return lines by key, for settings that load the base model like those of `job`. `images`: of the set. If the base
    model does not support the settings, the line gives the reason."""
    from trainer.resolution import resolve

    found = {}
    for values in wanted:
        config = build_config(values)
        try:
            job.config = resolve(config, job.family)
            found[key(config, images)] = _predicted(job, images)
        except ConfigError as error:
            found[key(config, images)] = str(error)
    return found


def predict_alike(job: "Job", images: int, wanted: Sequence[Settings]) -> dict[str, str]:
    """As `predict_all`, for those of the `wanted` settings that load the base model like the first. Wrong settings are
    left out."""
    sound = [values for values in wanted if is_sound(values)]
    return predict_all(job, images, [values for values in sound if load_key(values) == load_key(wanted[0])])


def _predicted(job: "Job", images: int) -> str:
    """Return train.py's memory plan for a GPU without other processes; without a GPU, for one that is large enough."""
    import torch

    from families.precision.stored_blocks import Storage
    from trainer.adapters.kinds import KINDS
    from trainer.execution.throughput import throughput
    from trainer.memory_plan import GB, Choice, Workload, plan, predicted, remedies

    config = job.config
    if config.adapter not in KINDS:
        return f"memory: cannot be predicted for adapter: {config.adapter}"
    features = job.family.encode_prompts([""]).to(torch.device("cpu"))
    work = Workload(micro_batch(config, images), job.side, features, config.gradient_accumulation_steps)
    rate = throughput(job.device, job.dtype)
    if job.device.type != "cuda":
        precision = "bf16" if config.base_precision == "auto" else config.base_precision
        storage = Storage(precision, offloaded=config.offload == "always")
        choice = Choice(work.images, config.gradient_checkpointing == "always", storage)
        found = predicted(job.family, config.adapters, work, choice)
        return f"{found}; {rate.said(found.operations)}"
    total = torch.cuda.mem_get_info(job.device)[1]
    fitting = plan(job.family, config.adapters, config.speed, work, total)
    if fitting is None:
        return "memory: cannot be predicted with shard_base"
    said = f"{fitting}; {rate.said(fitting.operations)}; this GPU has {total / GB:.1f} GB"
    return (
        said
        if fitting.fits(total)
        else f"{said}, which is not enough. {remedies(config.adapters, config.speed, fitting)}"
    )


def main(argv: Sequence[str]) -> int:
    """Print the predictions of a request. Returns the exit status: 0, or 2 for wrong settings."""
    request = read_request(argv)
    with quick_imports():
        from families.errors import BaseModelError
        from job.output_folder import OutputFolder
        from job.stage import Job
        from job.stages.load import load_family, start_device

    try:
        job = Job(build_config(request["settings"]), (), OutputFolder(Path(argv[0]).parent))
        start_device(job)
        load_family(job)
        found = predict_all(job, request["images"], [request["settings"]])
    except (BaseModelError, ConfigError) as error:
        return refuse(error)
    print(f"{RESULT}{json.dumps(found)}", flush=True)
    return SUCCESS


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
