"""The command `lora-trainer encode DATA --output DIR`: encodes images to shards of features for later training."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preprocess.errors import DatasetError
from preprocess.name_lists import first_names
from preprocess.uploads.given_data import require_present
from service.features.engines import RAY, add_engine_options, require_engine
from service.quick_imports import quick_imports
from settings.command_line.interrupts import STOPPED
from settings.command_line.options import add_options, given_options
from settings.command_line.output import require_new_folder, require_writable
from settings.command_line.parser import CommandParser, report_wrong_input
from settings.preparation import DataConfig
from settings.record import ConfigError, read_settings_file
from settings.training import TrainingConfig, build_config

if TYPE_CHECKING:
    import torch

    from families.family import ModelFamily
    from trainer.data.feature_shards import FeaturePlan, ShardRecord

SUCCESS, INCOMPLETE = 0, 1
"""Exit statuses, besides WRONG_INPUT."""
MAIN_SETTINGS = ("base_model", "trigger_word", "class_word", "captioner", "filters", "crop", "mask", "resolution")
"""Settings shown by --help."""


def build_parser(prog: str = "lora-trainer encode") -> CommandParser:
    """Return a parser with one option for every setting of a training; those that affect the features are used."""
    parser = CommandParser(
        prog=prog,
        usage="%(prog)s DATA [DATA ...] --output DIR [--config FILE] [--SETTING VALUE ...]",
        description="Encode shards of images to latents, one shard after the other, so that neither memory nor disk "
        "grows with the number of images. Started again, it continues with the shard where it ended. Pass the "
        "folder to train.py.",
    )
    parser.add_argument("data", nargs="+", metavar="DATA", help="shards: a folder of tars, s3://bucket/{0..9}.tar …")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder, or one to continue")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML or JSON file with any of the settings")
    add_engine_options(parser)
    add_options(parser, TrainingConfig, MAIN_SETTINGS)
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "lora-trainer encode") -> int:
    """Run the command. Returns the exit status: 0, 1 where shards could not be read or no image is usable, 2 for other
    wrong input, or 130 where it was stopped."""
    arguments = build_parser(prog).parse_args(argv)
    try:
        require_present(arguments.data)
        _config(arguments)  # before imports that take seconds
        _require_new_or_begun(arguments.output)
        require_engine(arguments)
    except (ConfigError, DatasetError) as error:
        return report_wrong_input(error)
    with quick_imports():
        from families.errors import BaseModelError
        from trainer.data.encoding_rounds import ShardsMissing

    try:
        return _encode(arguments)
    except ShardsMissing as error:
        report_wrong_input(error)
        return INCOMPLETE
    except (ConfigError, DatasetError, BaseModelError) as error:
        return report_wrong_input(error)
    except KeyboardInterrupt:
        print("stopped; run the same command again to encode the remaining shards", file=sys.stderr, flush=True)
        return STOPPED


def _config(arguments: argparse.Namespace) -> TrainingConfig:
    """Return the settings of the file and the command line. Raises ConfigError."""
    values: dict[str, Any] = read_settings_file(arguments.config) if arguments.config else {}
    config = build_config(values | given_options(arguments, TrainingConfig))
    if config.num_class_images > 0:
        raise ConfigError("num_class_images: the preservation set needs all images together; train on the images")
    return config


def _require_new_or_begun(folder: Path) -> None:
    """Raises ConfigError for a folder in use for something else, or that cannot be written to."""
    require_writable(folder)
    if not (folder / "features.json").is_file():
        require_new_folder(folder)


def _encode(arguments: argparse.Namespace) -> int:
    with quick_imports():
        from service.features.opening import load_family
        from trainer.base_model import precision
        from trainer.data.feature_sources import plan_features
        from trainer.resolution import resolve

    config = _config(arguments)
    dtype = precision(config.adapter, config.mixed_precision)
    family = load_family(config.base, dtype, config.zero_terminal_snr)
    settings = resolve(config, family).preparation
    plan = plan_features(arguments.data, settings, family)
    if arguments.engine == RAY:
        del family  # each worker has its own
        shards = _on_ray(arguments, config, plan, settings, dtype)
    else:
        shards = _here(arguments.output, config, plan, settings, family)
    usable = 0
    for number, record in shards:
        usable += len(record.examples)
        counted = f"{len(record.examples)} images, {len(record.rejected)} files not used"
        reasons = first_names([item.reason for item in record.rejected], "; ")
        print(f"{number + 1}/{len(plan.sources)} {record.source}: {counted}{reasons and f': {reasons}'}", flush=True)
    if usable == 0:
        print(f"error: no image of {', '.join(arguments.data)} can be used", file=sys.stderr, flush=True)
        return INCOMPLETE
    print(arguments.output, flush=True)
    return SUCCESS


def _tell(problem: str) -> None:
    print(f"not encoded: {problem}", file=sys.stderr, flush=True)


def _here(
    folder: Path, config: TrainingConfig, plan: "FeaturePlan", settings: DataConfig, family: "ModelFamily"
) -> "Iterator[tuple[int, ShardRecord]]":
    from service.features.opening import placed
    from trainer.data.feature_sources import settings_of_a_shard
    from trainer.data.local_encoding import encode_features

    family, base = placed(family, settings, config.num_tokens)
    return encode_features(plan, settings_of_a_shard(settings), base, family, folder, _tell)


def _on_ray(
    arguments: argparse.Namespace,
    config: TrainingConfig,
    plan: "FeaturePlan",
    settings: DataConfig,
    dtype: "torch.dtype",
) -> "Iterator[tuple[int, ShardRecord]]":
    from service.features.opening import open_base
    from trainer.data.feature_sources import settings_of_a_shard
    from trainer.data.ray_encoding import ActorPool, encode_features_on_ray

    pool = ActorPool(arguments.workers, arguments.cpus_per_worker or 1, arguments.gpus_per_worker)
    opening = partial(open_base, config.base, dtype, config.zero_terminal_snr, settings, config.num_tokens)
    return encode_features_on_ray(plan, settings_of_a_shard(settings), opening, arguments.output, pool, _tell)
