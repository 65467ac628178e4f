"""A base model kept in this process's memory, which the first matching training uses instead of loading it again.

A process that keeps it is forked for each training (`service.processes.base_keeper`): the child shares its memory until
it writes to it, and its changes do not affect the parent.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from families.family import ModelFamily
from families.loading.opening import LoadingOptions
from families.loading.sources import BaseModelSource, index_file

Stamp = tuple[tuple[str, int, int], ...]
"""Path, size in bytes, and time of change in nanoseconds of each file."""


@dataclass
class KeptBase:
    """Keeps at most one base model. `out_of_date`: whether its files had changed when it was requested."""

    out_of_date: bool = False
    _found: tuple[BaseModelSource, LoadingOptions, Stamp, ModelFamily] | None = None

    @property
    def family(self) -> ModelFamily | None:
        """The kept base."""
        return None if self._found is None else self._found[3]

    def keep(self, source: BaseModelSource, options: LoadingOptions, stamp: Stamp, family: ModelFamily) -> None:
        """Keep a base and release the previous one. `stamp`: that of its files before they were read."""
        self._found, self.out_of_date = (source, options, stamp, family), False

    def take(self, source: BaseModelSource, options: LoadingOptions) -> ModelFamily | None:
        """Return the kept base if it is the requested one, and release it, because the caller will change it; None for
        another base, other options, and if its files have changed. Raises BaseModelError as `stamp_of`."""
        if self._found is None or self._found[:2] != (source, options):
            return None
        _, _, stamp, family = self._found
        self._found = None
        self.out_of_date = stamp_of(source) != stamp
        return None if self.out_of_date else family


KEPT = KeptBase()
"""The kept base of this process."""


def stamp_of(source: BaseModelSource) -> Stamp:
    """The files of a base; of a hub model its index, whose path names the commit. Raises BaseModelError if it cannot be
    found."""
    return tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in _files(source))


def _files(source: BaseModelSource) -> Iterator[Path]:
    if source.kind == "hub":
        yield index_file(source)
    elif source.kind == "file":
        yield Path(source.location)
    else:
        yield from sorted(path for path in Path(source.location).rglob("*") if path.is_file())
