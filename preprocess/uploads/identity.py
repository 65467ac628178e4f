"""Checks whether data are those of an earlier run, by names and digests, independent of their location."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from fetching.download import is_url
from preprocess.sources.references import is_remote
from preprocess.sources.stores import local_path
from preprocess.uploads.earlier_outputs import earlier_outputs, output_of
from preprocess.uploads.intake import files_in
from preprocess.workers.parallel import ordered_map

DIGITS = 16
SHOWN = 3


@dataclass(frozen=True)
class SourceIdentity:
    """One source. `name`: the last part of its path. `digest`: of an archive's bytes, of a URL without its query, which
    may be a signature that changes. `files`: digests by name, of a folder. A `file:` URL of one file is that file."""

    name: str
    digest: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


SOURCES = TypeAdapter(list[SourceIdentity])


def identify(sources: Sequence[str | Path], leave_out: Path) -> list[SourceIdentity]:
    """Return the identity of each source. Reads every file once. `leave_out`: the run's output folder, not data."""
    return [_identify(str(source), leave_out.resolve()) for source in sources]


def write_identities(identities: Sequence[SourceIdentity], path: Path) -> None:
    """Write them as JSON."""
    path.write_text(json.dumps([asdict(one) for one in identities], indent=1, ensure_ascii=False), encoding="utf-8")


def read_identities(path: Path) -> list[SourceIdentity] | None:
    """Read them; None if the file is missing or invalid."""
    try:
        return SOURCES.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def differences(before: Sequence[SourceIdentity], now: Sequence[SourceIdentity]) -> list[str]:
    """Return a line for each difference; [] if all is equal."""
    names = [[one.name for one in each] for each in (before, now)]
    if names[0] != names[1]:
        return [f"then {', '.join(names[0])}; now {', '.join(names[1])}"]
    return [line for then, again in zip(before, now, strict=True) for line in _of_one(then, again)]


def _identify(source: str, leave_out: Path) -> SourceIdentity:
    if (local := local_path(source)) is not None and local.exists():
        source = str(local)
    if is_url(source) or is_remote(source):
        parts = urlsplit(source)
        whole = source if source.startswith("data:") else f"{parts.scheme}://{parts.netloc}{parts.path}"
        name = "data:" if source.startswith("data:") else Path(parts.path).name or parts.netloc
        return SourceIdentity(name, hashlib.sha256(whole.encode()).hexdigest()[:DIGITS])
    path = Path(source).resolve()
    if not path.is_dir():
        return SourceIdentity(path.name, _digest(path))
    files = files_in(path)
    outputs = earlier_outputs(files)
    own = [each for each in files if output_of(each, outputs) is None and not each.path.is_relative_to(leave_out)]
    digests = ordered_map(_digest, [each.path for each in own])
    return SourceIdentity(path.name, files={each.name: digest for each, digest in zip(own, digests, strict=True)})


def _digest(path: Path) -> str:
    if not path.is_file():  # a link to nothing, or to a folder
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]


def _of_one(then: SourceIdentity, now: SourceIdentity) -> Iterator[str]:
    if then.digest != now.digest:
        yield f"{now.name}: its content has changed"
        return
    changed = {
        "gone": [name for name in then.files if name not in now.files],
        "new": [name for name in now.files if name not in then.files],
        "changed": [name for name in now.files if then.files.get(name, now.files[name]) != now.files[name]],
    }
    for what, names in changed.items():
        if names:
            more = " …" if len(names) > SHOWN else ""
            yield f"{now.name}: {len(names)} files are {what}: {', '.join(names[:SHOWN])}{more}"
