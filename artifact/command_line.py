"""The command: `python -m artifact convert | extract | inspect | merge | resize`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from artifact.artifact import PRECISIONS
from artifact.conversion.convert import FORMATS, convert
from artifact.conversion.inspection import inspect
from artifact.errors import ArtifactError
from artifact.merging.extract import extract
from artifact.merging.merge import MODES, Mode, merge
from artifact.merging.onto import merge_onto
from artifact.merging.resize import resize
from families.errors import BaseModelError

SUCCESS, WRONG_INPUT = 0, 2


def build_parser() -> argparse.ArgumentParser:
    """One subcommand for each thing that can be done with files."""
    parser = argparse.ArgumentParser(prog="python -m artifact", allow_abbrev=False, description=__doc__)
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
    merging = commands.add_parser("merge", help="the weighted sum of several LoRAs, as one or onto a base")
    merging.add_argument("sources", type=Path, nargs="+")
    merging.add_argument("--weights", type=float, nargs="+", required=True, help="one for each file")
    merging.add_argument("--output", type=Path, required=True)
    merging.add_argument(
        "--mode",
        choices=MODES,
        help="concat (default): exact, ranks add up; svd: the nearest of --rank; linear: factors are summed, not exact",
    )
    merging.add_argument("--rank", type=int, help="for svd")
    merging.add_argument("--base", help="for svd of LoHa, LoKr, DoRA and differences: what they were trained on")
    merging.add_argument("--onto", metavar="BASE", help="write this base with the sum in its weights: folder or file")
    merging.add_argument("--base_config", help="configurations for a single file: a folder or hub id")
    resizing = commands.add_parser("resize", help="the nearest LoRA of another rank; prints the relative error")
    resizing.add_argument("source", type=Path)
    resizing.add_argument("target", type=Path)
    resizing.add_argument("--rank", type=int, required=True)
    resizing.add_argument("--base", help="for LoHa, LoKr, DoRA and differences: what they were trained on")
    resizing.add_argument("--base_config", help="configurations for a single file: a folder or hub id")
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
        return "\n".join([*_merge(arguments), str(arguments.output)])
    if arguments.command == "resize":
        outcome = resize(arguments.source, arguments.target, arguments.rank, arguments.base, arguments.base_config)
        return f"{outcome}\n{arguments.target}"
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


def _merge(arguments: argparse.Namespace) -> list[str]:
    sources, weights, output = arguments.sources, arguments.weights, arguments.output
    if arguments.onto is None:
        mode: Mode = arguments.mode or "concat"
        outcome = merge(sources, weights, output, mode, arguments.rank, arguments.base, arguments.base_config)
        return str(outcome).splitlines()
    if (arguments.mode, arguments.rank, arguments.base) != (None, None, None):
        raise ArtifactError("--onto adds the whole sum to a base: leave out --mode, --rank and --base")
    return str(merge_onto(sources, weights, arguments.onto, output, arguments.base_config)).splitlines()
