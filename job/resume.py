"""Resumes a run: finds the checkpoint, its folder and its settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job.output_folder import OutputFolder
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from trainer.checkpoints.folders import Checkpoints, read_checkpoint
from trainer.open_settings import OPEN

LATEST = "latest"
MAY_CHANGE = (
    "max_train_steps", "max_train_epochs", "max_train_minutes", "checkpointing_steps", "keep_checkpoints",
    "num_validation_images", "num_inference_steps", "guidance_scale", "validation_prompt", "save_precision",
    "early_stopping_patience", "diagnostics_steps", "evaluate", "shard_base",
)  # fmt: skip
"""What says how long is trained, what is looked at, and where the base lies. Schedules are stretched to a new end."""


@dataclass(frozen=True)
class Resumed:
    """A run to go on with. `config`: the checkpoint's, with what may change as it was asked for now."""

    output: OutputFolder
    config: TrainingConfig
    state: dict[str, Any]
    checkpoint: Path


def resume(which: str, output: Path | None, given: TrainingConfig) -> Resumed:
    """`which`: "latest", or the folder of a checkpoint or of a run. `given`: only what was set in it counts.

    Raises ConfigError when there is no such checkpoint, when later ones would be overwritten, or settings differ.
    """
    folder = _locate(which, output)
    run = OutputFolder(folder.parent.parent)
    state = read_checkpoint(folder)
    later = [step for step in Checkpoints(run.checkpoints).steps() if step > state["step"]]
    if later:
        raise ConfigError(
            f"resume: {run.checkpoints} has later checkpoints (step {', '.join(map(str, later))}), which this run "
            "would write anew. Move them away, or resume from latest"
        )
    return Resumed(run, resumed_config(build_config(state["config"]), given), state, folder)


def resumed_config(saved: TrainingConfig, given: TrainingConfig) -> TrainingConfig:
    """The saved configuration with the settings that may change as `given` has them. None means: as it was.

    Raises ConfigError with a table when others differ.
    """
    asked = {name: getattr(given, name) for name in given.model_fields_set if getattr(given, name) is not None}
    different = {name: value for name, value in asked.items() if value != getattr(saved, name)}
    refused = {name: value for name, value in different.items() if name not in MAY_CHANGE}
    if refused:
        rows = [("setting", "checkpoint", "now"), *((name, str(getattr(saved, name)), str(value))
                for name, value in sorted(refused.items()))]  # fmt: skip
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        table = "\n".join(f"  {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows)
        raise ConfigError(
            f"resume: a resumed training is the same training, and these settings differ:\n{table}\n"
            f"Leave them out, or train anew into another --output. Only these may change: {', '.join(MAY_CHANGE)}"
        )
    if "max_train_epochs" in different:
        different.setdefault("max_train_steps", None)  # counted anew
    merged = build_config(saved.model_dump() | different)
    # nothing counts as asked for anew, but what the family filled in stays as it was
    return TrainingConfig.model_construct(set(OPEN), **dict(merged))


def _locate(which: str, output: Path | None) -> Path:
    if which == LATEST:
        if output is None:
            raise ConfigError("resume: latest of which run? Give its folder as --output")
        return _latest(output)
    path = Path(which)
    folder = _latest(path) if OutputFolder(path).checkpoints.is_dir() else path
    if not folder.is_dir():
        raise ConfigError(f"resume: {folder} does not exist. Give latest, a run's folder, or one of its checkpoints/")
    if output is not None and output.resolve() != folder.resolve().parent.parent:
        raise ConfigError(f"resume: {folder} is no checkpoint of --output {output}; leave --output out")
    return folder


def _latest(output: Path) -> Path:
    checkpoints = Checkpoints(OutputFolder(output).checkpoints)
    steps = checkpoints.steps()
    if not steps:
        raise ConfigError(
            f"resume: {output} has no checkpoint. Train anew into another --output, with checkpointing_steps set"
        )
    return checkpoints.path(steps[-1])
