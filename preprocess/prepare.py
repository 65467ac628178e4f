"""From an archive or a folder to a prepared dataset: open, decode, caption, crop, write down."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from preprocess.archive import is_ignored, unpack
from preprocess.captions import (
    CAPTION_TABLES,
    SIDECAR_SUFFIXES,
    CaptionFile,
    caption_tables,
    find_caption,
    has_trigger,
    template_caption,
    with_trigger,
)
from preprocess.crop import apply_crop, centre_crop
from preprocess.dataset import Example, PreparedDataset, Rejected
from preprocess.errors import DatasetError
from preprocess.images import IMAGE_SUFFIXES, decode

MAX_ENLARGEMENT = 1.5


@dataclass(frozen=True)
class PreparationOptions:
    """What preparation needs to know. `resolution`: side of the trained square in pixels."""

    resolution: int
    concept_mode: str
    trigger_word: str
    class_word: str | None


def prepare(source: Path, options: PreparationOptions, output: Path) -> PreparedDataset:
    """Turn `source` (zip, tar or folder) into a dataset in the folder `output`.

    Raises DatasetError when no image is left to train on.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = unpack(source, Path(scratch))
        (output / "images").mkdir(parents=True, exist_ok=True)
        dataset = _prepare_folder(folder, options, output)
    dataset.write()
    if not dataset.examples:
        raise DatasetError(_nothing_left(source, dataset.rejected))
    return dataset


def _prepare_folder(folder: Path, options: PreparationOptions, output: Path) -> PreparedDataset:
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and not is_ignored(path.relative_to(folder).as_posix())
    )
    tables = caption_tables(folder)
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    examples: list[Example] = []
    rejected: list[Rejected] = []
    for index, path in enumerate(images):
        relative = path.relative_to(folder).as_posix()
        try:
            picture = decode(path)
        except DatasetError as error:
            rejected.append(Rejected(relative, str(error)))
            continue
        examples.append(_example(index, path, relative, picture, tables, options, output))
    rejected += [
        Rejected(path.relative_to(folder).as_posix(), reason) for path in files if (reason := _unused(path, images))
    ]
    warnings = _warnings(folder, examples, tables, options)
    return PreparedDataset(output, tuple(examples), tuple(rejected), tuple(warnings))


def _example(
    index: int,
    path: Path,
    relative: str,
    picture: Image.Image,
    tables: Sequence[CaptionFile],
    options: PreparationOptions,
    output: Path,
) -> Example:
    own = find_caption(path, tables)
    caption = own or template_caption(options.concept_mode, options.trigger_word, options.class_word)
    text = with_trigger(caption.text, options.trigger_word, options.class_word, options.concept_mode)
    crop = centre_crop(picture.size, (options.resolution, options.resolution))
    warnings = []
    if max(crop.resized[0] / crop.original[0], crop.resized[1] / crop.original[1]) > MAX_ENLARGEMENT:
        warnings.append(
            f"{relative}: {picture.width}×{picture.height} is enlarged more than {MAX_ENLARGEMENT} times "
            f"to reach {options.resolution}; give a larger picture or a lower resolution"
        )
    if own and not own.text:
        warnings.append(f"{relative}: its caption in {own.source} is empty; {text!r} is used")
    elif own and not has_trigger(own.text, options.trigger_word):
        warnings.append(f"{relative}: its caption in {own.source} lacks the trigger word; trained as {text!r}")
    file = f"images/{index:04d}_{path.stem}.png"
    apply_crop(picture, crop).save(output / file)
    return Example(file, relative, text, caption.source, crop, tuple(warnings))


def _unused(path: Path, images: Sequence[Path]) -> str | None:
    """Why a file that is no image has no use; None when it has one."""
    if path in images or path.name.lower() in CAPTION_TABLES:
        return None
    if path.suffix.lower() not in SIDECAR_SUFFIXES:
        return (
            f"{path.name}: not an image format that is read here "
            f"({', '.join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))}), and not a caption file"
        )
    if any(path.with_suffix("") in (image.with_suffix(""), image) for image in images):
        return None
    return f"{path.name}: a caption without its image; name it like the image that it belongs to"


def _warnings(
    folder: Path, examples: Sequence[Example], tables: Sequence[CaptionFile], options: PreparationOptions
) -> list[str]:
    warnings = [warning for example in examples for warning in example.warnings]
    for table in tables:
        used = any(example.caption_source == table.path.name for example in examples)
        if not used:
            warnings.append(
                f"{table.path.relative_to(folder).as_posix()}: none of its {len(table.rows)} rows gave a "
                "caption; the names in it must be those of the images"
            )
    templated = [example.source for example in examples if example.caption_source == "template"]
    if templated:
        template = template_caption(options.concept_mode, options.trigger_word, options.class_word).text
        warnings.append(
            f"{len(templated)} of {len(examples)} images came without a caption and are trained as "
            f"{template!r}: {', '.join(templated[:5])}{' …' if len(templated) > 5 else ''}"
        )
    if options.concept_mode == "face":
        warnings.append("faces are not searched for yet: images are cut around their centre, so crop them beforehand")
    return warnings


def _nothing_left(source: Path, rejected: Sequence[Rejected]) -> str:
    if not rejected:
        formats = ", ".join(sorted(IMAGE_SUFFIXES))
        return f"{source.name}: holds no images. Put the training pictures into it ({formats})."
    reasons = "; ".join(item.reason for item in rejected[:5])
    return f"{source.name}: no usable image among {len(rejected)} files: {reasons}"
