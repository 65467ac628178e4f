"""Finds the caption that belongs to each image: by its name, never by its position.

Order of precedence:
1. metadata.jsonl, metadata.csv (Hugging Face's imagefolder)
2. a text file beside the image: name.txt, name.caption
3. caption.csv, captions.csv, with or without header
4. captions.json, or name.json beside the image (webdataset)
5. the file name up to its first _ (EveryDream)
6. the name of the folder, "10_a photo of a dog" (kohya)

An image with none of these is captioned by the captioner, or gets a template.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from preprocess.captions.columns import Columns, captions_in, texts_of
from preprocess.captions.file_names import file_name_caption
from preprocess.captions.json_text import parse_json
from preprocess.captions.tables import (
    CAPTION_TABLES,
    CSV_TABLES,
    JSON_TABLES,
    METADATA_TABLES,
    CaptionTable,
    Row,
    read_table,
)
from preprocess.name_lists import first_names
from preprocess.uploads.folder_rules import folder_caption
from preprocess.uploads.intake import FoundFile
from preprocess.uploads.text_files import name_key, one_line, read_text

SIDECAR_SUFFIXES = (".txt", ".caption")
JSON_SUFFIX = ".json"


@dataclass(frozen=True)
class Caption:
    """A caption and its source: the name of a file, "file name", "folder name", a captioner or "template".

    `others`: further captions of the same image. One of all captions is drawn at random each time.
    """

    text: str
    source: str
    others: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """All captions, beginning with `text`."""
        return (self.text, *self.others)

    @classmethod
    def of(cls, texts: Sequence[str], source: str) -> "Caption":
        """Build a caption from any number of texts; without texts it is empty."""
        return cls(texts[0], source, tuple(texts[1:])) if texts else cls("", source)


@dataclass
class CaptionFinder:
    """All caption files of the data. Records which of them are used."""

    images: Sequence[FoundFile]
    others: Sequence[FoundFile]
    columns: Columns = field(default_factory=Columns)
    from_file_names: bool | None = None

    def __post_init__(self) -> None:
        self._others = {name_key(str(file.path)): file for file in self.others}
        self._exact = {file.path: file for file in self.others}  # names may differ only in case
        self._tables = [
            (file, read_table(file.path, self.columns))
            for file in self.others
            if file.path.name.lower() in CAPTION_TABLES
        ]
        self._used_files: set[str] = set()
        self._used_rows: set[tuple[str, str]] = set()
        self._stems = Counter(self._bare_keys())
        self._refused: dict[str, str] = {}
        self._of_refused: dict[str, str] = {}
        self._refused_rows: dict[tuple[str, str], str] = {}

    def find(self, image: FoundFile) -> tuple[Caption | None, list[str]]:
        """Return the caption of an image, None without one, and warnings about empty captions that were skipped."""
        warnings = []
        chosen: Caption | None = None
        for caption in self._all(image):
            if chosen is None and caption.text:
                chosen = caption
            elif chosen is None:
                warnings.append(f"{image.name}: its caption in {caption.source} is empty")
        return chosen, warnings

    def metadata(self, image: FoundFile) -> dict[str, Any]:
        """Return the merged metadata of an image from tables and its JSON file."""
        merged: dict[str, Any] = dict(self._sidecar_record(image))
        for _, _, row in self._rows(image, CAPTION_TABLES):
            merged = {**merged, **row.metadata}
        return merged

    def refuse(self, image: FoundFile, reason: str) -> None:
        """Mark an image as not trained, so that its captions are reported with `reason` and not as captions without an
        image."""
        self._refused[name_key(image.name)] = reason
        beside = [self._beside(image, suffix) for suffix in (*SIDECAR_SUFFIXES, JSON_SUFFIX)]
        self._of_refused |= {file.name: image.name for file in beside if file}
        self._refused_rows |= {(file.name, key): image.name for file, key, _ in self._rows(image, CAPTION_TABLES)}

    def unused(self) -> Iterator[tuple[FoundFile, str]]:
        """Yield caption files whose image is missing or not trained, with the reason."""
        for file in self.others:
            name = file.path.name
            if name.lower() in CAPTION_TABLES or file.name in self._used_files:
                continue
            if image := self._of_refused.get(file.name):
                yield file, f"{name}: its image is not used: {self._refused[name_key(image)]}"
            elif file.path.suffix.lower() in (*SIDECAR_SUFFIXES, JSON_SUFFIX) and name.lower() != "multiply.txt":
                yield file, f"{name}: is a caption without an image; give it the name of its image"

    def table_warnings(self) -> Iterator[str]:
        """Warn of rows that match no trained image: a misspelt name loses its caption."""
        for file, table in self._tables:
            unnamed = [key for key in table.rows if (file.name, key) not in self._used_rows]
            refused = [key for key in unnamed if (file.name, key) in self._refused_rows]
            if refused:
                reasons = [self._refused[name_key(self._refused_rows[file.name, key])] for key in refused]
                shown = first_names(reasons, "; ")
                yield f"{file.name}: the images of {len(refused)} of its {len(table.rows)} rows are not used: {shown}"
            lost = [table.rows[key].file for key in unnamed if key not in refused]
            if lost and len(lost) == len(table.rows):
                yield (
                    f"{file.name}: none of its {len(lost)} rows matches an image (the first is {lost[0]!r}); correct "
                    "the file names in it"
                )
            elif lost:
                named = first_names(lost)
                yield f"{file.name}: {len(lost)} of its {len(table.rows)} rows match no image that is used: {named}"

    def _all(self, image: FoundFile) -> Iterator[Caption]:
        """Yield every caption of the image, in order of precedence."""
        yield from self._table_captions(image, METADATA_TABLES)
        yield from self._sidecars(image)
        yield from self._table_captions(image, CSV_TABLES)
        yield from self._table_captions(image, JSON_TABLES)
        yield from self._sidecar_json(image)
        if text := file_name_caption(image.path, self.from_file_names):
            yield Caption(text, "file name")
        if text := folder_caption(image):
            yield Caption(text, "folder name")

    def _table_captions(self, image: FoundFile, names: Sequence[str]) -> Iterator[Caption]:
        for file, key, row in self._rows(image, names):
            self._used_rows.add((file.name, key))
            if row.captions is not None:
                yield Caption.of(row.captions, file.path.name)

    def _rows(self, image: FoundFile, names: Sequence[str]) -> Iterator[tuple[FoundFile, str, Row]]:
        for wanted in names:
            for file, table in self._tables:
                if file.path.name.lower() == wanted and (key := self._row_key(image, file, table)) is not None:
                    yield file, key, table.rows[key]

    def _row_key(self, image: FoundFile, file: FoundFile, table: CaptionTable) -> str | None:
        """Return the key of the row for this image: its path relative to the table, or its file name where that is
        unique."""
        folder = file.path.parent
        if not image.path.is_relative_to(folder):
            return None
        relative = image.path.relative_to(folder)
        candidates = [relative.as_posix(), relative.with_suffix("").as_posix()]
        for bare in (image.path.name, image.path.stem):
            if self._stems[(str(folder), name_key(bare))] == 1:
                candidates.append(bare)
        return next((key for name in candidates if (key := name_key(name)) in table.rows), None)

    def _bare_keys(self) -> Iterator[tuple[str, str]]:
        """Yield (folder of a table, file name) for every image below that table."""
        for file in self.others:
            if file.path.name.lower() in CAPTION_TABLES:
                folder = file.path.parent
                for image in self.images:
                    if image.path.is_relative_to(folder):
                        yield from {(str(folder), name_key(image.path.name)), (str(folder), name_key(image.path.stem))}

    def _sidecars(self, image: FoundFile) -> Iterator[Caption]:
        for suffix in SIDECAR_SUFFIXES:
            if file := self._beside(image, suffix):
                self._used_files.add(file.name)
                yield Caption.of(captions_of_lines(read_text(file.path)), file.path.name)

    def _sidecar_json(self, image: FoundFile) -> Iterator[Caption]:
        """Yield the captions of the JSON file beside the image: an object's caption, or a text or list of texts."""
        if (file := self._beside(image, JSON_SUFFIX)) is None:
            return
        self._used_files.add(file.name)
        content = parse_json(read_text(file.path), file.name)
        is_record = isinstance(content, dict)
        captions = captions_in(content, self.columns, file.name) if is_record else texts_of(content, file.name)
        if captions is not None:
            yield Caption.of(captions, file.path.name)

    def _sidecar_record(self, image: FoundFile) -> Mapping[str, Any]:
        file = self._beside(image, JSON_SUFFIX)
        if file:
            self._used_files.add(file.name)
        record = parse_json(read_text(file.path), file.name) if file else {}
        return record if isinstance(record, dict) else {}

    def _beside(self, image: FoundFile, suffix: str) -> FoundFile | None:
        """Return the file beside the image with `suffix` in place of its own suffix, or appended to it."""
        for path in (image.path.with_suffix(suffix), image.path.with_name(image.path.name + suffix)):
            file = self._exact.get(path) or self._others.get(name_key(str(path)))
            if file and file.path.name.lower() not in CAPTION_TABLES:
                return file
        return None


def captions_of_lines(text: str) -> tuple[str, ...]:
    """Return one caption per line, as kohya and OneTrainer do, without blank and repeated lines."""
    return tuple(dict.fromkeys(line for each in text.splitlines() if (line := one_line(each))))
