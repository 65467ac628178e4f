"""Runs the trials of a sweep on several machines with Ray Tune. All must share the output folder."""

import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from service.sweep.trials import Trial, run_trial
from settings.record import ConfigError


def require_ray() -> None:
    """Raises ConfigError where Ray is missing."""
    if find_spec("ray") is None:
        raise ConfigError(
            "engine: ray needs packages that are not installed; pip install -r requirements-ray.txt, or use local"
        )


def run_with_ray(trials: Sequence[Trial], data: Sequence[str], gpus: float) -> Iterator[tuple[Trial, str | None]]:
    """As `trials.run_all`, with `gpus` for each trial. All trials are yielded at the end. Raises ConfigError.

    Ray's own files are written to `ray/` next to the trials.
    """
    require_ray()
    waiting = [trial for trial in trials if trial.report is None]
    failures = _fit(waiting, data, gpus) if waiting else {}
    for trial in trials:
        yield trial, failures.get(trial.number)


def _fit(waiting: Sequence[Trial], data: Sequence[str], gpus: float) -> dict[int, str]:
    """Return the reasons of failed trials by their number."""
    import ray  # type: ignore[import-not-found,unused-ignore]
    from ray import tune

    if not ray.is_initialized():
        ray.init()
    there = ray.cluster_resources().get("GPU", 0)
    if there < gpus:
        print(
            f"warning: gpus: each trial needs {gpus:g} and the cluster has {there:g}; the trials wait until more are "
            "available; --gpus 0 trains on CPUs",
            file=sys.stderr,
            flush=True,
        )

    def train(config: dict[str, Any]) -> dict[str, Any]:
        trial = waiting[config["index"]]
        return {"failure": run_trial(trial, data) or "", "quality": trial.quality or 0.0}

    tuner = tune.Tuner(
        tune.with_resources(train, {"gpu": gpus, "cpu": 1}),
        param_space={"index": tune.grid_search(list(range(len(waiting))))},
        run_config=tune.RunConfig(storage_path=str(waiting[0].folder.parent.resolve()), name="ray"),
    )
    failures: dict[int, str] = {}
    for result in tuner.fit():
        why = result.error or (result.metrics or {}).get("failure")
        if why:
            failures[waiting[result.config["index"]].number] = str(why)
    return failures
