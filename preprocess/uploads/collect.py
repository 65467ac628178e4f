"""Collects one set of images: unpacks it, reads every file, and rejects unusable ones."""

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from preprocess.captions.columns import Columns
from preprocess.captions.pairing import JSON_SUFFIX, SIDECAR_SUFFIXES, CaptionFinder
from preprocess.captions.tables import CAPTION_TABLES
from preprocess.control.files import ControlFiles, part_control_files, unused_controls, with_control_files
from preprocess.dataset import Rejected
from preprocess.progress import StageProgress
from preprocess.sources.columns import RowColumns
from preprocess.uploads.archive import ArchiveLimits, is_archive_name
from preprocess.uploads.decoding import IMAGE_SUFFIXES, DecodeRules, is_image_content, is_image_name
from preprocess.uploads.earlier_outputs import earlier_outputs, output_of, refuse_prepared_roots
from preprocess.uploads.folder_rules import MULTIPLY_FILE
from preprocess.uploads.intake import FoundFile, take_in
from preprocess.uploads.mask_files import SortedMasks, sort_masks
from preprocess.uploads.survey import Surveyed, duplicates, near_duplicates, survey
from preprocess.workers.workers import Workers
from settings.filters import parse_filter, refused_by
from settings.preparation import DataConfig

NO_FILE = "is a link to a folder, a broken link or not a regular file, and is not used; copy the files there instead"

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Collected:
    """One set of images, not yet labelled. `finder` knows all caption files of the set."""

    kept: list[Surveyed]
    rejected: list[Rejected]
    warnings: list[str]
    finder: CaptionFinder

    def all_rejected(self) -> list[Rejected]:
        """Return the rejected images and the caption files without an image. To be called after labelling."""
        return [*self.rejected, *(Rejected(file.name, reason) for file, reason in self.finder.unused())]

    def all_warnings(self) -> list[str]:
        """Return warnings about near duplicates, and rows that match no image. To be called after labelling."""
        return [*self.warnings, *self.finder.table_warnings()]


def collect(
    sources: Sequence[str | Path], config: DataConfig, output: Path, scratch: Path, workers: Workers, series: str
) -> Generator[StageProgress, None, Collected]:
    """Collect the images of `sources`. Previews are written to `output`, with names that begin with `series`.

    Raises DatasetError for data that cannot be opened.
    """
    columns = RowColumns(config.image_column, config.caption_column, config.file_column)
    taken = take_in(sources, scratch, ArchiveLimits.of(config), workers, config.num_workers, columns)
    files, passed_over, notes = _without_outputs(taken.files)
    links, pictures, others = _sorted_by_use(files)
    pictures, controls = (
        part_control_files(pictures, config.control_column) if config.control == "files" else (pictures, None)
    )
    sorted_masks = sort_masks(pictures)
    images = sorted_masks.images
    finder = CaptionFinder(
        images, others, Columns(config.file_column, config.caption_column), config.captions_from_file_names
    )
    surveyed: list[Surveyed] = []
    rejected = [*taken.rejected, *passed_over, *(Rejected(file.name, f"{file.name}: {NO_FILE}") for file in links)]
    rejected += [Rejected(file.name, reason) for file in others if (reason := _no_use(file))]
    for number, result in enumerate(
        survey(images, decode_rules(config), output, workers, config.num_workers, series), 1
    ):
        if isinstance(result, Surveyed):
            mask = sorted_masks.masks.get(result.file.name) if config.uses_mask_files else None
            surveyed.append(replace(result, mask=mask.path if mask else None))
        else:
            rejected.append(result)
        yield StageProgress("reading the images", number, len(images))
    surveyed, without = _with_controls(surveyed, controls, finder, config)
    rejected += without
    kept, refused = _sort_out(surveyed, finder, config)
    rejected += unused_controls(controls, kept) if controls else []
    rejected += [*refused, *_unused_masks(sorted_masks, kept, config)]
    _refuse_captions(finder, images, rejected)
    notes += _mask_notes(sorted_masks, kept)
    return Collected(kept, rejected, [*notes, *near_duplicates(kept)], finder)


def _mask_notes(masks: SortedMasks, kept: Sequence[Surveyed]) -> Iterator[str]:
    """Warn of images that are named like masks."""
    trained = {item.file.name for item in kept}
    for file in masks.unpaired:
        if file.name in trained:
            yield (
                f"{file.name}: is named like a mask, but has no image with the rest of its name, so it is trained as "
                "an image. Rename it, or remove it"
            )


def _without_outputs(files: Sequence[FoundFile]) -> tuple[list[FoundFile], list[Rejected], list[str]]:
    """Return the user's own files, the rejected images in outputs of earlier trainings, and a line for each such
    output."""
    refuse_prepared_roots(files)
    outputs = earlier_outputs(files)
    kept: list[FoundFile] = []
    rejected: list[Rejected] = []
    counted: Counter[str] = Counter()
    for file in files:
        folder = output_of(file, outputs)
        if folder is None:
            kept.append(file)
            continue
        name = folder.relative_to(file.root).as_posix()
        line = f"{name}: is {outputs[folder]} and ignored; give it as separate data to use it"
        counted[line] += 1
        if is_image_name(file.path):
            rejected.append(Rejected(file.name, f"{file.name}: is in {name}, {outputs[folder]}, and ignored"))
    return kept, rejected, [f"{line} ({count} files)" for line, count in counted.items()]


