"""Detects folders in the data that a training wrote: its crops, previews and samples are not the user's images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from preprocess.errors import DatasetError
from preprocess.uploads.intake import FoundFile

PREPARED = {"dataset.jsonl", "rejected.jsonl"}
FEATURES = {"features.json", "00000.json"}
MARKS = {"dataset.jsonl", "features.json"}
RUN = ({"config.yaml", "metrics.jsonl"}, {"config.yaml", "report.json"}, {"metrics.jsonl", "weights.safetensors"})
SAMPLE_FOLDERS = {"sample", "samples", "validation"}
WEIGHTS = (".safetensors", ".ckpt")


def earlier_outputs(files: Sequence[FoundFile]) -> dict[Path, str]:
    """Return such folders with a description of each, except the root of the data, which the user chose."""
    roots = {file.root for file in files}
    return {folder: what for folder, what in _described(files).items() if folder not in roots}


def refuse_prepared_roots(files: Sequence[FoundFile]) -> None:
    """Raises DatasetError if a root of the data is a prepared dataset or shards of features. Alone, such a folder is
    trained without preparation; in an archive or with other data its crops and previews would be read as images,
    without their captions."""
    marks = [file for file in files if file.path.name in MARKS and file.path.parent == file.root]
    found = _described(files) if marks else {}
    for file in marks:
        if file.root in found:
            raise DatasetError(
                f"{file.name}: belongs to {found[file.root]}, which cannot be prepared again. Give that folder alone "
                "and unpacked, or give the original images"
            )


def _described(files: Sequence[FoundFile]) -> dict[Path, str]:
    names: dict[Path, set[str]] = {}
    for file in files:
        names.setdefault(file.path.parent, set()).add(file.path.name.lower())
    found: dict[Path, str] = {}
    for folder, inside in names.items():
        if any(marks <= inside for marks in RUN):
            found[folder] = "the output of a training"
        elif inside >= PREPARED:
            found[folder] = "a prepared dataset"
        elif inside >= FEATURES:
            found[folder] = "shards of features"
        if any(name.endswith(WEIGHTS) for name in inside):
            found |= {
                other: "the samples of a training"
                for other in names
                if other.parent == folder and other.name.lower() in SAMPLE_FOLDERS
            }
    return found


def output_of(file: FoundFile, outputs: Mapping[Path, str]) -> Path | None:
    """Return the outermost of the `outputs` folders that contains the file."""
    inside = [folder for folder in outputs if file.path.is_relative_to(folder)]
    return min(inside, key=lambda folder: len(folder.parts), default=None)
