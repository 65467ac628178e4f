"""The command: `python -m artifact convert | extract | inspect | merge | prune | resize`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from settings.command_line.parser import CommandParser, report_wrong_input

SUCCESS = 0
FORMATS = ("kohya", "diffusers", "ai-toolkit", "cog-sdxl", "bundle", "embeddings")
PRECISIONS = ("fp16", "bf16", "fp32")
MODES = ("concat", "linear", "svd", "ties", "dare", "klora", "ziplora", "closed-form")
"""Choices of the modules, repeated here because these import torch, which takes seconds and --help does not need."""

Run = Callable[[argparse.Namespace], object]
BASE_CONFIG = "configurations for a single file: a folder or hub id"


def build_parser(prog: str = "python -m artifact") -> CommandParser:
    """Return the parser with a subcommand for each operation on files."""
    parser = CommandParser(
        prog=prog, description="Convert, merge, extract, resize and inspect LoRA files; make whole models smaller."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary, add_arguments, run in COMMANDS:
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        add_arguments(command)
        command.set_defaults(run=run)
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "python -m artifact") -> int:
    """Run the command. Returns the exit status: 0, or 2 for wrong input."""
    arguments = build_parser(prog).parse_args(argv)
    from safetensors import SafetensorError

    from artifact.errors import ArtifactError
    from families.errors import BaseModelError

    try:
        print(arguments.run(arguments))
        return SUCCESS
    except (ArtifactError, BaseModelError, OSError, SafetensorError) as error:  # the last two: it cannot be written
        return report_wrong_input(error)


def _add_convert(parser: CommandParser) -> None:
    parser.add_argument("source", type=Path, help="LoRA file of any format")
    parser.add_argument("target", type=Path, help="new file; existing files are not overwritten")
    parser.add_argument("--format", choices=FORMATS, required=True, help="format of the new file")


def _convert(arguments: argparse.Namespace) -> Path:
    from artifact.conversion.convert import convert

    if arguments.format != "cog-sdxl":
        _require_suffix(arguments.target)
    convert(arguments.source, arguments.target, arguments.format)
    target: Path = arguments.target
    return target


def _add_extract(parser: CommandParser) -> None:
    parser.add_argument("tuned", help="the fine-tuned model: a folder in diffusers' layout, a single file, a hub id")
    parser.add_argument("base", help="its base model")
    parser.add_argument("target", type=Path, help="new file; existing files are not overwritten")
    parser.add_argument("--rank", type=int, metavar="INT", required=True, help="rank of the LoRA")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp16", help="precision of its weights (default: fp16)"
    )
    parser.add_argument("--base_config", metavar="TEXT", help=BASE_CONFIG)


def _extract(arguments: argparse.Namespace) -> str:
    from artifact.merging.extract import extract

    _require_suffix(arguments.target)
    extraction = extract(
        arguments.tuned,
        arguments.base,
        arguments.target,
        arguments.rank,
        precision=arguments.precision,
        base_config=arguments.base_config,
    )
    return f"{extraction}\n{arguments.target}"


def _add_inspect(parser: CommandParser) -> None:
    parser.add_argument("file", type=Path, help="LoRA file of any format")


def _inspect(arguments: argparse.Namespace) -> object:
    from artifact.conversion.inspection import inspect

    return inspect(arguments.file)


def _add_merge(parser: CommandParser) -> None:
    parser.add_argument("sources", type=Path, nargs="+", help="LoRA files")
    parser.add_argument(
        "--weights", type=float, nargs="+", metavar="FLOAT", help="one for each file (default: 1 for each)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="PATH", required=True, help="new file, or new folder with --onto"
    )
    parser.add_argument(
        "--mode",
        choices=MODES,
        help="concat (default): exact, ranks add up; svd: best approximation of --rank; linear: factors summed; "
        "ties and dare: conflicting or random entries are dropped, then as svd; klora, ziplora: a "
        "subject and a style; closed-form: keys and values fitted to each file's trigger words (docs/artifact.md)",
    )
    parser.add_argument("--rank", type=int, metavar="INT", help="for svd, ties and dare")
    parser.add_argument("--density", type=float, metavar="FLOAT", help="share kept by ties and dare (default: 0.5)")
    parser.add_argument(
        "--base",
        metavar="TEXT",
        help="base model of the files: for ziplora and closed-form, and for svd of LoHa, LoKr, DoRA and differences",
    )
    parser.add_argument(
        "--prompts", nargs="+", metavar="TEXT", default=[], help="for ziplora and closed-form, one for each file"
    )
    parser.add_argument(
        "--onto", metavar="BASE", help="write this base model (folder or file) with the sum added to its weights"
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="with --onto, of the trained parts (default: that of each base weight)"
    )
    parser.add_argument("--base_config", metavar="TEXT", help=BASE_CONFIG)


def _merge(arguments: argparse.Namespace) -> str:
    from artifact.errors import ArtifactError
    from artifact.merging.merge import Mode, merge
    from artifact.merging.onto import merge_onto

    sources, output = arguments.sources, arguments.output
    weights = arguments.weights or [1.0] * len(sources)
    outcome: Any
    if arguments.onto is None and arguments.precision is not None:
        raise ArtifactError("--precision is only supported with --onto. Remove it.")
    if arguments.onto is None:
        _require_suffix(output)
        mode: Mode = arguments.mode or "concat"
        outcome = merge(sources, weights, output, mode, arguments.rank, arguments.base, arguments.base_config,
                        arguments.density, arguments.prompts)  # fmt: skip
    elif any([arguments.mode, arguments.rank, arguments.base, arguments.density, arguments.prompts]):
        raise ArtifactError("--onto adds the exact sum. Remove --mode, --rank, --base, --density and --prompts.")
    else:
        outcome = merge_onto(sources, weights, arguments.onto, output, arguments.base_config, arguments.precision)
    return "\n".join([*str(outcome).splitlines(), str(output)])


def _add_prune(parser: CommandParser) -> None:
    parser.add_argument("source", type=Path, help="whole model: a folder in diffusers' layout, or a .safetensors file")
    parser.add_argument("target", type=Path, help="new folder or file; existing ones are not overwritten")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp16", help="precision of all weights (default: fp16)"
    )


def _prune(arguments: argparse.Namespace) -> str:
    from artifact.conversion.prune import prune

    return f"{prune(arguments.source, arguments.target, arguments.precision)}\n{arguments.target}"


def _add_resize(parser: CommandParser) -> None:
    parser.add_argument("source", type=Path, help="LoRA file of any format")
    parser.add_argument("target", type=Path, help="new file; existing files are not overwritten")
    parser.add_argument("--rank", type=int, metavar="INT", required=True, help="rank of the new file")
    parser.add_argument("--base", metavar="TEXT", help="for LoHa, LoKr, DoRA, OFT and differences: their base model")
    parser.add_argument("--base_config", metavar="TEXT", help=BASE_CONFIG)


def _resize(arguments: argparse.Namespace) -> str:
    from artifact.merging.resize import resize

    _require_suffix(arguments.target)
    outcome = resize(arguments.source, arguments.target, arguments.rank, arguments.base, arguments.base_config)
    return f"{outcome}\n{arguments.target}"


def _require_suffix(target: Path) -> None:
    """Raises ArtifactError for the name of a LoRA file that tools would not list."""
    from artifact.errors import ArtifactError

    if target.suffix != ".safetensors":
        raise ArtifactError(
            f"{target}: the name of a LoRA file must end in .safetensors, because other tools do not list other files"
        )


COMMANDS: tuple[tuple[str, str, Callable[[CommandParser], None], Run], ...] = (
    ("convert", "write a LoRA file in another format", _add_convert, _convert),
    (
        "extract",
        "extract a LoRA from a full fine-tune; prints the share of each layer's change that it contains",
        _add_extract,
        _extract,
    ),
    ("inspect", "describe the contents of a LoRA file, and which tools cannot load it", _add_inspect, _inspect),
    ("merge", "add several LoRAs with weights, to one LoRA or to a base model", _add_merge, _merge),
    (
        "prune",
        "write only the weights of a whole model, in fp16, without averages and optimizer state",
        _add_prune,
        _prune,
    ),
    ("resize", "approximate a LoRA by one of another rank; prints the relative error", _add_resize, _resize),
)
"""Name, summary, function that adds the arguments, and function that runs the command."""


if __name__ == "__main__":
    sys.exit(main())
