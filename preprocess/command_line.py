"""The command `python -m preprocess DATA --output DIR`: data preparation without training."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preprocess.captions.token_counts import token_counter
from preprocess.errors import DatasetError
from preprocess.gallery.page import write_gallery
from preprocess.prepare import BaseRequirements, preparing
from preprocess.progress_lines import progress_display
from preprocess.uploads.given_data import require_present
from preprocess.workers.relay import drain
from settings.command_line.options import add_options, given_options
from settings.command_line.output import remove_traces, require_new_folder
from settings.command_line.parser import CommandParser, report_wrong_input
from settings.preparation import DataConfig
from settings.record import ConfigError, build_settings, read_settings_file

SUCCESS = 0
MAIN_SETTINGS = (
    "concept_mode", "trigger_word", "class_word", "captioner", "caption_prefix", "filters", "crop", "mask",
    "resolution", "horizontal_flip", "upscaler", "duplicates", "preservation_data", "num_workers", "seed",
)  # fmt: skip
"""Settings shown by --help."""


def build_parser(prog: str = "python -m preprocess") -> CommandParser:
    """Return a parser with one option for every field of the configuration, under its own name."""
    parser = CommandParser(
        prog=prog,
        usage="%(prog)s DATA [DATA ...] --output DIR [--config FILE] [--SETTING VALUE ...]",
        description="Prepare images for training, and report the result for every file. The last line printed is the "
        "path of an HTML page. The output folder can be edited, and trained with train.py.",
    )
    parser.add_argument(
        "data",
        nargs="*",
        metavar="DATA",
        help="zip, tar, folder or URL of images, or a dataset (hf://owner/name, a parquet file); several are combined",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML or JSON file with any of the settings")
    parser.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="folder or hub id of a base model or tokenizer, to find captions that are too long for it; train.py uses "
        "that of its base model",
    )
    parser.add_argument(
        "--size_multiple", type=int, metavar="INT", default=8, help="sides must be multiples of this (default: 8)"
    )
    parser.add_argument("--quiet", action="store_true", help="print only warnings and the result")
    add_options(parser, DataConfig, MAIN_SETTINGS)
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "python -m preprocess") -> int:
    """Run the command. Returns the exit status: 0, or 2 for wrong input."""
    arguments = build_parser(prog).parse_args(argv)
    logging.captureWarnings(True)  # libraries' warnings, such as Pillow's of damaged EXIF, do not mix with our lines
    try:
        return _run(arguments)
    except (ConfigError, DatasetError) as error:
        return report_wrong_input(error)


def _run(arguments: argparse.Namespace) -> int:
    values: dict[str, Any] = read_settings_file(arguments.config) if arguments.config else {}
    config = build_settings(DataConfig, values | given_options(arguments, DataConfig))
    if not arguments.data and not config.named_sources:
        raise ConfigError("data: is missing. Give a zip, a tar, a folder of images, a URL, or set dataset_name.")
    if arguments.size_multiple < 1:
        raise ConfigError(f"size_multiple: {arguments.size_multiple} must be at least 1")
    require_present([*arguments.data, *config.named_sources])
    require_new_folder(arguments.output)
    counter = token_counter(arguments.tokenizer) if arguments.tokenizer else None
    base = BaseRequirements(arguments.size_multiple, counter)
    existed = arguments.output.exists()
    try:
        with progress_display(quiet=arguments.quiet) as show:
            dataset = drain(preparing(arguments.data, config, arguments.output, base), show)
    except BaseException:  # Ctrl-C too
        remove_traces(arguments.output, existed)
        raise
    for line in [*dataset.combined_warnings, *(f"not used: {item.reason}" for item in dataset.rejected)]:
        print(f"warning: {line}", flush=True)
    buckets = len({example.bucket for example in dataset.examples})
    if not arguments.quiet:
        print(f"{len(dataset.largest)} images in {buckets} sizes, {len(dataset.rejected)} files not used", flush=True)
    print(write_gallery(dataset), flush=True)
    return SUCCESS