def _with_controls(
    surveyed: list[Surveyed], controls: ControlFiles | None, finder: CaptionFinder, config: DataConfig
) -> tuple[list[Surveyed], list[Rejected]]:
    """Return the images with their conditioning images, and the rejected ones without."""
    if controls is None:
        return surveyed, []
    found = list(with_control_files(surveyed, controls, finder, decode_rules(config)))
    return [each for each in found if isinstance(each, Surveyed)], [
        each for each in found if isinstance(each, Rejected)
    ]


def _unused_masks(masks: SortedMasks, kept: Sequence[Surveyed], config: DataConfig) -> Iterator[Rejected]:
    """Yield the masks that are not used, with the reason. A mask is never trained as an image."""
    images = {item.file.name for item in kept}
    for image, mask in masks.masks.items():
        if not config.uses_mask_files:
            reason = f"is the mask of {image} and not used; set mask: files or auto to use it"
            yield Rejected(mask.name, f"{mask.name}: {reason}")
        elif image not in images:
            yield Rejected(mask.name, f"{mask.name}: is the mask of {image}, which is not used")
    for mask in masks.orphans:
        yield Rejected(mask.name, f"{mask.name}: is in a folder of masks, but there is no image of that name")
    for mask in masks.doubled:
        yield Rejected(mask.name, f"{mask.name}: is a second mask of the same image; keep one")


def _refuse_captions(finder: CaptionFinder, images: Sequence[FoundFile], rejected: Sequence[Rejected]) -> None:
    """Inform the finder of images that are not trained, so that it reports the correct reason for their captions."""
    by_name = {image.name: image for image in images}
    for item in rejected:
        if image := by_name.get(item.source):
            finder.refuse(image, item.reason)


def decode_rules(config: DataConfig) -> DecodeRules:
    """Return the decoding rules of the configuration."""
    return DecodeRules(config.min_image_side, config.max_image_pixels, config.transparency)


def _sorted_by_use(files: Sequence[FoundFile]) -> tuple[list[FoundFile], list[FoundFile], list[FoundFile]]:
    """Return links and other irregular files, images, and other files."""
    links: list[FoundFile] = []
    images: list[FoundFile] = []
    others: list[FoundFile] = []
    for file in files:
        (links if not file.path.is_file() else images if _is_image(file) else others).append(file)
    return links, images, others


def _is_image(file: FoundFile) -> bool:
    """Whether a file is an image by its name, else by its content: phones and scrapers omit suffixes."""
    path = file.path
    if is_image_name(path):
        return True
    known = path.name.lower() in CAPTION_TABLES or path.suffix.lower() in (*SIDECAR_SUFFIXES, JSON_SUFFIX)
    return not known and not is_archive_name(path.name) and is_image_content(path)


def _no_use(file: FoundFile) -> str | None:
    """Return the reason why a file that is neither image nor caption is unused; None where it is used."""
    name = file.path.name
    if name.lower() in (*CAPTION_TABLES, MULTIPLY_FILE) or file.path.suffix.lower() in (*SIDECAR_SUFFIXES, JSON_SUFFIX):
        return None
    if is_archive_name(name):
        return f"{name}: archives inside the data are not unpacked; unpack it first, or give it as separate data"
    if file.path.suffix.lower() in TABLE_SUFFIXES:
        return f"{name}: tables of captions must be named metadata{file.path.suffix.lower()}; rename it"
    formats = ", ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
    return f"{name}: is neither an image in a supported format ({formats}) nor a caption file"


def _sort_out(
    surveyed: list[Surveyed], finder: CaptionFinder, config: DataConfig
) -> tuple[list[Surveyed], list[Rejected]]:
    """Remove images that a filter rejects, and exact duplicates."""
    filters = [parse_filter(text) for text in config.filters]
    passed: list[Surveyed] = []
    rejected: list[Rejected] = []
    for item in surveyed:
        width, height = item.size
        metadata = {**finder.metadata(item.file), "width": width, "height": height} if filters else {}
        if reason := refused_by(filters, metadata):
            rejected.append(Rejected(item.file.name, f"{item.file.name}: {reason}"))
        else:
            passed.append(item)
    repeated = duplicates(passed) if config.duplicates == "drop" else {}
    for index, first in repeated.items():
        name, known = passed[index].file.name, passed[first].file.name
        reason = f"{name}: has the same pixels as {known}; set duplicates: keep to train both"
        rejected.append(Rejected(name, reason))
    return [item for index, item in enumerate(passed) if index not in repeated], rejected
