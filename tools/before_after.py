"""Draws the same prompts with the same seeds without and with a LoRA of the embedded base, side by side, and measures.

python -m tools.before_after WEIGHTS --photos FOLDER --output GRID.png
"""

import argparse
import json
from pathlib import Path

from PIL import Image, ImageDraw

from artifact.artifact import Artifact
from families.sources import EMBEDDED_BASE
from sampler.generation import Generation
from sampler.sampler import SampleRequest
from trainer.evaluation import ImageEvaluator, mean_paired_similarity, mean_self_similarity, mean_similarity

CONCEPT_PROMPTS = ("a photo of {trigger}", "a photo of {trigger} on a green background")
UNRELATED_PROMPTS = (
    "a photo of a large red star on a blue background",
    "a drawing of a striped yellow circle on a black background",
)
EACH = 4
CELL, MARGIN = 96, 22


def main() -> None:
    """Write the grid and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--photos", type=Path, required=True, help="folder of the training pictures")
    parser.add_argument("--output", type=Path, required=True, help="the grid, a PNG")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    artifact = Artifact.read(arguments.weights)
    assert artifact.description is not None, "an artifact of this trainer is expected"
    trigger = next(iter(artifact.description.triggers))
    prompts = [prompt.format(trigger=trigger) for prompt in CONCEPT_PROMPTS] + list(UNRELATED_PROMPTS)
    generation = Generation()
    rows: dict[str, tuple[list[Image.Image], list[Image.Image]]] = {}
    for prompt in prompts:
        request = SampleRequest(prompt=prompt, num_outputs=EACH, seed=arguments.seed)
        before = generation.generate(request, None, 1.0, EMBEDDED_BASE)
        rows[prompt] = before, generation.generate(request, artifact, 1.0, EMBEDDED_BASE)
    photos = [Image.open(path).convert("RGB") for path in sorted(arguments.photos.glob("*.png"))]
    draw_grid(photos, rows).save(arguments.output)
    print(json.dumps(measure(photos, rows), indent=2))


def measure(
    photos: list[Image.Image], rows: dict[str, tuple[list[Image.Image], list[Image.Image]]]
) -> dict[str, float]:
    """Similarities by the embedded evaluator: samples to training pictures, and unrelated prompts to before."""
    evaluator = ImageEvaluator()
    reference = evaluator.embed(photos)
    concept = list(rows.values())[: len(CONCEPT_PROMPTS)]
    unrelated = list(rows.values())[len(CONCEPT_PROMPTS) :]
    before = evaluator.embed([image for pair in concept for image in pair[0]])
    after = evaluator.embed([image for pair in concept for image in pair[1]])
    kept = [evaluator.embed([image for pair in unrelated for image in pair[side]]) for side in (0, 1)]
    figures = {
        "training pictures to each other": mean_self_similarity(reference),
        "samples to training pictures, before": mean_similarity(before, reference),
        "samples to training pictures, after": mean_similarity(after, reference),
        "unrelated prompts, after to before": mean_paired_similarity(*kept),
    }
    return {name: round(value, 3) for name, value in figures.items()}


def draw_grid(photos: list[Image.Image], rows: dict[str, tuple[list[Image.Image], list[Image.Image]]]) -> Image.Image:
    """The training pictures on top, then a row for each prompt: before on the left, after on the right."""
    width = (2 * EACH + 1) * CELL
    grid = Image.new("RGB", (width, (len(rows) + 1) * (CELL + MARGIN)), "white")
    canvas = ImageDraw.Draw(grid)
    canvas.text((4, 4), "training pictures", fill="black", font_size=13)
    paste_row(grid, photos[: 2 * EACH], 0, MARGIN)
    for index, (prompt, (before, after)) in enumerate(rows.items(), 1):
        top = index * (CELL + MARGIN)
        canvas.text((4, top + 4), f"{prompt}: before", fill="black", font_size=13)
        canvas.text(((EACH + 1) * CELL + 4, top + 4), "after", fill="black", font_size=13)
        paste_row(grid, before, 0, top + MARGIN)
        paste_row(grid, after, (EACH + 1) * CELL, top + MARGIN)
    return grid


def paste_row(grid: Image.Image, images: list[Image.Image], left: int, top: int) -> None:
    """Put pictures side by side."""
    for index, image in enumerate(images):
        grid.paste(image.resize((CELL, CELL), Image.Resampling.BICUBIC), (left + index * CELL, top))


if __name__ == "__main__":
    main()
