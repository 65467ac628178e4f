"""A prepared dataset: plain files that anyone can open.

images/00_name.png   what is trained
dataset.jsonl        one line a kept image, with every decision about it
rejected.jsonl       one line a refused file, with the reason
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from preprocess.crop import Crop


@dataclass(frozen=True)
class Example:
    """One training image. `file` is relative to the dataset folder, `source` to what the user gave."""

    file: str
    source: str
    caption: str
    caption_source: str
    crop: Crop
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rejected:
    """A file that is not trained, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class PreparedDataset:
    """Everything that was decided about the user's files. `warnings` concern no single image."""

    folder: Path
    examples: tuple[Example, ...]
    rejected: tuple[Rejected, ...]
    warnings: tuple[str, ...]

    def write(self) -> None:
        """Write dataset.jsonl and rejected.jsonl into the folder."""
        _write_lines(self.folder / "dataset.jsonl", [asdict(example) for example in self.examples])
        _write_lines(self.folder / "rejected.jsonl", [asdict(rejected) for rejected in self.rejected])

    def digest(self) -> str:
        """16 hex digits over pixels and captions: the same data give the same digits."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update((self.folder / example.file).read_bytes())
            digest.update(example.caption.encode())
        return digest.hexdigest()[:16]


def _write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
