"""One ugly upload, and its expected result."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.preprocess.uploads.ugly_uploads.making import Files, shard, zipped


@dataclass(frozen=True)
class Case:
    """An upload. `kept`: how many images are trained; 0: an error. `says`: text in a warning, a refusal or the error.

    `captions`: of the kept images, in order. `sizes`: trained sizes (width, height). `packed_as`: folder, or the
    suffix of an archive, which is made of the files if its bytes are not given in `archive`. `links`: paths of links
    in the folder, with their targets. `silent`: no file is refused, and there is no warning except for missing
    captions and for folders that are trained as one concept.
    """

    name: str
    files: Files
    kept: int
    says: str = ""
    captions: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    packed_as: str = "folder"
    archive: bytes = b""
    links: Mapping[str, str] = field(default_factory=dict)
    silent: bool = False


def pack(case: Case, folder: Path) -> Path:
    """Write the upload of the case into `folder`, and return its path."""
    if case.packed_as == "folder":
        target = folder / "upload"
        target.mkdir()
        for name, data in case.files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(data)
        for name, aim in case.links.items():
            (target / name).symlink_to(aim)
        return target
    path = folder / f"upload.{case.packed_as}"
    compression = zipfile.ZIP_DEFLATED if case.packed_as == "deflated" else zipfile.ZIP_STORED
    made = shard(case.files) if case.packed_as == "tar" else zipped(case.files, compression)
    path.write_bytes(case.archive or made)
    return path
