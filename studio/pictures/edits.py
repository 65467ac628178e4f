"""Edits of a prepared dataset: captions, and images that are left out. They are saved immediately."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from preprocess.captions.trigger import has_trigger, with_affixes
from preprocess.dataset import Example, PreparedDataset
from preprocess.errors import DatasetError
from preprocess.gallery.page import write_gallery

LEFT_OUT_FILE = "left_out.json"
EDITED = "edited"
LONGEST_CAPTION = 4000
EXAMPLES = TypeAdapter(list[Example])


@dataclass(frozen=True)
class EditedSet:
    """A dataset, and the images that the user has left out of the training."""

    dataset: PreparedDataset
    left_out: tuple[Example, ...]

    @classmethod
    def read(cls, folder: Path) -> "EditedSet":
        """Read the dataset in `folder`. Raises DatasetError."""
        file = folder / LEFT_OUT_FILE
        left_out = EXAMPLES.validate_json(file.read_bytes()) if file.is_file() else []
        return cls(PreparedDataset.read(folder), tuple(left_out))

    def write(self) -> None:
        """Write the dataset and its gallery."""
        self.dataset.write()
        (self.dataset.folder / LEFT_OUT_FILE).write_bytes(EXAMPLES.dump_json(list(self.left_out)))
        write_gallery(self.dataset)

    def find(self, source: str) -> Example:
        """Return the image with that name, even if it is left out. Raises DatasetError."""
        for example in (*self.dataset.examples, *self.left_out):
            if example.source == source:
                return example
        raise DatasetError(f"{source[:100]}: is not an image of this set")

    def with_caption(self, source: str, caption: str) -> "EditedSet":
        """Return the set with another caption of one image. Raises DatasetError."""
        self.find(source)
        return self._captioned(lambda example, old: caption if example.source == source else old, first_only=True)

    def replaced(self, find: str, replacement: str) -> "EditedSet":
        """Return the set with `find`, a plain text, replaced in all captions. Raises DatasetError."""
        if not find:
            raise DatasetError("find: is empty; enter the text to be replaced")
        return self._captioned(lambda _, caption: caption.replace(find, replacement))

    def prepended(self, text: str) -> "EditedSet":
        """Return the set with `text` before all captions, followed by a comma if it does not end with punctuation.
        Raises DatasetError."""
        if not text.strip():
            raise DatasetError("prepend: is empty; enter the text to be prepended")
        return self._captioned(lambda _, caption: with_affixes(caption, text, ""))

    def leaving_out(self, source: str, out: bool) -> "EditedSet":
        """Return the set without an image, or with it again. Raises DatasetError if no image would be left."""
        self.find(source)
        kept = [one for one in self.dataset.examples if one.source != source]
        left_out = [one for one in self.left_out if one.source != source]
        if out:
            left_out += self.all_of(source)
        else:
            kept += self.all_of(source)
            kept.sort(key=lambda one: one.views[0].file)
        if not kept:
            raise DatasetError(f"{source}: the last image cannot be left out")
        return EditedSet(replace(self.dataset, examples=tuple(kept)), tuple(left_out))

    def all_of(self, source: str) -> list[Example]:
        """Return the examples of an image: one for each of its resolutions."""
        return [example for example in self._all if example.source == source]

    def changed_by(self, source: str, change: Callable[[Example], Example]) -> "EditedSet":
        """Return the set with changed examples of one image."""

        def changed(example: Example) -> Example:
            return change(example) if example.source == source else example

        return self._each(changed)

    def captioned(self, captions: Mapping[str, str], by: str) -> "EditedSet":
        """Return the set with new captions, by the images' names, which replace all captions of an image. `by`: their
        source. Raises DatasetError."""

        def captioned(example: Example) -> Example:
            if example.source not in captions:
                return example
            caption = _checked(example, captions[example.source])
            return replace(example, caption=caption, other_captions=(), caption_source=by)

        return self._each(captioned)

    def changed(self, before: "EditedSet") -> int:
        """Return the number of images whose captions differ."""
        pairs = zip(self._all, before._all, strict=True)
        return len({one.source for one, other in pairs if one.captions != other.captions})

    @property
    def _all(self) -> tuple[Example, ...]:
        return (*self.dataset.examples, *self.left_out)

    def _captioned(self, edit: Callable[[Example, str], str], *, first_only: bool = False) -> "EditedSet":
        def edited(example: Example) -> Example:
            caption = _checked(example, edit(example, example.caption))
            others = example.other_captions
            if not first_only:
                others = tuple(_checked(example, edit(example, other)) for other in others)
            if (caption, others) == (example.caption, example.other_captions):
                return example
            return replace(example, caption=caption, other_captions=others, caption_source=EDITED)

        return self._each(edited)

    def _each(self, change: Callable[[Example], Example]) -> "EditedSet":
        examples = tuple(map(change, self.dataset.examples))
        return EditedSet(replace(self.dataset, examples=examples), tuple(map(change, self.left_out)))


def _checked(example: Example, caption: str) -> str:
    """Return the caption on one line. Raises DatasetError for one that train.py would reject."""
    caption = " ".join(caption.split())
    if len(caption) > LONGEST_CAPTION:
        raise DatasetError(f"{example.source}: a caption has at most {LONGEST_CAPTION:,} characters")
    if example.concept and not has_trigger(caption, example.concept):
        raise DatasetError(f"{example.source}: the caption must contain the trigger word {example.concept}")
    return caption
