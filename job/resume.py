"""Resumes a run: finds the checkpoint, its folder and its settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job.output_folder import OutputFolder
from preprocess.uploads.identity import differences, identify, read_identities
from settings.record import ConfigError
from settings.sections.validation import EVALUATION_SETTINGS
from settings.training import TrainingConfig, build_config
from trainer.checkpoints.folders import Checkpoints, read_checkpoint
from trainer.checkpoints.same_run import require_steps_left
from trainer.open_settings import OPEN
from trainer.validation.sample_prompts import PROMPTS, divided_again

LATEST = "latest"
MAY_CHANGE = (
    # length of the run: schedules are stretched to a new end
    "max_train_steps", "max_train_epochs", "max_train_minutes", "early_stopping_patience", "stop_when_settled",
    # output and logging
    "checkpointing_steps", "checkpointing_epochs", "checkpointing_minutes", "keep_checkpoints",
    "keep_best", "keep_state", "save_precision", "save_model", "save_model_precision", "diagnostics_steps", "trackers",
    "push_to_hub", "hub_private", "hub_license",
    # samples and evaluation
    "num_validation_images", "num_inference_steps", "guidance_scale", "validation_prompt", "validation_prompts",
    "validation_prompts_file", "sample_steps", "evaluate",
    "evaluation_scales", "evaluation_checkpoints", "evaluation_samples", "evaluation_prompts", "unrelated_prompts",
    "evaluation_clip", "evaluation_dino", "evaluation_face_model",
    # paths
    "shard_base", "offload", "latent_cache", "compile_cache", "num_workers",
)  # fmt: skip
"""Settings that do not affect the training steps."""
AUTOMATIC: Mapping[str, Any] = {"base_precision": "auto", "controlnet_blocks": (), "prior_prompts": ()}
"""Values that leave a choice to the program. The checkpoint has what was chosen, which is kept."""


@dataclass(frozen=True)
class Resumed:
    """A run to resume. `config`: the checkpoint's, with the newly given values of settings that may change."""

    output: OutputFolder
    config: TrainingConfig
    state: dict[str, Any]
    checkpoint: Path


def resume(which: str, output: Path | None, given: TrainingConfig, data: Sequence[str | Path] = ()) -> Resumed:
    """Find the run to resume. `which`: "latest", or the folder of a checkpoint or of a run. `given`: only explicitly
    set values are used. `data`: the images, if they are given again.

    Raises ConfigError if the checkpoint does not exist, if later ones would be overwritten, if settings or data differ,
    or if the new end is before the checkpoint. Nothing is written.
    """
    folder = _locate(which, output)
    run = OutputFolder(folder.parent.parent)
    state = read_checkpoint(folder)
    later = [step for step in Checkpoints(run.checkpoints).steps() if step > state["step"]]
    if later:
        raise ConfigError(
            f"resume: {run.checkpoints} has later checkpoints (step {', '.join(map(str, later))}), which this run "
            "would overwrite. Move them, or resume from latest"
        )
    require_steps_left(state, given.max_train_steps)  # before the rules on the number of steps
    config = resumed_config(_saved_config(state["config"], given), given)
    require_steps_left(state, config.max_train_steps)
    if data:
        _require_same_data(data, run)
    return Resumed(run, config, state, folder)


def _saved_config(saved: Mapping[str, Any], given: TrainingConfig) -> TrainingConfig:
    """Return the checkpoint's configuration. If this version refuses it, which an earlier one accepted, it is corrected
    by the `given` settings that may change. Raises ConfigError if it is still refused."""
    try:
        return build_config(saved)
    except ConfigError:
        corrected = {name: getattr(given, name) for name in given.model_fields_set.intersection(MAY_CHANGE)}
        if not corrected:
            raise
        return build_config({**saved, **corrected})


