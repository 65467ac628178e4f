"""Trains a small ControlNet on the embedded base (edges → shapes), and measures how well its conditions are followed.

    python -m tools.controlnet_demo FOLDER

trains into FOLDER/run and writes docs/controlnet.png: conditions that were not trained, the base's images for the same
prompts and seeds, and the images with the ControlNet. The prompts name colours, but neither shapes nor positions.
"""

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from artifact.controlnet.files import read_controlnet
from families.loading.sources import EMBEDDED_BASE
from families.registry import load_base_model
from job.output_folder import OutputFolder
from job.run import run
from preprocess.control.filters import canny
from sampler.request import Control, SampleRequest
from sampler.sampler import Sampler
from settings.training import build_config
from tools.mini_base.drawing.colours import COLOURS
from tools.mini_base.drawing.outlines import SHAPES
from tools.mini_base.pictures import save_grid
from tools.mini_base.scenes import PLACES, Scene, Thing, draw

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "controlnet.png"
TRAINED, TESTED = 64, 8
SETTINGS = {
    "base_model": EMBEDDED_BASE, "adapter": "controlnet", "control": "canny", "captioner": "none", "duplicates": "keep",
    "learning_rate": 3e-3, "lr_scheduler": "constant", "lr_warmup_steps": 0, "max_train_steps": 180, "ema_decay": 0.95,
    "train_batch_size": 8, "min_timestep": 0.4, "num_validation_images": 0, "mixed_precision": "no",
}  # fmt: skip
"""Shapes are determined at high noise, so timesteps below 0.4 are left out, and fewer steps are sufficient."""


@dataclass(frozen=True)
class Obedience:
    """Mean intersection over union of an image's edges and its condition's, both 3 pixels wide: with the ControlNet,
    and for the base's images, as the value for chance."""

    controlled: float
    chance: float


def write_data(folder: Path) -> Path:
    """Write the training images with their captions."""
    folder.mkdir(parents=True)
    rng = random.Random(1)
    for number in range(TRAINED):
        scene = _scene(rng)
        draw(scene, rng).save(folder / f"{number:03d}.png")
        (folder / f"{number:03d}.txt").write_text(_prompt(scene), encoding="utf-8")
    return folder


def train(folder: Path) -> OutputFolder:
    """Train into `folder`/run."""
    output = OutputFolder.create(folder / "run")
    for progress in run(build_config(SETTINGS), [write_data(folder / "data")], output):
        if progress.step is None or progress.step % 50 == 0:
            print(progress.message, file=sys.stderr)
    return output


def unseen() -> tuple[list[Scene], list[Image.Image]]:
    """Scenes that were not trained, and their conditions."""
    rng = random.Random(99)
    scenes = [_scene(rng) for _ in range(TESTED)]
    return scenes, [canny(draw(scene, rng), rng) for scene in scenes]


def obedience(output: OutputFolder, picture: Path | None = None) -> Obedience:
    """Generate images from conditions that were not trained. `picture`: file of the overview."""
    family = load_base_model(EMBEDDED_BASE, torch.float32)
    scenes, conditions = unseen()
    controlnet = read_controlnet(output.weights, family)
    rows: list[list[Image.Image]] = []
    sampler = Sampler(family)
    for scale in (0.0, 1.0):
        requests = [
            SampleRequest(
                _prompt(scene), width=64, height=64, num_inference_steps=12, guidance_scale=5.0, seed=seed,
                control=Control(controlnet, condition, scale),
            )
            for seed, (scene, condition) in enumerate(zip(scenes, conditions, strict=True))
        ]  # fmt: skip
        rows.append([sampler.generate(request)[0] for request in requests])
    if picture is not None:
        save_grid([*conditions, *rows[0], *rows[1]], picture, TESTED, 2)
    chance, controlled = (_mean_overlap(row, conditions) for row in rows)
    return Obedience(controlled, chance)


def _scene(rng: random.Random) -> Scene:
    background, colour = rng.sample(list(COLOURS), 2)
    thing = Thing(
        rng.choice(list(SHAPES)), colour, size=rng.choice(["medium", "large"]), place=rng.choice(list(PLACES))
    )
    return Scene((thing,), background)


def _prompt(scene: Scene) -> str:
    return f"a picture of a {scene.things[0].colour} shape on a {scene.background} background"


def _mean_overlap(pictures: Sequence[Image.Image], conditions: Sequence[Image.Image]) -> float:
    return float(np.mean([_overlap(*pair) for pair in zip(pictures, conditions, strict=True)]))


def _overlap(picture: Image.Image, condition: Image.Image) -> float:
    drawn, wanted = (
        cv2.dilate(np.asarray(edges)[..., 0], np.ones((3, 3), np.uint8)) > 0
        for edges in (canny(picture, random.Random()), condition)
    )
    return float((drawn & wanted).sum() / max(1, (drawn | wanted).sum()))


def main() -> None:
    found = obedience(train(Path(sys.argv[1])), PICTURE)
    print(f"edges: IoU {found.controlled:.3f} with the ControlNet, {found.chance:.3f} without")


if __name__ == "__main__":
    main()
