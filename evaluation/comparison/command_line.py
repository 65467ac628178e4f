"""`python -m evaluation.comparison`: any LoRAs, ours or foreign, against the bare base and each other.

python -m evaluation.comparison PROTOCOL.yaml --output FOLDER
python -m evaluation.comparison --base_model BASE --pictures FOLDER --class_word dog --prompt "a photo of {trigger}" A B
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.comparison.protocol import Protocol, read_protocol
from settings.record import ConfigError, build_settings

SUCCESS, WRONG_INPUT = 0, 2


def build_parser() -> argparse.ArgumentParser:
    """One YAML file, or LoRA files with options."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.comparison",
        allow_abbrev=False,
        description="Compare LoRAs with the bare base and each other. Writes a table, scores and a page.",
    )
    parser.add_argument("files", nargs="+", type=Path, help="one protocol (.yaml), or LoRA files (.safetensors)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--base_model", help="by default the one that the first LoRA was trained on")
    parser.add_argument("--pictures", type=Path, help="folder of reference pictures of the subject")
    parser.add_argument("--class_word", default="object", help="what the bare base is asked for")
    parser.add_argument("--trigger", help="by default each LoRA's own")
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="with {trigger}; may be given several times")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0], help="strengths of each LoRA")
    parser.add_argument("--samples_per_prompt", type=int, default=4)
    parser.add_argument("--num_inference_steps", type=int, default=30)
    parser.add_argument("--guidance_scale", type=float, default=6.0)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 for wrong input."""
    arguments = build_parser().parse_args(argv)
    from artifact.errors import ArtifactError
    from families.errors import BaseModelError

    try:
        if arguments.output.exists() and (not arguments.output.is_dir() or any(arguments.output.iterdir())):
            raise ConfigError(f"output: {arguments.output} exists and is not empty. Choose another folder.")
        _compare(_protocol(arguments), arguments.output)
    except (ConfigError, ArtifactError, BaseModelError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return WRONG_INPUT
    return SUCCESS


def _protocol(arguments: argparse.Namespace) -> Protocol:
    files: list[Path] = arguments.files
    if files[0].suffix in (".yaml", ".yml", ".json"):
        if len(files) > 1:
            raise ConfigError(f"files: one protocol is expected, and {files[1]} is one too many")
        return read_protocol(files[0])
    missing = [path for path in (*files, arguments.pictures) if path is not None and not path.exists()]
    if missing:
        raise ConfigError(f"files: {missing[0]} does not exist")
    from evaluation.prompt_sets import prompt_set

    base = arguments.base_model or _base_of(files[0])
    subject = {
        "name": arguments.pictures.name if arguments.pictures else "subject",
        "pictures": arguments.pictures,
        "class_word": arguments.class_word,
        "trigger": arguments.trigger,
        "loras": _named(files),
    }
    names = ("scales", "samples_per_prompt", "num_inference_steps", "guidance_scale", "seed")
    prompts = arguments.prompt or prompt_set(base, "object", {"{trigger}": None}).concept
    values = {name: getattr(arguments, name) for name in names}
    return build_settings(Protocol, {"base_model": base, "subjects": [subject], "prompts": prompts, **values})


def _named(files: Sequence[Path]) -> dict[str, Path]:
    """Each by the name of its file; by its whole path where two have the same."""
    stems = [path.stem for path in files]
    return {path.stem if stems.count(path.stem) == 1 else str(path): path for path in files}


def _base_of(file: Path) -> str:
    from artifact.artifact import Artifact

    description = Artifact.read(file).description
    if description is None:
        raise ConfigError(f"base_model: {file} does not say what it was trained on; give --base_model")
    return description.base_model


def _compare(protocol: Protocol, output: Path) -> None:
    import torch

    from evaluation.comparison.compare import compare, load_encoders
    from evaluation.comparison.table import markdown, page
    from families.registry import load_base_model

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    family = load_base_model(protocol.base_model, torch.bfloat16 if device.type == "cuda" else torch.float32)
    encoders = load_encoders(protocol, device)
    rows = []
    for row in compare(protocol, family.to(device), encoders):
        rows.append(row)
        print(f"{row.subject}: {row.lora or 'bare base'}: {row.scores}", file=sys.stderr, flush=True)
    output.mkdir(parents=True, exist_ok=True)
    table = markdown(rows)
    (output / "table.md").write_text(table, encoding="utf-8")
    scores = json.dumps([row.to_json() for row in rows], indent=2, ensure_ascii=False)
    (output / "scores.json").write_text(scores + "\n", encoding="utf-8")
    (output / "comparison.html").write_text(page(rows, protocol.prompts), encoding="utf-8", newline="\n")
    print(table, end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