def resumed_config(saved: TrainingConfig, given: TrainingConfig) -> TrainingConfig:
    """Return the saved configuration with `given` values of the settings that may change. None and the values of
    AUTOMATIC keep the saved value.

    Raises ConfigError with a table when other settings differ.
    """
    values = {name: getattr(given, name) for name in given.model_fields_set if getattr(given, name) is not None}
    values = {name: value for name, value in values.items() if AUTOMATIC.get(name) != value}
    values = divided_again(values, saved)
    different = {name: value for name, value in values.items() if value != getattr(saved, name)}
    refused = {name: value for name, value in different.items() if name not in MAY_CHANGE}
    if refused:
        rows = [("setting", "checkpoint", "now"), *((name, str(getattr(saved, name)), str(value))
                for name, value in sorted(refused.items()))]  # fmt: skip
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        table = "\n".join(f"  {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows)
        raise ConfigError(
            f"resume: these settings differ from those of the run:\n{table}\n"
            f"Leave them out, or start a new run with another --output. Only these may change: {', '.join(MAY_CHANGE)}"
        )
    if prompts := different.keys() & PROMPTS:
        unset = {"validation_prompt": None, "validation_prompts": (), "validation_prompts_file": None}
        different = unset | different if len(prompts) == 1 else different
    _require_more_than_the_fixed(saved, different.get("max_train_steps"))
    if "max_train_epochs" in different:
        different.setdefault("max_train_steps", None)  # computed again
    if different.get("evaluate") == "false":
        different = {name: TrainingConfig.model_fields[name].default for name in EVALUATION_SETTINGS} | different
    longer = different.keys() & {"max_train_steps", "max_train_epochs"}
    if saved.stop_when_settled and not values.get("stop_when_settled", not longer):
        different = _of_fixed_length(saved) | different
    merged = build_config(saved.model_dump() | different)
    # no setting is marked as set, but the values resolved for the family are kept
    return TrainingConfig.model_construct(set(OPEN), **dict(merged))


def _require_more_than_the_fixed(saved: TrainingConfig, steps: int | None) -> None:
    """Raises ConfigError if the new number of steps is too small for settings that may not change, which may be
    defaults that were computed from the earlier number."""
    if steps is None:
        return
    least = {
        "lr_warmup_steps": (saved.lr_warmup_steps or 0) + 1,
        "ema_start": saved.ema_start + 1,
        "validation_steps": saved.validation_steps or 0,
    }
    name = max(least, key=least.__getitem__)
    if steps < least[name]:
        raise ConfigError(
            f"resume: max_train_steps is now {steps}, but the run has {name} {getattr(saved, name)}, which cannot "
            f"change; give at least {least[name]} steps, or start a new run with another --output"
        )


def _of_fixed_length(saved: TrainingConfig) -> dict[str, Any]:
    """Return the settings that change if a run that its samples end gets a fixed end."""
    idle = () if saved.evaluates_checkpoints else EVALUATION_SETTINGS
    return {"stop_when_settled": False, **{name: TrainingConfig.model_fields[name].default for name in idle}}


def _require_same_data(data: Sequence[str | Path], run: OutputFolder) -> None:
    before = read_identities(run.sources)
    if before is None:
        raise ConfigError(f"resume: {run.path} has no record of its data; leave the data out")
    found = differences(before, identify(data, run.path))
    if found:
        lines = "\n".join(f"  {line}" for line in found)
        raise ConfigError(
            f"resume: the data differ from those of the run:\n{lines}\n"
            "Leave the data out to use the images prepared by the run, or start a new run with another --output"
        )


def _locate(which: str, output: Path | None) -> Path:
    if which == LATEST:
        if output is None:
            raise ConfigError("resume: latest needs --output, the folder of the run")
        return _latest(output)
    path = Path(which)
    folder = _latest(path) if OutputFolder(path).checkpoints.is_dir() else path
    if not folder.is_dir():
        raise ConfigError(
            f"resume: {folder} does not exist. Give latest, a run's folder, or a folder in its checkpoints/"
        )
    if output is not None and output.resolve() != folder.resolve().parent.parent:
        raise ConfigError(f"resume: {folder} is not a checkpoint of --output {output}; leave --output out")
    return folder


def _latest(output: Path) -> Path:
    checkpoints = Checkpoints(OutputFolder(output).checkpoints)
    steps = checkpoints.steps()
    if not steps:
        raise ConfigError(
            f"resume: {output} has no checkpoint. Start a new run with another --output, with checkpointing_steps set"
        )
    return checkpoints.path(steps[-1])
