"""The studio's folder: all files that the page writes."""

import re
from dataclasses import dataclass
from pathlib import Path

from preprocess.dataset import is_prepared
from settings.record import ConfigError

LONGEST_NAME = 60


@dataclass(frozen=True)
class Workspace:
    """Paths below the absolute folder `root`."""

    root: Path

    @property
    def uploads(self) -> Path:
        """The uploaded files, one folder for each set of images."""
        return self.root / "uploads"

    @property
    def pictures(self) -> Path:
        """The prepared sets of images: one output folder each, whose `dataset` train.py opens."""
        return self.root / "pictures"

    @property
    def runs(self) -> Path:
        """The output folders of trainings."""
        return self.root / "runs"

    @property
    def queue(self) -> Path:
        """The jobs."""
        return self.root / "queue"

    @property
    def images(self) -> Path:
        """The images generated in Try."""
        return self.root / "images"

    @property
    def cache(self) -> Path:
        """Gradio's own copies of uploads and shown files."""
        return self.root / ".cache"

    def picture_sets(self) -> list[str]:
        """Return the names of the prepared sets, the newest first."""
        if not self.pictures.is_dir():
            return []
        found = [path for path in self.pictures.iterdir() if is_prepared(path / "dataset")]
        return [path.name for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]

    def picture_set(self, name: str) -> Path:
        """Return the folder of a prepared set. Raises ConfigError for an unknown name."""
        return inside(self.pictures, name)


def inside(folder: Path, name: str) -> Path:
    """Return `folder / name`. Raises ConfigError unless `name` is one plain name: names come from the browser."""
    if not name or name.startswith(".") or Path(name).name != name:
        raise ConfigError(f"name: {name[:LONGEST_NAME]!r} is not a valid name; select one from the list")
    return folder / name


def free_folder(parent: Path, name: str) -> Path:
    """Return the first free folder among `name` and the same with -2, -3 … appended. Other characters than letters,
    digits, dash and underscore become dashes."""
    plain = re.sub(r"[^\w-]+", "-", name).strip("-_")[:LONGEST_NAME] or "pictures"
    candidates = (parent / (plain if number == 1 else f"{plain}-{number}") for number in range(1, 100_000))
    return next(path for path in candidates if not path.exists())
