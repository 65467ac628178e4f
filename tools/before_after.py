"""Generates images without and with a LoRA of the embedded base, with the same prompts and seeds, and measures them.

python -m tools.before_after WEIGHTS --photos FOLDER --output GRID.png
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from artifact.artifact import Artifact
from evaluation.encoders import ClipEncoder
from evaluation.similarity import mean_paired_similarity, mean_self_similarity, mean_similarity
from sampler.generation import Generation
from sampler.sampler import SampleRequest
from settings.command_line.parser import CommandParser
from tools.mini_base.scenes import unrelated_prompts

CONCEPT_PROMPT = "a photo of {trigger}"
ELSEWHERE_PROMPT = "a photo of {trigger} on a green background"
SAMPLES_PER_PROMPT = 4
UNRELATED_PROMPTS = 16
SHOWN_UNRELATED = 4
INFERENCE_STEPS, GUIDANCE_SCALE = 25, 6.0
CELL, MARGIN = 96, 22


@dataclass(frozen=True)
class Pictures:
    """The samples of one prompt before and after, with the same seeds."""

    prompt: str
    before: list[Image.Image]
    after: list[Image.Image]


@dataclass(frozen=True)
class Comparison:
    """Training images; samples of the concept, alone and in new scenes; one sample for each unrelated prompt."""

    photos: list[Image.Image]
    concept: Pictures
    elsewhere: Pictures
    unrelated: list[Pictures]


def main() -> None:
    """Write the grid and print the figures as JSON."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--photos", type=Path, required=True, help="folder of the training images")
    parser.add_argument("--output", type=Path, required=True, help="the grid, a PNG")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    comparison = compare(arguments.weights, arguments.photos, arguments.seed)
    draw_grid(comparison).save(arguments.output)
    print(json.dumps({name: round(value, 3) for name, value in measure(comparison).items()}, indent=2))


def compare(weights: Path, photos: Path, seed: int, guidance_scale: float = GUIDANCE_SCALE) -> Comparison:
    """Generate all samples, with the base that the artifact was trained on."""
    artifact = Artifact.read(weights)
    if artifact.description is None:
        raise SystemExit(f"{weights} is not an artifact of this trainer")
    trigger = next(iter(artifact.description.triggers))
    unrelated = unrelated_prompts(UNRELATED_PROMPTS)
    sampler = Generation().prepare(artifact, None)

    wanted = {
        CONCEPT_PROMPT.format(trigger=trigger): 2 * SAMPLES_PER_PROMPT,
        ELSEWHERE_PROMPT.format(trigger=trigger): SAMPLES_PER_PROMPT,
        **dict.fromkeys(unrelated, 1),
    }
    requests = [
        SampleRequest(
            prompt=prompt,
            num_outputs=count,
            seed=seed,
            num_inference_steps=INFERENCE_STEPS,
            guidance_scale=guidance_scale,
        )
        for prompt, count in wanted.items()
    ]
    before = sampler.generate_several(requests)
    sampler.load(artifact)
    after = sampler.generate_several(requests)
    concept, elsewhere, *others = map(Pictures, wanted, before, after)
    training_pictures = [Image.open(path).convert("RGB") for path in sorted(photos.glob("*.png"))]
    return Comparison(training_pictures, concept, elsewhere, others)


def measure(comparison: Comparison) -> dict[str, float]:
    """Cosines of the embedded evaluator's image embeddings, means over all pairs."""
    evaluator = ClipEncoder()
    photos = evaluator.embed(comparison.photos)
    before, after = (evaluator.embed(getattr(comparison.concept, side)) for side in ("before", "after"))
    kept_before, kept_after = (
        evaluator.embed([image for pictures in comparison.unrelated for image in getattr(pictures, side)])
        for side in ("before", "after")
    )
    return {
        "training images to each other": mean_self_similarity(photos),
        "samples to training images, before": mean_similarity(before, photos),
        "samples to training images, after": mean_similarity(after, photos),
        "unrelated prompts, after to before": mean_paired_similarity(kept_before, kept_after),
    }


def draw_grid(comparison: Comparison) -> Image.Image:
    """The training images at the top, then before on the left and after on the right."""
    half = SAMPLES_PER_PROMPT
    rows: list[tuple[str, Sequence[Image.Image], Sequence[Image.Image]]] = [
        (pictures.prompt, pictures.before[:half], pictures.after[:half])
        for pictures in (comparison.concept, comparison.elsewhere)
    ]
    shown = comparison.unrelated[:SHOWN_UNRELATED]
    rows.append(("prompts without the trigger", [item.before[0] for item in shown], [item.after[0] for item in shown]))
    grid = Image.new("RGB", ((2 * half + 1) * CELL, (len(rows) + 1) * (CELL + MARGIN)), "white")
    canvas = ImageDraw.Draw(grid)
    canvas.text((4, 4), "training pictures", fill="black", font_size=13)
    paste_row(grid, comparison.photos[: 2 * half], 0, MARGIN)
    for index, (title, before, after) in enumerate(rows, 1):
        top = index * (CELL + MARGIN)
        canvas.text((4, top + 4), f"{title}: before", fill="black", font_size=13)
        canvas.text(((half + 1) * CELL + 4, top + 4), "after", fill="black", font_size=13)
        paste_row(grid, before, 0, top + MARGIN)
        paste_row(grid, after, (half + 1) * CELL, top + MARGIN)
    return grid


def paste_row(grid: Image.Image, images: Sequence[Image.Image], left: int, top: int) -> None:
    """Paste images side by side."""
    for index, image in enumerate(images):
        grid.paste(image.resize((CELL, CELL), Image.Resampling.BICUBIC), (left + index * CELL, top))


if __name__ == "__main__":
    main()
