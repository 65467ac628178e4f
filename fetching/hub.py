"""Files of repositories on the Hugging Face hub (or the endpoint that HF_ENDPOINT names)."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from fetching.cache import sha256
from fetching.disk import is_disk_full
from fetching.download import Download
from fetching.errors import DownloadError, DownloadTooLarge
from fetching.rules import FetchRules

REFERENCE = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(?:/(?P<file>[\w. /-]+\.(?:safetensors|tar)))?(?:@(?P<revision>[\w./-]+))?"
)
USUAL_NAMES = ("weights.safetensors", "pytorch_lora_weights.safetensors", "lora.safetensors")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository at one commit. `sha256`: the digest by the hub, None for small files. `token`: as
    `FetchRules.hub_token`."""

    repository: str
    file: str
    commit: str
    sha256: str | None
    token: Literal[False] | None = None

    @property
    def key(self) -> str:
        return f"hub:{self.repository}@{self.commit}/{self.file}"

    def fetch(self, folder: Path) -> Download:
        """Download into `folder`. Raises DownloadError, and OSError for a full disk."""
        from huggingface_hub import hf_hub_download

        from fetching.hub_connection import HUB_ERRORS

        try:
            path = Path(
                hf_hub_download(
                    self.repository, self.file, revision=self.commit, local_dir=folder / "hub", token=self.token
                )
            )
        except HUB_ERRORS as error:
            if is_disk_full(error):
                raise
            raise DownloadError(f"{self.repository}/{self.file}: {_reason(error)}") from None
        digest = sha256(path)
        if self.sha256 is not None and digest != self.sha256:
            raise DownloadError(f"{self.repository}/{self.file}: was damaged during the download; try again")
        moved = folder / "download"
        os.replace(path, moved)
        return Download(moved, Path(self.file).name, digest)


def is_hub_reference(text: str) -> bool:
    """Whether `text` is `owner/name`, `owner/name/file.safetensors` (or `.tar`), each with @revision or without."""
    return REFERENCE.fullmatch(text) is not None and ".." not in text


def find_on_hub(reference: str, rules: FetchRules, *, local_files: bool = False) -> HubFile:
    """Ask the hub for the file and the commit. `local_files`: whether `reference` may also be a misspelt path.

    Raises DownloadError when the file is missing, larger than the rules allow, or ambiguous.
    """
    from huggingface_hub import HfApi

    from fetching.hub_connection import HUB_ERRORS

    match = REFERENCE.fullmatch(reference)
    assert match is not None
    repository, wanted, revision = match["repository"], match["file"], match["revision"]
    api = HfApi()
    host = urlsplit(api.endpoint).hostname or ""
    if not rules.allows_host(host):
        raise DownloadError(f"{reference}: {host} is not in the operator's list (FETCH_ALLOWED_HOSTS)")
    try:
        info = api.model_info(repository, revision=revision, files_metadata=True, timeout=30, token=rules.hub_token)
    except HUB_ERRORS as error:
        place = f"{reference} does not exist here, and as a hub id" if local_files else reference
        raise DownloadError(f"{place}: {_reason(error)}") from None
    files = {sibling.rfilename: sibling for sibling in info.siblings or []}
    name = wanted if wanted in files else _choose(reference, wanted, files)
    if (files[name].size or 0) > rules.max_bytes:
        raise DownloadTooLarge(f"{reference}: is larger than {rules.max_bytes:,} bytes")
    lfs = files[name].lfs
    return HubFile(repository, name, str(info.sha), lfs.sha256 if lfs else None, rules.hub_token)


def _choose(reference: str, wanted: str | None, found: Iterable[str]) -> str:
    files = [name for name in found if name.endswith(".safetensors")]
    usual = [name for name in USUAL_NAMES if name in files]
    if wanted is None and (len(files) == 1 or usual):
        return usual[0] if usual else files[0]
    listed = ", ".join(sorted(files)[:10]) or "none"
    problem = "name one of its files" if wanted is None else f"it has no {wanted}"
    raise DownloadError(f"{reference}: {problem}; its .safetensors files: {listed}")


def _reason(error: Exception) -> str:
    """Return the reason without headers and URLs, which may contain a token."""
    response = getattr(error, "response", None)
    if response is not None:
        hint = (
            "; if the repository is private or gated, set HF_TOKEN" if response.status_code in (401, 403, 404) else ""
        )
        return f"the hub answered {response.status_code}{hint}"
    return f"the hub cannot be reached: {type(error).__name__}. Check the network (HTTPS_PROXY, HF_ENDPOINT)"
