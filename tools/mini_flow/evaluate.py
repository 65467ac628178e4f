"""Evaluates how well mini-flow follows held-out captions, with the captions and the evaluator of mini-sdxl.

python -m tools.mini_flow.evaluate

prints the table, and writes it with a grid of images into the model card.
"""

import argparse
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline, ZImagePipeline

from families.loading.sources import EMBEDDED_BASE_FOLDER
from tools.mini_base.evaluate import CAPTIONS, GRID, Judge, held_out_scenes, sample, save_samples
from tools.mini_base.model_card import markdown
from tools.mini_base.scenes import full_caption
from tools.mini_flow.assemble import ASSETS
from tools.mini_flow.model_card import AIMS, Measured, write_card

STEPS, GUIDANCE = 30, 3.0
"""Z-Image's guidance scale is the usual one minus 1: 0 means no guidance."""


def open_pipeline(assets: Path) -> ZImagePipeline:
    """The pipeline in fp32, without progress bars."""
    pipeline = ZImagePipeline.from_pretrained(assets, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def judge() -> Judge:
    """The embedded evaluator."""
    base = StableDiffusionXLPipeline.from_pretrained(EMBEDDED_BASE_FOLDER, dtype=torch.float32)
    return Judge(base, EMBEDDED_BASE_FOLDER / "image_encoder")


def evaluate(assets: Path, count: int) -> dict[str, dict[str, float]]:
    """The evaluator's accuracy for samples of `count` held-out captions."""
    scenes = held_out_scenes(count)
    samples = sample(open_pipeline(assets), [full_caption(scene) for scene in scenes], STEPS, GUIDANCE)
    save_samples(samples[:GRID], scenes[:GRID], assets / "grid.png")
    return {"samples of the base": judge().accuracy(samples, scenes)}


def main() -> None:
    """Print the table and write it into the model card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("--captions", type=int, default=CAPTIONS)
    arguments = parser.parse_args()
    table = evaluate(arguments.assets, arguments.captions)
    write_card(arguments.assets, Measured(table, arguments.captions, STEPS, GUIDANCE))
    print(markdown(table, AIMS))


if __name__ == "__main__":
    main()
