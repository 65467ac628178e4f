"""Finds the most detailed part of an image by its brightness gradients, without a model."""

import numpy as np
from PIL import Image, ImageFilter

from preprocess.crops.crop import Window, largest_window

WORKING_SIDE = 256  # pixels, longest side of the analysed copy: subjects are large
BLUR_SHARE = 0.05  # of the short side
BORDER_WEIGHT = 0.5  # weight of an edge at the image's border; 1 in the middle
AS_GOOD_AS_BEST = 0.98


def salient_window(image: Image.Image, aspect: float) -> Window:
    """Return the largest window with `aspect` (width / height), placed where it contains the most gradient energy.

    The energy is |∇ luma|, blurred, and weighted down towards the border. Of all windows within 2 % of the best, the
    one nearest to the energy's centre of mass is taken, so a uniform image gives its middle.
    """
    energy = gradient_energy(image)
    rows, columns = energy.shape
    window = largest_window((columns, rows), aspect)
    centre = (
        _best_middle(energy.sum(axis=0), round(window.width)) * image.width / columns,
        _best_middle(energy.sum(axis=1), round(window.height)) * image.height / rows,
    )
    return largest_window(image.size, aspect, centre)


def gradient_energy(image: Image.Image) -> np.ndarray:
    """Return the gradient energy at each place of a small copy: (rows, columns), 0 to 1."""
    scale = min(1.0, WORKING_SIDE / max(image.size))
    width, height = (max(2, round(side * scale)) for side in image.size)
    luma = np.asarray(image.resize((width, height), Image.Resampling.BOX, reducing_gap=2.0).convert("L"), np.float32)
    down, across = np.gradient(luma)
    steepness = np.hypot(across, down)
    steepest = float(steepness.max())
    if steepest == 0:
        return np.zeros_like(luma)
    energy = Image.fromarray((steepness * (255 / steepest)).round().astype(np.uint8))
    blurred = np.asarray(energy.filter(ImageFilter.GaussianBlur(BLUR_SHARE * min(width, height))), np.float32)
    weighted: np.ndarray = blurred / 255 * _border_prior(height, width)
    return weighted


def _border_prior(rows: int, columns: int) -> np.ndarray:
    down, across = np.linspace(-1, 1, rows), np.linspace(-1, 1, columns)
    nearness = np.maximum(np.abs(down)[:, None], np.abs(across)[None, :])
    return np.asarray(1 - (1 - BORDER_WEIGHT) * nearness**2, np.float32)


def _best_middle(profile: np.ndarray, length: int) -> float:
    """Return the middle of the range of `length` places that contains the most of a (places,) profile."""
    running = np.concatenate([[0.0], profile.cumsum(dtype=np.float64)])
    held = running[length:] - running[:-length]
    good = np.flatnonzero(held >= AS_GOOD_AS_BEST * held.max()) + length / 2
    return float(good[np.abs(good - _centre_of_mass(profile)).argmin()])


def _centre_of_mass(profile: np.ndarray) -> float:
    places = np.arange(len(profile)) + 0.5
    total = float(profile.sum())
    return float((profile * places).sum() / total) if total else len(profile) / 2
