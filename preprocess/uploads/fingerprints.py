"""Fingerprints of images: exact for identical pixels, perceptual for near duplicates."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

NEAR_BITS = 5
"""Largest number of differing bits (of 256) between perceptual hashes of copies. Photographs saved again at JPEG
quality 30, resized or brightened differ in up to 3 bits, ones cropped by a hundredth in 14 and more."""
PARTS = tuple(sum(1 << bit for bit in range(number, 256, NEAR_BITS + 1)) for number in range(NEAR_BITS + 1))
"""Disjoint masks that together cover 256 bits."""


@dataclass(frozen=True)
class Fingerprint:
    """`exact`: SHA-256 of size and RGB pixels. `perceptual`: 256 bits of the difference hash."""

    exact: str
    perceptual: int

    @classmethod
    def of(cls, image: Image.Image) -> "Fingerprint":
        """Compute the fingerprint of an RGB image."""
        digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
        digest.update(image.tobytes())
        return cls(digest.hexdigest(), difference_hash(image))

    def distance(self, other: "Fingerprint") -> int:
        """Return the number of differing bits between the perceptual hashes."""
        return (self.perceptual ^ other.perceptual).bit_count()


def difference_hash(image: Image.Image) -> int:
    """Return 256 bits: in a 17×16 grey copy, whether each pixel is brighter than its right neighbour (dHash)."""
    small = np.asarray(image.convert("L").resize((17, 16), Image.Resampling.BOX), dtype=np.int16)
    bits = (small[:, :-1] > small[:, 1:]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def nearest_before(fingerprints: Sequence[Fingerprint]) -> dict[int, int]:
    """Return the index of each image with an earlier near duplicate, and that of the nearest one. Ignores featureless
    ones.

    Hashes that differ in at most 5 bits agree in at least one of six parts, so only hashes that share a part are
    compared (pigeonhole principle; Manku et al. 2007, §3). A part takes every sixth bit, so that a plain sky does not
    fill one.
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
