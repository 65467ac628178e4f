"""Reads every image once: validity, size, duplicates. Pixels are not kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocess.dataset import Rejected
from preprocess.errors import DatasetError
from preprocess.uploads.decoding import DecodeRules, decode
from preprocess.uploads.fingerprints import Fingerprint, nearest_before
from preprocess.uploads.intake import FoundFile
from preprocess.workers.workers import Work, Workers

PREVIEW_SIDE = 320


@dataclass(frozen=True)
class Surveyed:
    """A readable image. `size`: (width, height) in pixels after EXIF orientation. `mask`, `control`: their files."""

    file: FoundFile
    size: tuple[int, int]
    fingerprint: Fingerprint
    preview: str
    notes: tuple[str, ...]
    mask: Path | None = None
    control: Path | None = None


def survey(
    images: Sequence[FoundFile],
    rules: DecodeRules,
    output: Path,
    workers: Workers,
    num_workers: int | None,
    series: str = "",
) -> Iterator[Surveyed | Rejected]:
    """Yield the result for each file, in order. Writes previews, whose names begin with `series`."""
    (output / "previews").mkdir(parents=True, exist_ok=True)
    needs = [output, *dict.fromkeys(file.root for file in images)]
    yield from workers.map(Work.of(Look(rules, output, series), needs), list(enumerate(images)), num_workers)


@dataclass(frozen=True)
class Look:
    """Reads an image, as picklable function of workers."""

    rules: DecodeRules
    output: Path
    series: str

    def __call__(self, numbered: tuple[int, FoundFile]) -> Surveyed | Rejected:
        """Read (number of the image, file)."""
        index, file = numbered
        preview = f"previews/{self.series}{index:04d}_{file_stem(file)}.webp"
        try:
            picture = decode(file.path, self.rules)
        except DatasetError as error:
            return Rejected(file.name, str(error))
        if picture.opacity is not None and picture.opacity.getextrema()[1] == 0:
            reason = "is fully transparent. Save it without transparency"
            return Rejected(file.name, f"{file.name}: {reason}")
        small = picture.image.copy()
        small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), reducing_gap=2.0)
        small.save(self.output / preview, "WEBP", quality=80, method=2)
        return Surveyed(file, picture.image.size, Fingerprint.of(picture.image), preview, picture.notes)


def file_stem(file: FoundFile) -> str:
    """Return the image's name as a safe file stem: letters, digits, "-" and "_", at most 40 characters."""
    kept = "".join(sign if sign.isalnum() or sign in "-_" else "-" for sign in file.path.stem)
    return kept[:40].strip("-") or "image"


def duplicates(surveyed: Sequence[Surveyed]) -> dict[int, int]:
    """Return the index of each image with an identical earlier one, and the index of the first of these."""
    first: dict[str, int] = {}
    return {
        index: known
        for index, item in enumerate(surveyed)
        if (known := first.setdefault(item.fingerprint.exact, index)) != index
    }


def repeated_in(concept: Sequence[Surveyed], prior: Sequence[Surveyed]) -> dict[str, str]:
    """Return the names of `prior` images that are also in `concept`, identical or nearly so, and their names there."""
    both = [*concept, *prior]
    exact = {item.fingerprint.exact: item.file.name for item in concept}
    near = nearest_before([item.fingerprint for item in both])
    found = {
        both[later].file.name: both[earlier].file.name
        for later, earlier in near.items()
        if later >= len(concept) > earlier
    }
    return found | {item.file.name: exact[item.fingerprint.exact] for item in prior if item.fingerprint.exact in exact}


def near_duplicates(surveyed: Sequence[Surveyed]) -> Iterator[str]:
    """Warn of each image with an earlier near duplicate. Identical images are left out."""
    for later, earlier in nearest_before([item.fingerprint for item in surveyed]).items():
        one, other = surveyed[earlier], surveyed[later]
        if one.fingerprint.exact != other.fingerprint.exact:
            yield f"{other.file.name}: is a near duplicate of {one.file.name}; both are trained"
