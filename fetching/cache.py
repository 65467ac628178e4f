"""A cache of downloaded files: limited in size, checked by digest, least recently used files removed first."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fetching.download import Download
from fetching.errors import DownloadError

FOLDER_VARIABLE, BYTES_VARIABLE = "WEIGHTS_CACHE", "WEIGHTS_CACHE_BYTES"
DEFAULT_FOLDER = "~/.cache/lora-trainer/weights"
DEFAULT_BYTES = 20 * 1024**3
RECORD = "entry.json"
UNFINISHED = ".unfinished-"
"""Beginning of the name of the folder into which an entry is downloaded, before the name of the entry."""

Fetch = Callable[[Path], Download]
"""Downloads into a file inside the given folder."""


@dataclass(frozen=True)
class DownloadCache:
    """A cache folder with a subfolder per entry, which processes may share. `max_bytes`: total size of all files."""

    folder: Path
    max_bytes: int

    @classmethod
    def from_environment(cls) -> "DownloadCache":
        """Read WEIGHTS_CACHE (a folder) and WEIGHTS_CACHE_BYTES (0 keeps nothing). Raises DownloadError."""
        text = os.environ.get(BYTES_VARIABLE) or str(DEFAULT_BYTES)
        if not text.isdigit():
            raise DownloadError(f"{BYTES_VARIABLE}: {text!r} is not a number of bytes")
        return cls(Path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER).expanduser(), int(text))

    @contextlib.contextmanager
    def using(self, key: str, fetch: Fetch) -> Iterator[Path]:
        """Yield the cached file of `key`, fetched first if it is missing or altered. It is not removed inside this
        context.

        Contexts of the same key wait for each other, also across processes. Raises what `fetch` raises, without keeping
        anything, and DownloadError for a folder that cannot be written.
        """
        entry = self.folder / hashlib.sha256(key.encode()).hexdigest()[:32]  # a key may contain a secret
        with contextlib.ExitStack() as stack:
            with self._errors():
                entry.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(_locked(entry, fcntl.LOCK_EX))
                path = _intact(entry)
                if path is None:
                    shutil.rmtree(entry, ignore_errors=True)
                    path = _fill(entry, fetch)
                os.utime(entry)
                self._make_room()
            yield path
        self._make_room()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """A context that converts errors of the file system, such as a full disk, to DownloadError with the remedy."""
        try:
            yield
        except OSError as error:
            raise DownloadError(
                f"{self.folder}: downloads cannot be kept there ({error.strerror or error}). Free some space, or set "
                f"{FOLDER_VARIABLE} to another folder"
            ) from error

    def _make_room(self) -> None:
        """Remove downloads of killed processes, then entries, least recently used first, until the limit holds. Those
        in use are skipped."""
        for path in self.folder.glob(f"{UNFINISHED}*"):
            _remove_unused(path, self.folder / path.name.removeprefix(UNFINISHED))
        entries = [path for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        sizes: dict[Path, tuple[float, int]] = {}
        for path in entries:
            with contextlib.suppress(OSError):  # removed by another process
                sizes[path] = path.stat().st_mtime, sum(file.stat().st_size for file in path.iterdir())
        total = sum(size for _, size in sizes.values())
        for path in sorted(sizes, key=lambda path: sizes[path][0]):
            if total <= self.max_bytes:
                return
            if _remove_unused(path, path):
                total -= sizes[path][1]


@contextlib.contextmanager
def _locked(entry: Path, kind: int) -> Iterator[None]:
    """Lock an entry, by a file that outlives it. Raises BlockingIOError for LOCK_NB when the lock is held."""
    handle = os.open(entry.with_name(f".{entry.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, kind)
        yield
    finally:
        os.close(handle)


def _remove_unused(folder: Path, entry: Path) -> bool:
    """Remove the folder, unless a process uses the entry. Returns whether it was removed."""
    with contextlib.suppress(BlockingIOError), _locked(entry, fcntl.LOCK_EX | fcntl.LOCK_NB):
        shutil.rmtree(folder, ignore_errors=True)
        return True
    return False


def _fill(entry: Path, fetch: Fetch) -> Path:
    """Fetch into another folder and rename it, so that an entry is never incomplete. The entry must be locked."""
    unfinished = entry.with_name(UNFINISHED + entry.name)
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    unfinished.mkdir(mode=0o700)
    try:
        downloaded = fetch(unfinished)
        name = downloaded.file_name if downloaded.file_name not in ("", RECORD) else "weights.safetensors"
        os.replace(downloaded.path, unfinished / name)
        record = {"file": name, "sha256": downloaded.sha256}
        (unfinished / RECORD).write_text(json.dumps(record), encoding="utf-8")
        os.replace(unfinished, entry)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return entry / name


def _intact(entry: Path) -> Path | None:
    """Return the entry's file, None when it is missing or altered."""
    try:
        record = json.loads((entry / RECORD).read_text(encoding="utf-8"))
        path = entry / Path(record["file"]).name
        return path if sha256(path) == record["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def sha256(path: Path) -> str:
    """Return the file's digest in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
