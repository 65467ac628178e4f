"""The command `python train.py DATA --any_config_field VALUE …`, with options made from TrainingConfig's fields."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.endings import STOPPED, SUCCESS, Stopped, ending_of, what_is_kept
from preprocess.errors import DatasetError
from preprocess.progress_lines import progress_display
from preprocess.uploads.archive import ArchiveLimits
from preprocess.uploads.given_data import require_present, require_safe_archives
from service.quick_imports import quick_imports
from service.stop_signal import StopSignal
from settings.command_line.options import add_options, given_options
from settings.command_line.output import remove_traces
from settings.command_line.parser import CommandParser, report_wrong_input
from settings.importing.files import read_import
from settings.importing.translation import Imported
from settings.presets import preset_beside, preset_list
from settings.record import ConfigError, read_settings_file
from settings.training import TrainingConfig, build_config
from trainer.distributed.launch import (
    fsdp_requested,
    is_main_process,
    launched_precision,
    leave,
    process_count,
    require_several_processes,
)
from trainer.patterns.trial import require_patterns

if TYPE_CHECKING:
    from job.output_folder import OutputFolder
    from job.stage import Job

MAIN_SETTINGS = (
    "base_model", "concept_mode", "trigger_word", "class_word", "captioner", "mask", "resolution", "max_train_steps",
    "train_batch_size", "learning_rate", "adapter", "rank", "validation_steps", "checkpointing_steps", "seed",
)  # fmt: skip
"""Settings shown by --help."""


def build_parser(prog: str = "train.py") -> CommandParser:
    """Return a parser with one option for every field of the configuration, under its own name."""
    parser = CommandParser(
        prog=prog,
        usage="%(prog)s DATA [DATA ...] [--preset NAME] [--config FILE] [--output DIR] [--SETTING VALUE ...]",
        description="Train a LoRA and its trigger word on a handful of images. The last line printed is the path of "
        "the result.",
    )
    parser.add_argument(
        "data",
        nargs="*",
        metavar="DATA",
        help="zip, tar, folder or URL of images, with captions if there are any, or a dataset (hf://owner/name, a "
        "parquet file); several are combined. Or a folder written by python -m preprocess",
    )
    parser.add_argument("--preset", metavar="NAME", help="settings to start from; --list_presets shows their names")
    parser.add_argument("--list_presets", action=ListPresets, help="list the presets and their purpose")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML or JSON file with any of the settings")
    parser.add_argument(
        "--import_config",
        type=Path,
        metavar="FILE",
        help="translate the configuration of another trainer: YAML, JSON, TOML, or a script with its command",
    )
    parser.add_argument(
        "--cascade_config", type=Path, metavar="FILE", help="translate a YAML file of Stable Cascade's training guide"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="a new or empty folder; default outputs/<name>")
    parser.add_argument(
        "--resume",
        metavar="WHICH",
        help="continue a run: latest (of --output), or the folder of a run or of one of its checkpoints, with the "
        "settings and images of the run",
    )
    parser.add_argument("--progress_json", action="store_true", help="print progress as one JSON object per line")
    parser.add_argument("--quiet", action="store_true", help="print only warnings and the result")
    add_options(parser, TrainingConfig, MAIN_SETTINGS)
    return parser


class ListPresets(argparse.Action):
    """Prints the presets, and ends the command."""

    def __init__(self, option_strings: Sequence[str], dest: str, **others: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **others)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(preset_list())
        parser.exit()


def resolve_config(arguments: argparse.Namespace) -> TrainingConfig:
    """Merge defaults, preset, imported file, file, command line, and the options of accelerate launch. Raises
    ConfigError."""
    imported = _imported(arguments)
    given = dict(imported.values)
    given |= read_settings_file(arguments.config) if arguments.config else {}
    given |= given_options(arguments, TrainingConfig)
    values = (preset_beside(arguments.preset, given) if arguments.preset else {}) | given
    for name, why in imported.needed.items():
        if name not in values:
            raise ConfigError(f"{name}: is missing. {why}")
    if (launched := launched_precision()) is not None:
        if values.get("mixed_precision", launched) not in (launched, "auto"):
            given = values["mixed_precision"]
            raise ConfigError(
                f"mixed_precision: {given} contradicts accelerate launch, which has {launched}; leave one of them out"
            )
        values["mixed_precision"] = launched
    config = build_config(values)
    if not fsdp_requested():
        return config
    if "shard_base" in values and not config.shard_base:
        raise ConfigError("shard_base: false contradicts accelerate launch --use_fsdp; leave one of them out")
    return build_config(values | {"shard_base": True})


def _imported(arguments: argparse.Namespace) -> Imported:
    return read_import(arguments.import_config, arguments.cascade_config)


def main(argv: Sequence[str] | None = None, prog: str = "train.py") -> int:
    """Run the command. Returns the exit status: 0, 2 for wrong input, 130 when stopped, others as `job.endings` has
    them, 1 for anything else."""
    arguments = build_parser(prog).parse_args(argv)
    try:
        _require_sound(arguments)  # before imports that take seconds
    except (ConfigError, DatasetError) as error:
        return report_wrong_input(error)
    started = Started()
    try:
        with StopSignal() as stop:
            status = _run(arguments, stop, started)
        return leave(status)
    except (Exception, Stopped) as error:
        with quick_imports():
            ending = ending_of(error, started.stage)
        if ending is None:
            _report_kept(started, remove=False)
            raise
        if not isinstance(error, Stopped) or is_main_process():
            print(ending.text, file=sys.stderr, flush=True)
        _report_kept(started, remove=ending.refused)
        return ending.status


@dataclass
class Started:
    """The state of a run that may fail. `is_new`: whether it is new. `existed`: whether its empty folder existed."""

    job: "Job | None" = None
    output: "OutputFolder | None" = None
    is_new: bool = False
    existed: bool = False

    @property
    def stage(self) -> str | None:
        """The current stage."""
        return None if self.job is None else self.job.current


def _report_kept(started: Started, *, remove: bool) -> None:
    """Report the files that are kept. `remove`: delete the folder of a new run without files."""
    output = started.output
    if output is None or not is_main_process():
        return
    kept = what_is_kept(output)
    if kept is None and remove and started.is_new:
        remove_traces(output.path, started.existed)
    if kept is not None or started.job is not None:
        print(kept or "nothing was saved", file=sys.stderr, flush=True)


def _require_sound(arguments: argparse.Namespace) -> None:
    """Raises ConfigError for invalid settings, and DatasetError for data that is missing or not safe to unpack."""
    config = resolve_config(arguments)
    require_several_processes(config.shard_base)
    named = config.named_sources
    if not arguments.data and not named and not arguments.resume:
        raise ConfigError(
            "data: is missing. Give a zip, a tar, a folder of images, a URL or hf://owner/name before the options, or "
            "dataset_name."
        )
    require_present([*arguments.data, *named])
    if is_main_process():
        require_patterns(config.adapters, config.tokens)
        archives = [*arguments.data, *named, *([config.preservation_data] if config.preservation_data else [])]
        require_safe_archives(archives, ArchiveLimits.of(config.preparation))


def _run(arguments: argparse.Namespace, stop: StopSignal, started: Started) -> int:
    job = started.job = _job(arguments, started)
    if not is_main_process():
        return _follow(job, stop)
    with quick_imports():
        from job.run import run_stages

    quiet = arguments.quiet
    with closing(run_stages(job)) as progress, progress_display(quiet=quiet) as show:
        for event in progress:
            stop.deferred = event.step is not None and event.eta_seconds != 0
            if arguments.progress_json:
                print(event.to_json(), flush=True)
            else:
                show(event)
            if stop.requested:
                break
    if stop.requested:
        print(f"stopped; {what_is_kept(job.output)}", file=sys.stderr, flush=True)
        return STOPPED
    print(job.output.weights, flush=True)
    return SUCCESS


def _job(arguments: argparse.Namespace, started: Started) -> "Job":
    """Return a new or a resumed job. Raises ConfigError."""
    config = resolve_config(arguments)
    output = None if arguments.resume else _output_folder(arguments, config.named_sources, started)
    with quick_imports():  # torch and diffusers take seconds: only now
        from job.resume import resume
        from job.stage import Job

    if output is not None:
        return Job(config, arguments.data, output, notes=_imported(arguments).notes)
    resumed = resume(arguments.resume, arguments.output, config, arguments.data)
    require_several_processes(resumed.config.shard_base)
    started.output = resumed.output
    return Job(resumed.config, arguments.data, resumed.output, resumed.state)


def _output_folder(arguments: argparse.Namespace, named_sources: Sequence[str], started: Started) -> "OutputFolder":
    """Return the folder of a new run. Of several processes, only rank 0 creates it."""
    from job.output_folder import OutputFolder, default_output

    if process_count() > 1 and arguments.output is None:
        raise ConfigError("output: is missing. Several processes need the same folder; give --output")
    if not is_main_process():
        return OutputFolder(arguments.output)
    path = arguments.output or _imported(arguments).output or default_output([*arguments.data, *named_sources][0])
    started.existed = path.exists()
    started.output = OutputFolder.create(path)
    started.is_new = True
    return started.output


def _follow(job: "Job", stop: StopSignal) -> int:
    """Run the job on ranks other than 0, without output. The main process decides when the run ends."""
    from job.worker import follow

    for _ in follow(job):
        stop.deferred = True
    return SUCCESS
