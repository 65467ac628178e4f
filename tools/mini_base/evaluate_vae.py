"""Measures how exactly the VAE restores images outside of its training data, by kind.

python -m tools.mini_base.evaluate_vae [--base FOLDER] [--pictures FOLDER ...]
"""

import argparse
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from families.loading.sources import EMBEDDED_BASE_FOLDER
from tools.mini_base.drawing import photographs
from tools.mini_base.drawing.backgrounds import SCENERY
from tools.mini_base.drawing.wide import KINDS, painted
from tools.mini_base.pictures import save_grid, to_images, to_tensor
from tools.mini_base.scenes import SIDE, Scene, draw, evaluation_scene, sample_scene

COUNT = 256
SEED = 98
BATCH = 64
LEAST_OF_DRAWINGS, LEAST_OF_PHOTOGRAPHS = 27.0, 25.0
"""Aims in dB, for the mean of every kind."""
SHOWN = 12
FILES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Exactness:
    """Peak signal-to-noise ratios in dB, for values of 0 to 255: the mean, the 5th percentile, the minimum."""

    mean: float
    low: float
    worst: float


def unseen_pictures(count: int = COUNT) -> dict[str, list[Image.Image]]:
    """`count` images of each kind, 64 × 64 pixels, from seeds that are not used in training."""
    drawn: dict[str, Callable[[random.Random], Image.Image]] = {
        "scenes with one thing": lambda rng: draw(evaluation_scene(rng), rng),
        "scenes with two things": lambda rng: draw(sample_scene(rng, two_things=1.0), rng),
        "scenes in places": lambda rng: draw(_somewhere(rng), rng),
        **{kind: lambda rng, kind=kind: KINDS[kind](SIDE, rng) for kind in KINDS},  # type: ignore[misc]
        "figures, rendered": lambda rng: painted(KINDS["figures"](SIDE, rng), rng),
        "photographs, their own size": lambda rng: photographs.random_square(photographs.EVALUATION, SIDE, rng, 1.0),
        "photographs, reduced": lambda rng: photographs.random_square(photographs.EVALUATION, SIDE, rng),
    }
    return {
        kind: [draw_one(random.Random(f"{SEED}/{kind}/{index}")) for index in range(count)]
        for kind, draw_one in drawn.items()
    }


def _somewhere(rng: random.Random) -> Scene:
    while (scene := evaluation_scene(rng)).background not in SCENERY:
        pass
    return scene


def psnr(restored: Tensor, pixels: Tensor) -> Tensor:
    """PSNR in dB of each image: two batches (B, 3, H, W) in [-1, 1] → (B,)."""
    return 10 * torch.log10(4 / (restored.clamp(-1, 1) - pixels).square().mean(dim=(1, 2, 3)).clamp(min=1e-9))


@torch.no_grad()
def restore(vae: AutoencoderKL, pictures: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
    """Return the restored images of one size, and the images: each (B, 3, H, W) in [-1, 1]."""
    pixels = to_tensor(pictures)
    restored = [vae.decode(vae.encode(part).latent_dist.mean).sample for part in pixels.split(BATCH)]
    return torch.cat(restored), pixels


def measure(vae: AutoencoderKL, kinds: Mapping[str, Sequence[Image.Image]]) -> dict[str, Exactness]:
    """The exactness of each kind."""
    table = {}
    for kind, pictures in kinds.items():
        values = psnr(*restore(vae, pictures)).sort().values
        low = values[len(values) // 20]
        table[kind] = Exactness(values.mean().item(), low.item(), values[0].item())
    return table


def markdown(table: Mapping[str, Exactness]) -> str:
    """The table, with the aims."""
    lines = ["| pictures | mean, dB | 19 of 20 are at least | worst | aim for the mean |", "|---|---|---|---|---|"]
    for kind, row in table.items():
        aim = LEAST_OF_PHOTOGRAPHS if kind.startswith("photographs") else LEAST_OF_DRAWINGS
        lines.append(f"| {kind} | {row.mean:.1f} | {row.low:.1f} | {row.worst:.1f} | {aim:.0f} |")
    return "\n".join(lines)


def pictures_in(folder: Path) -> list[Image.Image]:
    """The folder's images, 64 × 64 pixels."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in FILES)
    return [Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS) for path in paths]


def show(vae: AutoencoderKL, kinds: Mapping[str, Sequence[Image.Image]], path: Path) -> None:
    """Write an overview: for each kind a row of images, and below it their restored versions."""
    rows: list[Image.Image] = []
    for pictures in kinds.values():
        restored, pixels = restore(vae, pictures[:SHOWN])
        rows += [*to_images(pixels), *to_images(restored)]
    save_grid(rows, path, columns=SHOWN, enlarge=2)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=EMBEDDED_BASE_FOLDER, help="folder of a pipeline, or of a build")
    parser.add_argument("--pictures", type=Path, nargs="*", default=[], help="folders with images of one kind each")
    parser.add_argument("--count", type=int, default=COUNT, help="images of each drawn kind")
    parser.add_argument("--grid", type=Path, help="write an overview of restored images")
    arguments = parser.parse_args()
    vae = AutoencoderKL.from_pretrained(arguments.base / "vae", dtype=torch.float32).eval()
    kinds = {**unseen_pictures(arguments.count), **{folder.name: pictures_in(folder) for folder in arguments.pictures}}
    print(markdown(measure(vae, kinds)))
    if arguments.grid:
        show(vae, kinds, arguments.grid)


if __name__ == "__main__":
    main()
