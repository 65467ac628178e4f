"""Chooses the bucket sizes of a dataset: few sizes, with little cropping of each image.

Every image has a best size, which crops the least of it. A size *covers* an image when it crops at most
`max_extra_crop` more than the best size. The sizes are chosen by a greedy set cover: repeatedly the one that covers
most of the remaining images (Chvátal 1979). The fixed lists of kohya and diffusers need more sizes, or crop more.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from preprocess.crops.crop import MAX_ENLARGEMENT, Size

DEFAULT_RESOLUTION = 1024
MAX_ASPECT = 4.0
SMALLEST_AREA = 0.85
"""Smallest area of a size relative to the requested one. Smaller areas allow more aspect ratios."""
SMALLER_AREA = 0.75
"""Fraction of the resolution's area. Smaller buckets were chosen because the image is small."""
FEW_IMAGES = 100


@dataclass(frozen=True)
class BucketRules:
    """Rules for bucket sizes. `resolution`²: the trained area in pixels. Sides are multiples of `step`, and at most
    `largest_side`. `aspects`: widths by heights of the sizes, and of those that lie across; () for any up to 1:4."""

    resolution: int
    step: int
    max_extra_crop: float | None = None
    square: bool = False
    largest_side: int | None = None
    aspects: tuple[float, ...] = ()

    def allowed_extra_crop(self, images: int) -> float:
        """Return the setting, else 0.06 for few images, whose buckets would hold one or two each, and 0.03 for many."""
        if self.max_extra_crop is not None:
            return self.max_extra_crop
        return 0.06 if images <= FEW_IMAGES else 0.03


def crop_loss(image: Size, bucket: Size) -> float:
    """Return the share of the image's area that is cropped when it is scaled to cover the bucket: 0 ≤ loss < 1."""
    scale = max(bucket[0] / image[0], bucket[1] / image[1])
    return 1.0 - bucket[0] * bucket[1] / (image[0] * scale * image[1] * scale)


def enlargement(image: Size, bucket: Size) -> float:
    """Return the factor by which the image is enlarged to cover the bucket."""
    return max(bucket[0] / image[0], bucket[1] / image[1])


def candidates(rules: BucketRules, resolution: float) -> list[Size]:
    """Return all sizes of about `resolution`² pixels whose sides are multiples of the step, aspect ratio 1:4 to 4:1; or
    the one for each of the rules' own aspects."""
    step, area = rules.step, resolution**2
    side = max(step, int(resolution // step) * step)
    if rules.square:
        return [(side, side)]
    if rules.aspects:
        return _of_aspects(rules, area) or [(side, side)]
    most = int(area**0.5 * MAX_ASPECT**0.5 // step)
    sizes = [(a * step, b * step) for a in range(1, most + 1) for b in range(1, most + 1)]
    longest = rules.largest_side or 2 * most * step
    fitting = [
        size
        for size in sizes
        if SMALLEST_AREA * area <= size[0] * size[1] <= area
        and max(size) / min(size) <= MAX_ASPECT
        and max(size) <= longest
    ]
    return fitting or [(side, side)]


def _of_aspects(rules: BucketRules, area: float) -> list[Size]:
    """Return the largest size within the area for each aspect ratio, without duplicates."""
    ratios = sorted({ratio for aspect in rules.aspects for ratio in (aspect, 1 / aspect)})
    sizes = {
        (_multiple((area * ratio) ** 0.5, rules.step), _multiple((area / ratio) ** 0.5, rules.step)) for ratio in ratios
    }
    return sorted(size for size in sizes if max(size) <= (rules.largest_side or max(size)))


def _multiple(side: float, step: int) -> int:
    return max(step, int(side / step + 1e-9) * step)


def assign_buckets(images: Sequence[Size], rules: BucketRules) -> list[Size]:
    """Return the bucket of each image, in order. `images`: (width, height) in pixels."""
    buckets: dict[int, Size] = {}
    extra = rules.allowed_extra_crop(len(images))
    for tier, members in _tiers(images, rules).items():
        sizes = candidates(rules, tier)
        cover = _greedy_cover([images[index] for index in members], sizes, extra)
        buckets |= dict(zip(members, cover, strict=True))
    return [buckets[index] for index in range(len(images))]


def at_resolutions(images: Sequence[Size], rules: Sequence[BucketRules]) -> list[list[tuple[int, Size]]]:
    """Return for each image the resolutions that it is trained at, ascending, with its bucket at each.

    `rules`: one for each resolution, ascending. An image is left out at resolutions that are too large for it. An image
    that is too small for all is trained at the lowest, at its own size.
    """
    found: list[list[tuple[int, Size]]] = [[] for _ in images]
    for rule in rules:
        for chosen, bucket in zip(found, assign_buckets(images, rule), strict=True):
            if not chosen or bucket[0] * bucket[1] >= SMALLER_AREA * rule.resolution**2:
                chosen.append((rule.resolution, bucket))
    return found


def _tiers(images: Sequence[Size], rules: BucketRules) -> dict[float, list[int]]:
    """Group image indices by the highest resolution that they reach within the enlargement limit."""
    tiers: dict[float, list[int]] = {}
    for index, image in enumerate(images):
        resolution = float(rules.resolution)
        while resolution > rules.step and not _reaches(image, rules, resolution):
            resolution -= rules.step
        tiers.setdefault(max(resolution, float(rules.step)), []).append(index)
    return tiers


def _reaches(image: Size, rules: BucketRules, resolution: float) -> bool:
    best = min(candidates(rules, resolution), key=lambda size: (crop_loss(image, size), -size[0] * size[1]))
    return enlargement(image, best) <= MAX_ENLARGEMENT


def _greedy_cover(images: Sequence[Size], sizes: Sequence[Size], max_extra_crop: float) -> list[Size]:
    counted = Counter(images)
    covers = _covers(counted, sizes, max_extra_crop)
    left, chosen = set(counted), []
    while left:
        best = max(
            covers,
            key=lambda size: (
                sum(counted[image] for image in covers[size] & left),
                -sum(crop_loss(image, size) * counted[image] for image in covers[size] & left),
                size[0] * size[1],
            ),
        )
        chosen.append(best)
        left -= covers[best]
    return [_nearest(image, [size for size in chosen if image in covers[size]]) for image in images]


def _covers(images: Iterable[Size], sizes: Sequence[Size], max_extra_crop: float) -> dict[Size, set[Size]]:
    """Return the images that each size covers within the limits of cropping and enlargement."""
    covers: dict[Size, set[Size]] = {size: set() for size in sizes}
    for image in images:
        usable = [size for size in sizes if enlargement(image, size) <= MAX_ENLARGEMENT] or list(sizes)
        least = min(crop_loss(image, size) for size in usable)
        for size in usable:
            if crop_loss(image, size) <= least + max_extra_crop:
                covers[size].add(image)
    return covers


def _nearest(image: Size, sizes: Sequence[Size]) -> Size:
    return min(sizes, key=lambda size: (crop_loss(image, size), -size[0] * size[1]))
