"""The command: `python -m trainer.formats convert | extract | inspect | merge | resize`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from artifact.artifact import PRECISIONS
from artifact.errors import ArtifactError
from families.errors import BaseModelError
from trainer.formats.convert import FORMATS, convert
from trainer.formats.extract import extract
from trainer.formats.inspection import inspect
from trainer.formats.merge import merge, resize

SUCCESS, WRONG_INPUT = 0, 2


def build_parser() -> argparse.ArgumentParser:
    """One subcommand for each thing that can be done with files."""
    parser = argparse.ArgumentParser(prog="python -m trainer.formats", allow_abbrev=False, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    converting = commands.add_parser("convert", help="write a LoRA file in another format")
    converting.add_argument("source", type=Path)
    converting.add_argument("target", type=Path, help="a new file: nothing is overwritten")
    converting.add_argument("--format", choices=tuple(FORMATS), required=True)
    extracting = commands.add_parser(
        "extract", help="a LoRA out of a full fine-tune; prints what it holds of each layer"
    )
    extracting.add_argument(
        "tuned", help="the fine-tuned model: a folder in diffusers' layout, a single file, a hub id"
    )
    extracting.add_argument("base", help="the model that it was made from")
    extracting.add_argument("target", type=Path)
    extracting.add_argument("--rank", type=int, required=True)
    extracting.add_argument("--precision", choices=tuple(PRECISIONS), default="fp16")
    extracting.add_argument("--base_config", help="configurations for single files: a folder or hub id")
    inspecting = commands.add_parser("inspect", help="what is in a LoRA file, and what will not load where")
    inspecting.add_argument("file", type=Path)
    merging = commands.add_parser("merge", help="the weighted sum of several plain LoRAs, exactly; ranks add up")
    merging.add_argument("sources", type=Path, nargs="+")
    merging.add_argument("--weights", type=float, nargs="+", required=True, help="one for each file")
    merging.add_argument("--output", type=Path, required=True)
    resizing = commands.add_parser("resize", help="the nearest LoRA of another rank; prints the relative error")
    resizing.add_argument("source", type=Path)
    resizing.add_argument("target", type=Path)
    resizing.add_argument("--rank", type=int, required=True)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 for wrong input."""
    arguments = build_parser().parse_args(argv)
    try:
        print(_run(arguments))
        return SUCCESS
    except (ArtifactError, BaseModelError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return WRONG_INPUT


def _run(arguments: argparse.Namespace) -> object:
    if arguments.command == "inspect":
        return inspect(arguments.file)
    if arguments.command == "merge":
        merge(arguments.sources, arguments.weights, arguments.output)
        return arguments.output
    if arguments.command == "resize":
        error = resize(arguments.source, arguments.target, arguments.rank)
        return f"relative error {error:.4g}\n{arguments.target}"
    if arguments.command == "extract":
        extraction = extract(
            arguments.tuned,
            arguments.base,
            arguments.target,
            arguments.rank,
            precision=arguments.precision,
            base_config=arguments.base_config,
        )
        return f"{extraction}\n{arguments.target}"
    convert(arguments.source, arguments.target, arguments.format)
    return arguments.target
