"""Opens untrusted zip and tar archives.

Nothing is written outside the destination, links and encrypted members are refused, and bytes are counted while they
are read, so that a small archive cannot fill the disk.
"""

import lzma
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Self

from fetching.disk import is_disk_full
from preprocess.errors import DatasetError
from settings.preparation import DataConfig

CHUNK = 1 << 20
MAKE_ANEW = "Create the archive again."
UNSUSPICIOUS_BYTES = 50 * 1024**2
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
UTF8_FLAG = 0x800
DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, RuntimeError,
    NotImplementedError, IndexError, UnicodeError,
)  # fmt: skip
"""What the modules of the standard library raise for damaged archives."""
NOT_UTF8 = re.compile("[\udc80-\udcff]")
LONGEST_HEADER = 1 << 20
EXTENDED_HEADERS = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
"""Headers of a tar with the name or attributes of the next member. tarfile reads them into memory as a whole."""
IGNORED_NAMES = {"__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class ArchiveLimits:
    """Limits of an archive: members, bytes of one file, total bytes, and content bytes per packed byte."""

    members: int = 10_000
    file_bytes: int = 200 * 1024**2
    total_bytes: int = 5 * 1024**3
    compression_ratio: float = 200.0

    @classmethod
    def of(cls, config: DataConfig) -> "ArchiveLimits":
        """Return the limits of the settings."""
        return cls(
            config.max_archive_files, config.max_file_bytes, config.max_archive_bytes, config.max_compression_ratio
        )

    def may_unpack(self, content_bytes: int, packed_bytes: int) -> bool:
        """Whether the compression ratio is plausible. Small files may have any ratio."""
        return content_bytes <= UNSUSPICIOUS_BYTES or content_bytes <= self.compression_ratio * packed_bytes


class BoundedTarInfo(tarfile.TarInfo):
    """A header of a tar, which cannot make tarfile fill the memory: few compressed bytes may declare gigabytes."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """As in TarInfo. Raises DatasetError for an extended header that is too long, and for a sparse file."""
        info = super().frombuf(buf, encoding, errors)
        if info.type in EXTENDED_HEADERS and info.size > LONGEST_HEADER:
            raise DatasetError(f"a header of {info.size:,} bytes is not a file name. {MAKE_ANEW}")
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise DatasetError(f"{info.name}: is stored as a sparse file. Create the archive without --sparse.")
        return info


@dataclass(frozen=True)
class Member:
    """A regular file of an archive.

    `packed_bytes`: its compressed size, or the size of the archive where that is compressed as a whole.
    `content_bytes`: its size as declared in the archive, which is checked again while it is read.
    """

    name: str
    packed_bytes: int
    content_bytes: int
    open: Callable[[], IO[bytes]]


def unpack(source: Path, destination: Path, limits: ArchiveLimits | None = None) -> Path:
    """Return the folder with the files of `source`: itself if it is a folder, else `destination` after unpacking.

    Raises DatasetError for anything but a zip, tar or folder, and for an archive that is damaged or exceeds a limit.
    """
    if source.is_dir():
        return source
    limits = limits or ArchiveLimits()
    with _members_of(source) as members, _named(source.name):
        _extract(members, destination, limits)
    return destination


def unpack_stream(stream: IO[bytes], name: str, packed_bytes: int, destination: Path, limits: ArchiveLimits) -> None:
    """Unpack a tar, also a compressed one, while it is read: nothing is kept but its files.

    `packed_bytes`: the size of the stream. Raises DatasetError as `unpack` does; what the stream itself raises is its
    own.
    """
    try:
        with _named(name), tarfile.open(fileobj=stream, mode="r|*", tarinfo=BoundedTarInfo) as archive:
            _extract(_tar_members(archive, packed_bytes), destination, limits)
    except (tarfile.TarError, EOFError) as error:
        raise DatasetError(f"{name}: cannot be read ({error}). {MAKE_ANEW}") from error


def require_safe(source: Path, limits: ArchiveLimits) -> None:
    """Check the declared names, kinds, number and sizes of an archive's members, without writing anything.

    Raises DatasetError as `unpack` does.
    """
    with _members_of(source) as members, _named(source.name):
        for _ in _safe_members(members, limits):
            pass


@contextmanager
def _named(archive: str) -> Iterator[None]:
    """A context that adds the archive's name to errors."""
    try:
        yield
    except DatasetError as error:
        raise DatasetError(f"{archive}: {error}") from error


@contextmanager
def _members_of(source: Path) -> Iterator[Iterator[Member | None]]:
    """Yield the members of an archive. Errors of reading are raised as DatasetError."""
    if not source.is_file():
        raise DatasetError(f"{source}: does not exist. Give a zip, a tar, or a folder of images.")
    if source.stat().st_size == 0:
        raise DatasetError(f"{source.name}: the file is empty (0 bytes). Upload it again.")
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                yield _zip_members(archive)
        elif (archive_tar := _opened_tar(source)) is not None:
            with archive_tar:
                yield _tar_members(archive_tar, source.stat().st_size)
        else:
            raise DatasetError(f"{source.name}: is neither a zip nor a tar archive. Pack the images into a .zip.")
    except DAMAGED as error:
        if is_disk_full(error):
            raise
        raise DatasetError(f"{source.name}: cannot be read ({error}). {MAKE_ANEW}") from error


def _opened_tar(source: Path) -> tarfile.TarFile | None:
    """Open a tar, also a compressed one; None for another file."""
    try:
        return tarfile.open(source, tarinfo=BoundedTarInfo)
    except tarfile.TarError:
        return None


def is_ignored(name: str) -> bool:
    """Whether a file was left by an operating system or program: resource forks, thumbnails, hidden files."""
    return any(part in IGNORED_NAMES or part.startswith(".") for part in PurePosixPath(name).parts)


def _zip_members(archive: zipfile.ZipFile) -> Iterator[Member | None]:
    """Yield each file, and None for each folder."""
    for info in archive.infolist():
        if info.is_dir():
            yield None
            continue
        if info.flag_bits & 0x1:
            raise DatasetError(f"{info.filename}: is encrypted. Create the archive without a password.")
        if (info.external_attr >> 16) & 0o170000 == 0o120000:
            raise DatasetError(f"{info.filename}: is a symbolic link. Archives may contain only files and folders.")
        yield Member(_zip_name(info), info.compress_size, info.file_size, partial(archive.open, info))


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Return the member's name. macOS writes UTF-8 without the flag, and zipfile then decodes it as code page 437."""
    if info.flag_bits & UTF8_FLAG:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def _tar_members(archive: tarfile.TarFile, packed_bytes: int) -> Iterator[Member | None]:
    """Yield each file, and None for each folder."""
    for info in archive:
        if info.isdir():
            yield None
            continue
        name = _tar_name(info.name)
        if not info.isreg():
            raise DatasetError(f"{name}: is a link or device. Archives may contain only files and folders.")
        yield Member(name, packed_bytes, info.size, partial(_content, archive, info))
    # tarfile reports no error for a header that is cut off or damaged; a complete archive ends with two zero blocks
    if archive.fileobj is None or archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise DatasetError("the tar is truncated or damaged: its end mark is missing. Create or upload it again.")


def _tar_name(name: str) -> str:
    """Return the member's name. tarfile decodes bytes that are not UTF-8 to surrogates, which cannot be written."""
    return name if NOT_UTF8.search(name) is None else os.fsencode(name).decode("cp1252", "replace")


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(info)
    assert file is not None
    return file


def _extract(members: Iterator[Member | None], destination: Path, limits: ArchiveLimits) -> None:
    total = 0
    for member, path in _safe_members(members, limits):
        target = destination / path
        target.parent.mkdir(parents=True, exist_ok=True)
        total += _copy(member, target, min(limits.file_bytes, limits.total_bytes - total), limits)


def _safe_members(members: Iterator[Member | None], limits: ArchiveLimits) -> Iterator[tuple[Member, PurePosixPath]]:
    """Yield members to unpack, with their paths below the destination. Folders (None) are counted: a small compressed
    tar may contain millions. Raises DatasetError at the first unsafe one."""
    count = total = 0
    seen: dict[str, str] = {}
    for member in members:
        count += 1
        if count > limits.members:
            raise DatasetError(f"the archive contains more than {limits.members} files (max_archive_files)")
        if member is None:
            continue
        path = safe_path(member.name)
        if is_ignored(str(path)):
            continue
        key = str(path).casefold()
        if key in seen:
            raise DatasetError(
                f"{member.name}: the archive contains this name twice (also as {seen[key]}). Rename one."
            )
        seen[key] = member.name
        _require_size(member, member.content_bytes, min(limits.file_bytes, limits.total_bytes - total), limits)
        total += member.content_bytes
        yield member, path
    if not seen:
        raise DatasetError("the archive is empty. Put the training images into it.")


def safe_path(name: str) -> PurePosixPath:
    """Return a member's name as a path below the destination.

    Raises DatasetError for absolute names, drive letters, and names with `..`.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or (path.parts and path.parts[0].endswith(":")):
        raise DatasetError(
            f"{name!r}: is an absolute path or contains .. in the archive. Pack the images with relative names."
        )
    if not path.parts:
        raise DatasetError(f"{name!r}: is an empty name in the archive")
    return path


def is_tar_name(name: str) -> bool:
    """Whether a file name has the suffix of a tar, which can be read as a stream."""
    return is_archive_name(name) and not name.lower().endswith(".zip")


def is_archive_name(name: str) -> bool:
    """Whether a file name has the suffix of an archive."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def _copy(member: Member, target: Path, limit: int, limits: ArchiveLimits) -> int:
    copied = 0
    with closing(member.open()) as source, target.open("wb") as sink:
        while chunk := source.read(CHUNK):
            copied += len(chunk)
            _require_size(member, copied, limit, limits)
            sink.write(chunk)
    return copied


def _require_size(member: Member, content_bytes: int, limit: int, limits: ArchiveLimits) -> None:
    """Raises DatasetError where `content_bytes` exceeds the limits for the member."""
    if content_bytes > limit:
        raise DatasetError(f"{member.name}: is larger than the {limit:,} bytes that are allowed for it")
    if not limits.may_unpack(content_bytes, member.packed_bytes):
        raise DatasetError(
            f"{member.name}: {member.packed_bytes:,} packed bytes unpack to {content_bytes:,} or more, as in an "
            "archive bomb. If it is intended, increase max_compression_ratio."
        )
