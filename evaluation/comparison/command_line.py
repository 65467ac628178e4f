"""The command `python -m evaluation.comparison`: compares any LoRAs with the base and each other.

python -m evaluation.comparison PROTOCOL.yaml --output FOLDER
python -m evaluation.comparison --base_model BASE --pictures FOLDER --class_word dog --prompt "a photo of {trigger}" A B
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.comparison.protocol import Protocol, read_protocol, require_readable
from preprocess.progress import StageProgress
from preprocess.progress_lines import progress_display
from settings.command_line.output import require_new_folder
from settings.command_line.parser import CommandParser, report_wrong_input
from settings.record import ConfigError, build_settings

SUCCESS = 0
PROTOCOL_SUFFIXES = (".yaml", ".yml", ".json")
OF_THE_SUBJECT = ("pictures", "class_word", "trigger")
OF_THE_PROTOCOL = ("scales", "samples_per_prompt", "num_inference_steps", "guidance_scale", "seed")


def build_parser(prog: str = "python -m evaluation.comparison") -> CommandParser:
    """Return the parser for one YAML file, or LoRA files with options."""
    parser = CommandParser(
        prog=prog,
        usage="%(prog)s PROTOCOL.yaml --output DIR\n       %(prog)s LORA [LORA ...] --output DIR [--OPTION VALUE ...]",
        description="Compare LoRAs with the base model and each other. Writes a table, scores and a page.",
    )
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="one protocol (.yaml), or LoRA files (.safetensors)"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--quiet", action="store_true", help="print only the table")
    group = parser.add_argument_group("for LoRA files", "A protocol contains these.")
    group.add_argument("--base_model", metavar="TEXT", help="default: the base model of the first LoRA")
    group.add_argument("--pictures", type=Path, metavar="DIR", help="folder of reference images of the subject")
    group.add_argument(
        "--class_word", metavar="TEXT", help="word for the subject in the base model's prompts (default: object)"
    )
    group.add_argument("--trigger", metavar="TEXT", help="default: that of each LoRA")
    group.add_argument("--prompt", action="extend", nargs="+", metavar="TEXT", help="with {trigger}; one or several")
    group.add_argument("--scales", type=float, nargs="+", metavar="FLOAT", help="scales of each LoRA (default: 1)")
    group.add_argument("--samples_per_prompt", type=int, metavar="INT", help="images per prompt (default: 4)")
    group.add_argument("--num_inference_steps", type=int, metavar="INT", help="denoising steps (default: 30)")
    group.add_argument("--guidance_scale", type=float, metavar="FLOAT", help="classifier-free guidance (default: 6)")
    group.add_argument("--seed", type=int, metavar="INT", help="seed of the first image of each prompt (default: 0)")
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "python -m evaluation.comparison") -> int:
    """Run the command. Returns the exit status: 0, or 2 for wrong input."""
    arguments = build_parser(prog).parse_args(argv)
    try:
        _check(arguments)  # checked before imports that take seconds
    except ConfigError as error:
        return report_wrong_input(error)
    from artifact.errors import ArtifactError
    from families.errors import BaseModelError

    try:
        _compare(_protocol(arguments), arguments.output, quiet=arguments.quiet)
    except (ConfigError, ArtifactError, BaseModelError) as error:
        return report_wrong_input(error)
    return SUCCESS


def _check(arguments: argparse.Namespace) -> None:
    """Raises ConfigError for missing or surplus files, and for options without effect."""
    require_new_folder(arguments.output)
    files: list[Path] = arguments.files
    if files[0].suffix in PROTOCOL_SUFFIXES:
        if len(files) > 1:
            raise ConfigError(f"files: give one protocol; {files[1]} is additional")
        names = ("base_model", "prompt", *OF_THE_SUBJECT, *OF_THE_PROTOCOL)
        given = [name for name in names if getattr(arguments, name) is not None]
        if given:
            raise ConfigError(
                f"{given[0]}: has no effect with a protocol; set it in the protocol, and leave it out here"
            )
        return
    missing = [path for path in (*files, arguments.pictures) if path is not None and not path.exists()]
    if missing:
        raise ConfigError(f"files: {missing[0]} does not exist")


def _protocol(arguments: argparse.Namespace) -> Protocol:
    files: list[Path] = arguments.files
    if files[0].suffix in PROTOCOL_SUFFIXES:
        return read_protocol(files[0])
    from evaluation.prompt_sets import prompt_set

    base = arguments.base_model or _base_of(files[0])
    name = arguments.pictures.name if arguments.pictures else "subject"
    subject = {"name": name, "loras": _named(files), **_given(arguments, OF_THE_SUBJECT)}
    prompts = arguments.prompt or prompt_set(base, "object", {"{trigger}": None}).concept
    values = {"base_model": base, "subjects": [subject], "prompts": prompts, **_given(arguments, OF_THE_PROTOCOL)}
    protocol = build_settings(Protocol, values)
    require_readable(protocol)
    return protocol


def _given(arguments: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def _named(files: Sequence[Path]) -> dict[str, Path]:
    """Name each file by its stem, or by its whole path if stems are equal."""
    stems = [path.stem for path in files]
    return {path.stem if stems.count(path.stem) == 1 else str(path): path for path in files}


def _base_of(file: Path) -> str:
    from sampler.local_base import read_local

    description = read_local(file).description
    if description is None:
        raise ConfigError(f"base_model: {file} does not contain the name of its base model; give --base_model")
    return description.base_model


def _compare(protocol: Protocol, output: Path, *, quiet: bool) -> None:
    import torch

    from evaluation.comparison.compare import compare, load_encoders, require_unrelated
    from evaluation.comparison.table import markdown, page
    from families.registry import load_base_model

    require_unrelated(protocol)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    family = load_base_model(protocol.base_model, torch.bfloat16 if device.type == "cuda" else torch.float32)
    encoders = load_encoders(protocol, device)
    rows = []
    with progress_display(quiet=quiet, lines=sys.stderr) as show:  # stdout only contains the table
        for row in compare(protocol, family.to(device), encoders):
            rows.append(row)
            note = f"{row.subject}: {row.lora or 'base model'}"
            show(StageProgress("comparing", len(rows), protocol.count_rows(), note))
    output.mkdir(parents=True, exist_ok=True)
    table = markdown(rows)
    (output / "table.md").write_text(table, encoding="utf-8")
    scores = json.dumps([row.to_json() for row in rows], indent=2, ensure_ascii=False)
    (output / "scores.json").write_text(scores + "\n", encoding="utf-8")
    (output / "comparison.html").write_text(page(rows, protocol.prompts), encoding="utf-8", newline="\n")
    print(table, end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
