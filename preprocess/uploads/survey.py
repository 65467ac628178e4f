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
    """An image that can be decoded. `size`: (width, height) in pixels after EXIF orientation. `mask`: its file."""

    file: FoundFile
    size: tuple[int, int]
    fingerprint: Fingerprint
    preview: str
    notes: tuple[str, ...]
    mask: Path | None = None


def survey(
    images: Sequence[FoundFile],
    rules: DecodeRules,
    output: Path,
    workers: Workers,
    num_workers: int | None,
    series: str = "",
) -> Iterator[Surveyed | Rejected]:
    """What became of each file, in order. Writes the previews, whose names begin with `series`."""
    (output / "previews").mkdir(parents=True, exist_ok=True)
    needs = [output, *dict.fromkeys(file.root for file in images)]
    yield from workers.map(Work.of(Look(rules, output, series), needs), list(enumerate(images)), num_workers)


@dataclass(frozen=True)
class Look:
    """Looks at one image after the other."""

    rules: DecodeRules
    output: Path
    series: str

    def __call__(self, numbered: tuple[int, FoundFile]) -> Surveyed | Rejected:
        """The image and its number among all."""
        index, file = numbered
        preview = f"previews/{self.series}{index:04d}_{file_stem(file)}.webp"
        try:
            picture = decode(file.path, self.rules)
        except DatasetError as error:
            return Rejected(file.name, str(error))
        if picture.opacity is not None and picture.opacity.getextrema()[1] == 0:
            reason = "transparent throughout: there is nothing to see. Save it without transparency"
            return Rejected(file.name, f"{file.name}: {reason}")
        small = picture.image.copy()
        small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), reducing_gap=2.0)
        small.save(self.output / preview, "WEBP", quality=80, method=2)
        return Surveyed(file, picture.image.size, Fingerprint.of(picture.image), preview, picture.notes)


def file_stem(file: FoundFile) -> str:
    """The image's own name, fit for a file of ours: letters, digits and a few signs, at most 40."""
    kept = "".join(sign if sign.isalnum() or sign in "-_" else "-" for sign in file.path.stem)
    return kept[:40].strip("-") or "image"


def duplicates(surveyed: Sequence[Surveyed]) -> dict[int, int]:
    """Indices of images whose very pixels came before, and the index of the first."""
    first: dict[str, int] = {}
    return {
        index: known
        for index, item in enumerate(surveyed)
        if (known := first.setdefault(item.fingerprint.exact, index)) != index
    }


def repeated_in(concept: Sequence[Surveyed], prior: Sequence[Surveyed]) -> dict[str, str]:
    """Names of images of `prior` that are also in `concept`, the very same or nearly, and their names there."""
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
    """A line for each picture that is nearly an earlier one, the very same ones left out."""
    for later, earlier in nearest_before([item.fingerprint for item in surveyed]).items():
        one, other = surveyed[earlier], surveyed[later]
        if one.fingerprint.exact != other.fingerprint.exact:
            yield f"{other.file.name}: nearly the same picture as {one.file.name}; both are trained"
