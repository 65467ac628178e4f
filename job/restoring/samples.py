"""Samples of a model that restores pictures: each of a picture of its own, which lies beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from families.family import ModelFamily
from job.samples import SampleSettings
from trainer.data.latent_cache import CachedExample
from trainer.training import Training
from trainer.validation.restoration import psnr, restore

ORIGINALS = "originals"
"""The folder of the pictures that are restored, inside of that of the samples."""


@dataclass(frozen=True)
class Originals:
    """Pictures to restore, uint8 (3, H, W), with their captions. `held_out`: whether none of them is trained."""

    pictures: tuple[Tensor, ...]
    captions: tuple[str, ...]
    held_out: bool

    @property
    def described(self) -> str:
        count = len(self.pictures)
        noun = "picture that is" if count == 1 else "pictures that are"
        return f"{count} {noun} {'not ' if self.held_out else ''}trained"


def originals_of(training: Training, settings: SampleSettings) -> Originals:
    """Images that are not trained where there are such, else the first ones that are."""
    held = training.held_out
    apart = held is not None and not held.crops
    examples: Sequence[CachedExample] = held.held_out if held is not None and apart else training.batches.examples
    chosen = examples[: settings.count]
    return Originals(tuple(_pictures(chosen)), tuple(example.caption for example in chosen), apart)


def write_restored(originals: Originals, settings: SampleSettings, family: ModelFamily, folder: Path) -> float | None:
    """Restore the pictures into `folder`: 00.png, 01.png … Returns the mean PSNR in dB, None without pictures."""
    if not originals.pictures:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    drawn = restore(
        family, originals.pictures, originals.captions, settings.num_inference_steps, settings.guidance_scale
    )
    for number, picture in enumerate(drawn):
        _image(picture).save(folder / f"{number:02d}.png")
    return sum(map(psnr, drawn, originals.pictures)) / len(drawn)


def write_originals(originals: Originals, folder: Path) -> None:
    """Write the pictures themselves into a folder in `folder`."""
    (folder / ORIGINALS).mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(originals.pictures):
        _image(picture).save(folder / ORIGINALS / f"{number:02d}.png")


def _pictures(examples: Sequence[CachedExample]) -> Iterator[Tensor]:
    for example in examples:
        levels = example.views[0].load().control
        assert levels is not None
        yield levels


def _image(levels: Tensor) -> Image.Image:
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy())
