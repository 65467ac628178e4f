"""Samples of a model that reconstructs images, each with its original."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from families.family import ModelFamily
from job.output_folder import remove_pictures
from job.samples import SampleSettings, as_image, levels_of, sampled_examples
from trainer.training import Training
from trainer.validation.restoration import psnr, restore

ORIGINALS = "originals"
"""The subfolder of the original images in the folder of the samples."""


@dataclass(frozen=True)
class Originals:
    """Images to reconstruct, uint8 (3, H, W), with their captions. `held_out`: whether none of them is trained."""

    pictures: tuple[Tensor, ...]
    captions: tuple[str, ...]
    held_out: bool

    @property
    def described(self) -> str:
        count = len(self.pictures)
        noun = "image that is" if count == 1 else "images that are"
        return f"{count} {noun} {'not ' if self.held_out else ''}trained"


def originals_of(training: Training, settings: SampleSettings) -> Originals:
    """Return held-out images, or the first training images if there are none."""
    examples, held_out = sampled_examples(training, settings.count)
    captions = tuple(example.caption for example in examples)
    return Originals(tuple(map(levels_of, examples)), captions, held_out)


def write_restored(originals: Originals, settings: SampleSettings, family: ModelFamily, folder: Path) -> float | None:
    """Reconstruct the images into `folder`: 00.png, 01.png … Returns the mean PSNR in dB, None without images."""
    remove_pictures(folder)
    if not originals.pictures:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    drawn = restore(
        family, originals.pictures, originals.captions, settings.num_inference_steps, settings.guidance_scale
    )
    for number, picture in enumerate(drawn):
        as_image(picture).save(folder / f"{number:02d}.png")
    return sum(map(psnr, drawn, originals.pictures)) / len(drawn)


def write_originals(originals: Originals, folder: Path) -> None:
    """Write the original images into a subfolder of `folder`."""
    remove_pictures(folder / ORIGINALS)
    (folder / ORIGINALS).mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(originals.pictures):
        as_image(picture).save(folder / ORIGINALS / f"{number:02d}.png")
