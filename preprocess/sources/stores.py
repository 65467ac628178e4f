"""Files in object stores, by fsspec: s3, gs, az, and local files as `file:` URLs, with globs and ranges in braces.

Credentials come only from the environment, where each store's own library finds them.
"""

import hashlib
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fetching.disk import is_disk_full
from preprocess.errors import DatasetError
from preprocess.sources.extra import needing_extra

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

CHUNK = 1 << 20
BLOCK = 8 << 20
"""Bytes of read-ahead of one file, which a stream keeps in memory."""
GLOB = "*?["
LONGEST = 2000
FEWER = "Select fewer, or increase max_archive_files"
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_CONNECTION_STRING",
    "abfs": "AZURE_STORAGE_CONNECTION_STRING",
}
"""Environment variables, by scheme."""
VERSIONS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated")
"""Names that stores have for a file's digest or time, in order of preference."""
STATE_DIGITS = 16
NO_CREDENTIALS = ("NoCredentialsError", "ClientAuthenticationError", "DefaultCredentialsError", "RefreshError")
"""Errors of botocore, azure and google."""


def expanded(source: str, most: int) -> list[str]:
    """Return the URLs of all matching files, in order. Raises DatasetError if there are none, or too many."""
    with needing_extra(source):
        import braceexpand

    if "::" in source or "@" in source.partition("://")[2].partition("/")[0]:
        raise DatasetError(
            "a source with :: or a password is not supported; give a plain URL, and credentials in the environment"
        )
    if len(source) > LONGEST or re.search("{[^}]*{", source):
        raise DatasetError(f"{source[:200]}: has nested braces, or is too long; write single ranges such as {{00..15}}")
    if _most_names(source) > most:
        raise DatasetError(f"{source[:200]}: its braces name more than {most:,} files. {FEWER}")
    try:
        texts = list(braceexpand.braceexpand(source))
    except ValueError as error:
        raise DatasetError(f"{source}: has an unclosed brace; write a range as {{00..15}}") from error
    # an https URL is opened within the rules of `fetching`, which fsspec does not know
    globs = not source.startswith("https://")
    found = [each for text in texts for each in (_glob(text) if globs and _has_glob(text) else [text])]
    if len(found) > most:
        raise DatasetError(f"{source}: matches more than {most:,} files. {FEWER}")
    if not found:
        raise DatasetError(f"{source}: matches no file. Check the pattern.")
    return found


@contextmanager
def opened(address: str) -> Iterator[IO[bytes]]:
    """Open the file as a stream with one block in memory. Converts all errors of the store to DatasetError."""
    with errors_of_store(address):
        store, path = _store(address)
        with store.open(path, "rb", block_size=BLOCK, cache_type="readahead") as stream:
            yield stream


def size_of(address: str) -> int:
    """Return the size in bytes. Raises DatasetError."""
    with errors_of_store(address):
        store, path = _store(address)
        return int(store.size(path))


def state_of(source: str) -> str:
    """Return a text that changes with the content of a source: the size and time of local files, the size and digest or
    time of a file in a store. "" where neither is known: of a missing file, a store that fails, an https URL, and a
    dataset of the hub."""
    path = local_path(source) or Path(source)
    if path.exists():
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        facts = [(each.relative_to(path), each.stat()) for each in found if each.is_file()]
        listed = [f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in facts]
        return hashlib.sha256("\n".join(listed).encode(errors="surrogateescape")).hexdigest()[:STATE_DIGITS]
    if not source.startswith(tuple(f"{scheme}://" for scheme in CREDENTIALS)):
        return ""
    try:
        with errors_of_store(source):
            store, inside = _store(source)
            facts_of_file = store.info(inside)
    except DatasetError:
        return ""
    known = [f"{name} {facts_of_file[name]}" for name in ("size", *VERSIONS) if facts_of_file.get(name)]
    return hashlib.sha256("\n".join(known[:2]).encode()).hexdigest()[:STATE_DIGITS]


def fetch(address: str, target: Path, max_bytes: int) -> Path:
    """Copy the file to `target`. Raises DatasetError, also where it is larger than `max_bytes`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    copied = 0
    with opened(address) as stream, target.open("wb") as sink:
        while chunk := stream.read(CHUNK):
            copied += len(chunk)
            if copied > max_bytes:
                raise DatasetError(
                    f"{address}: is larger than {max_bytes:,} bytes. Use a smaller file, or increase max_archive_bytes"
                )
            sink.write(chunk)
    return target


@contextmanager
def errors_of_store(address: str) -> Iterator[None]:
    """A context that converts errors of a store to one line with the remedy, without headers and keys."""
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:  # each store's library has its own classes
        if is_disk_full(error):  # the local disk, while data are written
            raise
        raise DatasetError(f"{address}: {_reason(address, error)}") from error


def local_path(address: str) -> Path | None:
    """Return the path of a `file:` URL; None for others."""
    return Path(address.removeprefix("file://").removeprefix("file:")) if address.startswith("file:") else None


def _reason(address: str, error: Exception) -> str:
    scheme = address.partition(":")[0]
    variables = CREDENTIALS.get(scheme, "")
    if _is_denied(scheme, error):
        remedy = f"Set credentials in the environment ({variables})" if variables else "Grant read permission"
        return f"access is denied. {remedy}"
    if isinstance(error, FileNotFoundError):
        return "does not exist. Check bucket, name and range."
    return f"cannot be read completely ({type(error).__name__}). Check that the store is available, and start again"


def _is_denied(scheme: str, error: Exception) -> bool:
    """Whether the error concerns credentials. s3fs converts the server's responses, gcsfs and adlfs do not, and adlfs
    raises ValueError for credentials that are missing or not base64."""
    if isinstance(error, PermissionError) or type(error).__name__ in NO_CREDENTIALS:
        return True
    status = getattr(error, "status_code", None) or getattr(error, "code", None)
    return str(status) in ("401", "403") or (scheme in ("az", "abfs") and isinstance(error, ValueError))


def _most_names(text: str) -> int:
    """Return an upper bound of the number of names: the library expands a whole range before it yields the first."""
    groups = [_names_in(each) for each in re.findall(r"{([^{}]*)", text)]
    return math.prod(groups)


def _names_in(group: str) -> int:
    """Return an upper bound for the content of one pair of braces: a range, or names separated by commas."""
    match = re.match(r"(-?\d+)\.\.(-?\d+)", group)
    if match:
        return abs(int(match[2]) - int(match[1])) + 1
    return group.count(",") + (60 if ".." in group else 1)  # 58 from A to z


def _glob(text: str) -> list[str]:
    with errors_of_store(text):
        store, path = _store(text)
        return sorted(store.unstrip_protocol(each) for each in store.glob(path))


def _has_glob(text: str) -> bool:
    return any(mark in text for mark in GLOB)


def _store(address: str) -> "tuple[AbstractFileSystem, str]":
    """Return the store's file system, and the path in it."""
    with needing_extra(address):
        import fsspec

        path = local_path(address)
        store, inside = fsspec.core.url_to_fs(str(path) if path is not None else address)
    return store, inside
