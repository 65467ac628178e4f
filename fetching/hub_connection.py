"""Checks once whether the Hugging Face hub can be reached, before a library retries each file for a minute."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import requests
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # that of the httpx it uses

from fetching.errors import DownloadError

HUB_ERRORS: tuple[type[Exception], ...] = (HTTPError, OSError, ValueError)
"""Errors of huggingface_hub: refusals; no connection, or a time limit, which are not OSErrors; invalid names."""
SECONDS_TO_ANSWER = 5.0


def require_hub(model: str, filename: str, revision: str | None = None) -> None:
    """Return when `model` is a path, when its `filename` is in the local cache, or when the hub answers.

    Any answer counts, including refusals, which the loading library reports. Raises DownloadError, in one line with the
    remedy, when there is no connection.
    """
    if Path(model).expanduser().exists() or constants.HF_HUB_OFFLINE:
        return
    if isinstance(try_to_load_from_cache(model, filename, revision=revision), str):
        return
    require_answer(f"{model} is not available locally, and the hub")


def require_answer(hub: str) -> None:
    """Return when the hub answers. `hub`: its name in the message. Raises DownloadError."""
    try:
        requests.head(constants.ENDPOINT, timeout=SECONDS_TO_ANSWER)
    except requests.RequestException as error:
        host = urlsplit(constants.ENDPOINT).hostname
        raise DownloadError(
            f"{hub} ({host}) cannot be reached: {_reason(error)}. Check the network (HTTPS_PROXY, HF_ENDPOINT), or "
            "give a local folder or file"
        ) from error


def _reason(error: requests.RequestException) -> str:
    """Return the system's error message, without the URL that `requests` adds."""
    if isinstance(error, requests.Timeout):
        return f"no answer within {SECONDS_TO_ANSWER:.0f} seconds"
    system = re.search(r"\[Errno [^\]]*\] ([^'\")]+)", str(error))
    return system[1].strip() if system else type(error).__name__
