"""The plain command: `python predict.py "a photo of TOK" --weights FILE …`. Prints the paths of the images."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

SUCCESS, WRONG_INPUT = 0, 2


def build_parser() -> argparse.ArgumentParser:
    """The same names as the inputs of the Cog predictor."""
    parser = argparse.ArgumentParser(
        prog="predict.py",
        allow_abbrev=False,
        description="Draw images with a base model and a LoRA. Prints their paths.",
    )
    parser.add_argument("prompt", help="what to draw; the artifact's trigger word calls the concept")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights.safetensors; without it: the bare base")
    parser.add_argument("--base_model", help="by default the one that the artifact was trained on")
    parser.add_argument("--output", type=Path, metavar="DIR", help="a new or empty folder; default outputs/images")
    parser.add_argument("--negative_prompt", default="", help="what should not be in the image")
    parser.add_argument("--num_outputs", type=int, default=1, help="how many images; their seeds follow each other")
    parser.add_argument("--seed", type=int, help="of the first image; by default random, and printed")
    parser.add_argument("--num_inference_steps", type=int, default=30, help="denoising steps")
    parser.add_argument("--guidance_scale", type=float, default=6.0, help="how strictly the prompt is followed")
    parser.add_argument("--width", type=int, help="in pixels; by default the base's own")
    parser.add_argument("--height", type=int, help="in pixels; by default the base's own")
    parser.add_argument("--lora_scale", type=float, default=1.0, help="strength of the LoRA: 0 none, 1 as trained")
    parser.add_argument("--scheduler", default="base", help="base, ddim, dpmpp_2m, dpmpp_2m_karras, euler, …")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 for wrong input."""
    arguments = build_parser().parse_args(argv)
    from artifact.errors import ArtifactError  # torch and diffusers take seconds: not before --help
    from families.errors import BaseModelError
    from sampler.sampler import RequestError

    try:
        for path in _draw(arguments):
            print(path, flush=True)
        return SUCCESS
    except (ArtifactError, BaseModelError, RequestError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return WRONG_INPUT


def _draw(arguments: argparse.Namespace) -> list[Path]:
    from artifact.artifact import Artifact
    from artifact.errors import ArtifactError
    from sampler.generation import Generation, save_images, with_seed
    from sampler.sampler import RequestError, SampleRequest

    if arguments.weights is not None and not arguments.weights.is_file():
        raise ArtifactError(f"weights: {arguments.weights} does not exist")
    if arguments.output is not None and arguments.output.exists() and any(arguments.output.iterdir()):
        raise RequestError(f"output: {arguments.output} exists and is not empty. Choose another folder.")
    request = with_seed(
        SampleRequest(
            prompt=arguments.prompt,
            negative_prompt=arguments.negative_prompt,
            width=arguments.width,
            height=arguments.height,
            num_outputs=arguments.num_outputs,
            scheduler=arguments.scheduler,
            num_inference_steps=arguments.num_inference_steps,
            guidance_scale=arguments.guidance_scale,
        ),
        arguments.seed,
    )
    artifact = Artifact.read(arguments.weights) if arguments.weights else None
    images = Generation().generate(request, artifact, arguments.lora_scale, arguments.base_model)
    return save_images(images, arguments.output or _free_folder(Path("outputs")))


def _free_folder(root: Path) -> Path:
    """`outputs/images`, or with -2, -3 … behind it: the first that is free."""
    names = (root / ("images" if number == 1 else f"images-{number}") for number in range(1, 100_000))
    return next(path for path in names if not path.exists())
