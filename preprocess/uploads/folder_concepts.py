"""Detects folders that look like separate concepts, where the configuration names none."""

import re
from collections.abc import Iterator, Sequence

from preprocess.uploads.intake import FoundFile
from settings.preparation import DataConfig

REPEATS = re.compile(r"\d+_")
MOST_SHOWN = 3
SHARD = ".tar"
"""Images of shards are named by the shard. Shards divide a dataset by size alone, so they are not concepts."""


def folder_warning(images: Sequence[FoundFile], config: DataConfig) -> Iterator[str]:
    """Warn that images in several folders are one concept, with the YAML that makes a concept of each folder."""
    folders = _folders(images)
    if config.concepts or len(folders) < 2 or any(folder.endswith(SHARD) for folder in folders):
        return
    lines = [f"{{trigger_word: {word}, folder: {_quoted(folder)}}}" for folder, word in _triggers(folders)]
    shown = ", ".join(lines[:MOST_SHOWN]) + (", …" if len(lines) > MOST_SHOWN else "")
    called = f", {config.trigger_word}" if config.trigger_word else ""
    yield (
        f"the images of {len(folders)} folders are trained as one concept{called}; to make each folder "
        f"a concept of its own, put this into the configuration: concepts: [{shown}]"
    )


def _folders(images: Sequence[FoundFile]) -> list[str]:
    """Return the folders below the common parent of all images; [] when images lie beside them."""
    parents = [image.name.split("/")[:-1] for image in images]
    if not parents:
        return []
    common = 0
    while all(len(parts) > common and parts[: common + 1] == parents[0][: common + 1] for parts in parents):
        common += 1
    if any(len(parts) == common for parts in parents):  # images beside the folders: the folders are no concepts
        return []
    return list(dict.fromkeys(parts[common] for parts in parents))


def _triggers(folders: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each folder with a unique trigger word."""
    taken: set[str] = set()
    for folder in folders:
        words = re.findall(r"\w+", REPEATS.sub("", folder, count=1)) or ["CONCEPT"]
        word = words[0].upper()
        taken_before = sum(each.startswith(word) for each in taken)
        trigger = f"{word}{taken_before + 1}" if word in taken else word
        taken.add(trigger)
        yield folder, trigger


def _quoted(folder: str) -> str:
    return folder if re.fullmatch(r"[A-Za-z][\w-]*", folder) else "'" + folder.replace("'", "''") + "'"
