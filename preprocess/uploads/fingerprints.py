"""Fingerprints of pictures: exact for identical pixels, perceptual for near duplicates."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

NEAR_BITS = 5
"""Perceptual hashes of 256 bits that differ in at most so many belong to copies: photographs saved anew at JPEG quality
30, resized or brightened differ in up to 3, ones cropped by a hundredth in 14 and more."""
PARTS = tuple(sum(1 << bit for bit in range(number, 256, NEAR_BITS + 1)) for number in range(NEAR_BITS + 1))
"""Masks of 256 bits that share none and leave none out."""


@dataclass(frozen=True)
class Fingerprint:
    """`exact`: SHA-256 of size and RGB pixels. `perceptual`: 256 bits of the difference hash."""

    exact: str
    perceptual: int

    @classmethod
    def of(cls, image: Image.Image) -> "Fingerprint":
        """Of an RGB image."""
        digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
        digest.update(image.tobytes())
        return cls(digest.hexdigest(), difference_hash(image))

    def distance(self, other: "Fingerprint") -> int:
        """In how many of the 256 bits the perceptual hashes differ."""
        return (self.perceptual ^ other.perceptual).bit_count()


def difference_hash(image: Image.Image) -> int:
    """256 bits: in a 17×16 grey copy, whether each pixel is brighter than its right neighbour (dHash)."""
    small = np.asarray(image.convert("L").resize((17, 16), Image.Resampling.BOX), dtype=np.int16)
    bits = (small[:, :-1] > small[:, 1:]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def nearest_before(fingerprints: Sequence[Fingerprint]) -> dict[int, int]:
    """Index of each picture that nearly came before, and of the nearest earlier one. Featureless ones are passed over.

    Hashes that differ in 5 bits agree in at least one of six parts, so only those that share a part are compared
    (pigeonhole; Manku et al. 2007, §3). A part takes every sixth bit: a plain sky does not fill it.
    """
    hashes = [item.perceptual for item in fingerprints]
    known: dict[tuple[int, int], list[int]] = {}
    found: dict[int, int] = {}
    for later, bits in enumerate(hashes):
        if not bits:
            continue
        parts = [(number, bits & part) for number, part in enumerate(PARTS)]
        candidates = {earlier for part in parts for earlier in known.get(part, ())}
        differing = {earlier: (bits ^ hashes[earlier]).bit_count() for earlier in candidates}
        nearest = min(differing, key=lambda earlier: (differing[earlier], earlier), default=None)
        if nearest is not None and differing[nearest] <= NEAR_BITS:
            found[later] = nearest
        for part in parts:
            known.setdefault(part, []).append(later)
    return found
