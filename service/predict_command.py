"""The command `python predict.py "a photo of TOK" --weights FILE …`. Prints the paths of the images."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from service.prediction_options import PredictionOptions
from service.quick_imports import quick_imports
from settings.command_line.options import add_few_options, given_options
from settings.command_line.output import require_new_folder
from settings.command_line.parser import CommandParser, report_wrong_input
from settings.record import ConfigError, build_settings

SUCCESS = 0
DOWNLOADED = ("lora", "replicate_weights", "controlnet")
"""Options that may be URLs."""


def build_parser(prog: str = "predict.py") -> CommandParser:
    """Return a parser whose options have the names of the Cog predictor's inputs."""
    parser = CommandParser(
        prog=prog,
        usage="%(prog)s PROMPT [--weights LORA] [--output DIR] [--OPTION VALUE ...]",
        description="Generate images with a base model and LoRAs. Prints their paths; seed, trigger words and progress "
        "go to stderr.",
    )
    parser.expected = "separate several LoRAs by commas: --weights a.safetensors,b.safetensors"
    parser.add_argument("prompt", metavar="PROMPT", help="prompt; include the LoRA's trigger word for its concept")
    parser.add_argument("--output", type=Path, metavar="DIR", help="a new or empty folder; default outputs/images")
    add_few_options(parser, PredictionOptions, aliases={"lora": "weights"})
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "predict.py") -> int:
    """Run the command. Returns the exit status: 0, or 2 for wrong input."""
    arguments = build_parser(prog).parse_args(argv)
    try:
        options = build_settings(PredictionOptions, given_options(arguments, PredictionOptions))
        _require_files(options)
        folder = _output_folder(arguments.output)
    except ConfigError as error:
        return report_wrong_input(error)
    with quick_imports():  # torch and diffusers take seconds: not before --help
        from artifact.errors import ArtifactError
        from families.errors import BaseModelError
        from fetching.errors import DownloadError
        from sampler.request import RequestError

    try:
        for path in _draw(arguments.prompt, options, folder):
            print(path, flush=True)
        return SUCCESS
    except (ArtifactError, BaseModelError, ConfigError, DownloadError, RequestError) as error:
        return report_wrong_input(error)


def _require_files(options: PredictionOptions) -> None:
    for name, path in (("image", options.image), ("mask", options.mask), ("control_image", options.control_image)):
        if path is not None and not path.is_file():
            raise ConfigError(f"{name}: {path} does not exist")


def _draw(prompt: str, options: PredictionOptions, folder: Path) -> list[Path]:
    """Generate the images, and write `parameters.json` next to them."""
    with quick_imports():
        from sampler.generation import Generation
        from service.policy.compilation import compilation_from_environment
        from service.prediction_inputs import PredictionInputs, predict

    inputs = PredictionInputs(prompt, **options.model_dump())
    generation = Generation(compilation=compilation_from_environment())
    prediction = predict(inputs, generation, folder, local_files=True, say=_say, metric=lambda name, value: None)
    described = {
        "inputs": {"prompt": prompt, **recorded(options)},
        "seed": prediction.seed,
        "trigger_words": prediction.triggers,
        "images": {path.name: text for path, text in zip(prediction.paths, prediction.parameters, strict=True)},
    }
    text = json.dumps(described, indent=2, ensure_ascii=False, default=str) + "\n"
    (folder / "parameters.json").write_text(text, encoding="utf-8")
    return prediction.paths


def recorded(options: PredictionOptions) -> dict[str, object]:
    """Return the given options for `parameters.json`: URLs without user name, password and query, which may contain a
    token."""
    with quick_imports():
        from fetching.download import is_url, shown
        from sampler.weights import parse_list

    values: dict[str, object] = options.model_dump(exclude_none=True)
    for name in DOWNLOADED:
        if text := getattr(options, name):
            listed = parse_list(text, local_files=True)
            values[name] = ", ".join(shown(each) if is_url(each) else each for each in listed)
    return values


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _output_folder(given: Path | None) -> Path:
    """Return the output folder. Raises ConfigError for a folder that is not empty, or that cannot be written to."""
    folder = given or _free_folder(Path("outputs"))
    require_new_folder(folder)
    return folder


def _free_folder(root: Path) -> Path:
    """Return the first free name among `outputs/images` and the same with -2, -3 … appended."""
    names = (root / ("images" if number == 1 else f"images-{number}") for number in range(1, 100_000))
    return next(path for path in names if not path.exists())
