"""The trials of a sweep on several machines, through Ray Tune. The output folder must be shared by all of them."""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from preprocess.settings import ConfigError
from trainer.search.trials import Trial, run_trial


def require_ray() -> None:
    """Raises ConfigError where Ray is missing."""
    if find_spec("ray") is None:
        raise ConfigError("engine: ray needs a package that is not installed: pip install 'ray[tune]', or use local")


def run_with_ray(trials: Sequence[Trial], data: Sequence[str], gpus: float) -> Iterator[tuple[Trial, str | None]]:
    """As `trials.run_all`, with `gpus` for each trial. Raises ConfigError."""
    require_ray()
    from ray import tune  # type: ignore[import-not-found,unused-ignore]

    waiting = [trial for trial in trials if trial.report is None]

    def train(config: dict[str, Any]) -> dict[str, Any]:
        trial = waiting[config["index"]]
        return {"failure": run_trial(trial, data) or "", "quality": trial.quality or 0.0}

    trainable = tune.with_resources(train, {"gpu": gpus, "cpu": 1})
    results = tune.Tuner(trainable, param_space={"index": tune.grid_search(list(range(len(waiting))))}).fit()
    failures = {result.config["index"]: (result.metrics or {}).get("failure") or result.error for result in results}
    for trial in trials:
        why = failures.get(waiting.index(trial)) if trial in waiting else None
        yield trial, str(why) if why else None
