"""Reads the tar of Replicate's SDXL trainer (cog-sdxl): `lora.safetensors`, `embeddings.pti`, `special_params.json`.

Members are never extracted to the paths in the tar, and only regular files with these three names are read.
`embeddings.pti` is a safetensors file in spite of its suffix.
"""

import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from torch import Tensor

from artifact.errors import ArtifactError
from artifact.safetensors_file import HeaderAndTensors, read_safetensors
from artifact.words import Words

LORA, EMBEDDINGS, SPECIAL_PARAMS = "lora.safetensors", "embeddings.pti", "special_params.json"
FULL_TUNING = "unet.safetensors"
MAX_MEMBERS = 10_000
MAX_JSON_BYTES = 1 << 20
ENCODERS = {"text_encoders_0": "clip_l", "text_encoders_1": "clip_g"}
PLACEHOLDER = re.compile(r"<s(\d+)>")


def is_tar(path: Path) -> bool:
    """Whether the file is an uncompressed tar, by its first block."""
    try:
        with path.open("rb") as file:
            return file.read(tarfile.BLOCKSIZE)[257:262] == b"ustar"
    except OSError:
        return False


def read_cog_sdxl(path: Path) -> tuple[HeaderAndTensors, Words]:
    """Read the LoRA's tensors and the trigger words. Raises ArtifactError for any other or a damaged tar."""
    with tempfile.TemporaryDirectory() as folder:
        found = _copy_members(path, Path(folder))
        if LORA not in found:
            hint = " It is a full fine-tune." if FULL_TUNING in found else ""
            raise ArtifactError(
                f"{path.name}: the tar does not contain {LORA}.{hint} Give a LoRA file, or the tar of a LoRA that "
                "cog-sdxl wrote."
            )
        lora = read_safetensors(found[LORA], f"{path.name}: {LORA}")
        if (EMBEDDINGS in found) != (SPECIAL_PARAMS in found):
            raise ArtifactError(
                f"{path.name}: the tar contains only one of {EMBEDDINGS} and {SPECIAL_PARAMS}; trigger words need both"
            )
        if EMBEDDINGS not in found:
            return lora, {}
        rows = read_safetensors(found[EMBEDDINGS], f"{path.name}: {EMBEDDINGS}").tensors
        return lora, _words(rows, _read_triggers(found[SPECIAL_PARAMS], path.name), path.name)


def _copy_members(path: Path, folder: Path) -> dict[str, Path]:
    """Copy the three files to `folder`, and return their paths by name. No copy is larger than the tar."""
    found: dict[str, Path] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for count, member in enumerate(tar):
                if count >= MAX_MEMBERS:
                    raise ArtifactError(f"{path.name}: the tar contains more than {MAX_MEMBERS:,} files")
                name = PurePosixPath(member.name).name
                if name not in (LORA, EMBEDDINGS, SPECIAL_PARAMS, FULL_TUNING):
                    continue
                if name in found or not member.isreg() or member.issparse():
                    raise ArtifactError(f"{path.name}: {member.name} occurs twice, or is not a regular file")
                if member.offset_data + member.size > path.stat().st_size:
                    raise ArtifactError(
                        f"{path.name}: {member.name} is truncated: the tar is incomplete. Download or copy it again."
                    )
                found[name] = folder / name
                content = tar.extractfile(member)
                assert content is not None
                if name != FULL_TUNING:
                    with content, found[name].open("wb") as target:
                        shutil.copyfileobj(content, target)
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{path.name}: the tar cannot be read ({error})") from error
    return found


def _read_triggers(path: Path, file: str) -> dict[str, list[int]]:
    """Return the row numbers of each word: {"TOK": "<s0><s1>"} means rows 0 and 1. Raises ArtifactError for other
    content."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"larger than {MAX_JSON_BYTES:,} bytes")
        triggers = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(triggers, dict) or not triggers:
            raise ValueError("it does not contain trigger words")
        rows = {}
        for word, text in triggers.items():
            if not isinstance(text, str) or not re.fullmatch(rf"(?:{PLACEHOLDER.pattern})+", text):
                raise ValueError(f"the value of {word[:50]!r} is {str(text)[:50]!r}; expected <s0><s1> …")
            rows[word] = [int(number) for number in PLACEHOLDER.findall(text)]
        return rows
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{file}: {SPECIAL_PARAMS}: {error}") from error


def _words(rows: Mapping[str, Tensor], triggers: Mapping[str, list[int]], file: str) -> Words:
    if rows.keys() != ENCODERS.keys():
        found = ", ".join(sorted(rows)[:4])
        raise ArtifactError(f"{file}: {EMBEDDINGS} contains {found}; expected {', '.join(ENCODERS)}")
    used = {row for numbers in triggers.values() for row in numbers}
    lengths = {len(tensor) if tensor.ndim == 2 else -1 for tensor in rows.values()}
    if lengths != {len(used)} or used != set(range(len(used))):
        shapes = " and ".join(str(tuple(tensor.shape)) for tensor in rows.values())
        raise ArtifactError(
            f"{file}: {SPECIAL_PARAMS} names {len(used)} tokens, {EMBEDDINGS} has shapes {shapes}: they do not match"
        )
    return {
        word: {encoder: rows[key][numbers] for key, encoder in ENCODERS.items()} for word, numbers in triggers.items()
    }
