"""The plain command: `python predict.py "a photo of TOK" --weights FILE …`. Prints the paths of the images."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from service.quick_imports import quick_imports

SUCCESS, WRONG_INPUT = 0, 2


def build_parser() -> argparse.ArgumentParser:
    """The same names as the inputs of the Cog predictor."""
    parser = argparse.ArgumentParser(
        prog="predict.py",
        allow_abbrev=False,
        description="Draw images with a base model and LoRAs. Prints their paths; seed, trigger words and progress go "
        "to stderr.",
    )
    parser.add_argument("prompt", help="what to draw; a LoRA's trigger word calls its concept")
    parser.add_argument("--negative_prompt", default="", help="what should not be in the image")
    parser.add_argument(
        "--weights",
        "--lora",
        dest="lora",
        help="LoRAs: files, https URLs, hub ids; several between commas or as a JSON list; none: the base",
    )
    parser.add_argument("--replicate_weights", help="Replicate's name for --weights")
    parser.add_argument(
        "--lora_scale", default="recommended", help="strength: 0 none, 1 as trained; one for all, or a list"
    )
    parser.add_argument("--token_strength", default="1", help="of the trigger words: 0.8, or TOK=0.8, ANNA=1.2")
    parser.add_argument("--base_model", help="by default the one that the LoRA was trained on")
    parser.add_argument("--image", type=Path, help="a picture to start from")
    parser.add_argument("--mask", type=Path, help="white where the picture is drawn anew, black where it stays")
    parser.add_argument("--strength", type=float, default=0.8, help="how much the picture is changed, up to 1")
    parser.add_argument("--width", type=int, help="in pixels; by default the picture's or the base's own")
    parser.add_argument("--height", type=int, help="in pixels; by default the picture's or the base's own")
    parser.add_argument("--num_outputs", type=int, default=1, help="how many images, 1 to 8; their seeds follow")
    parser.add_argument("--scheduler", default="base", help="base, ddim, dpmpp_2m, dpmpp_2m_karras, euler, …")
    parser.add_argument("--num_inference_steps", type=int, default=30, help="denoising steps")
    parser.add_argument("--guidance_scale", type=float, default=6.0, help="how strictly the prompt is followed")
    parser.add_argument(
        "--guidance_rescale",
        type=float,
        default=0.0,
        help="against overexposure by guidance: 0 none, to 1; 0.7 is usual",
    )
    parser.add_argument("--clip_skip", type=int, default=0, help="last layers of the CLIP encoders to leave out")
    parser.add_argument("--seed", type=int, help="of the first image, up to 2^64 - 1; by default random, and printed")
    parser.add_argument("--output_format", default="png", help="png, webp or jpg")
    parser.add_argument("--output_quality", type=int, default=90, help="of webp and jpg, 1 to 100")
    parser.add_argument("--refiner", help="SDXL: a second model for the last steps, a hub id or a folder; default none")
    parser.add_argument("--refiner_start", type=float, default=0.8, help="fraction of the schedule that the base draws")
    parser.add_argument("--safety_checker", help="withhold what this checker flags: a hub id or a folder; default none")
    parser.add_argument("--output", type=Path, metavar="DIR", help="a new or empty folder; default outputs/images")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 for wrong input."""
    arguments = build_parser().parse_args(argv)
    with quick_imports():  # torch and diffusers take seconds: not before --help
        from artifact.errors import ArtifactError
        from families.errors import BaseModelError
        from fetching.errors import DownloadError
        from sampler.request import RequestError

    try:
        for path in _draw(arguments):
            print(path, flush=True)
        return SUCCESS
    except (ArtifactError, BaseModelError, DownloadError, RequestError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return WRONG_INPUT


def _draw(arguments: argparse.Namespace) -> list[Path]:
    """The images, with `parameters.json` beside them."""
    with quick_imports():
        from sampler.generation import Generation
        from sampler.request import RequestError
        from service.prediction_inputs import PredictionInputs, predict

    values = dict(vars(arguments))
    output = values.pop("output")
    if output is not None and output.exists() and any(output.iterdir()):
        raise RequestError(f"output: {output} exists and is not empty. Choose another folder.")
    folder = output or _free_folder(Path("outputs"))
    prediction = predict(
        PredictionInputs(**values), Generation(), folder, local_files=True, say=_say, metric=lambda name, value: None
    )
    described = {
        "inputs": {name: value for name, value in values.items() if value is not None},
        "seed": prediction.seed,
        "trigger_words": prediction.triggers,
        "images": {path.name: text for path, text in zip(prediction.paths, prediction.parameters, strict=True)},
    }
    text = json.dumps(described, indent=2, ensure_ascii=False, default=str) + "\n"
    (folder / "parameters.json").write_text(text, encoding="utf-8")
    return prediction.paths


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _free_folder(root: Path) -> Path:
    """`outputs/images`, or with -2, -3 … behind it: the first that is free."""
    names = (root / ("images" if number == 1 else f"images-{number}") for number in range(1, 100_000))
    return next(path for path in names if not path.exists())
