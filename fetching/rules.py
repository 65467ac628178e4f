"""The operator's rules for downloads: schemes, hosts, addresses, sizes, times, and tokens per host."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal

from fetching.errors import DownloadError

TOKEN_HOSTS = {"HF_TOKEN": "huggingface.co", "CIVITAI_TOKEN": "civitai.com"}
"""The environment variable of each token, and the only host that gets it."""
USE_TOKENS = "FETCH_USE_TOKENS"


@dataclass(frozen=True)
class FetchRules:
    """The operator's rules. `allowed_hosts`: names or patterns such as *.example.org; () allows any. `max_seconds`: of
    a whole download.

    `tokens`: bearer tokens by host. They never appear in messages. `use_tokens`: whether the hub's libraries may use
    the token of this machine.
    """

    allow_http: bool = False
    allow_private_addresses: bool = False
    allowed_hosts: tuple[str, ...] = ()
    max_bytes: int = 8 * 1024**3
    max_seconds: float = 1800.0
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    use_tokens: bool = True

    @classmethod
    def from_environment(cls) -> "FetchRules":
        """Read the rules: FETCH_ALLOW_HTTP, FETCH_ALLOW_PRIVATE_ADDRESSES, FETCH_ALLOWED_HOSTS, FETCH_MAX_BYTES,
        FETCH_MAX_SECONDS, HF_TOKEN, CIVITAI_TOKEN, and FETCH_USE_TOKENS, which is 0 in trainings of callers who may not
        use the tokens.

        Raises DownloadError for an invalid value.
        """
        hosts = os.environ.get("FETCH_ALLOWED_HOSTS", "").replace(",", " ").lower().split()
        rules = cls(
            allow_http=_switch("FETCH_ALLOW_HTTP"),
            allow_private_addresses=_switch("FETCH_ALLOW_PRIVATE_ADDRESSES"),
            allowed_hosts=tuple(hosts),
            max_bytes=int(_number("FETCH_MAX_BYTES", cls.max_bytes)),
            max_seconds=_number("FETCH_MAX_SECONDS", cls.max_seconds),
            tokens={host: os.environ[name] for name, host in TOKEN_HOSTS.items() if os.environ.get(name)},
        )
        return rules if _switch(USE_TOKENS, "1") else rules.without_tokens()

    def without_tokens(self) -> "FetchRules":
        """Return the rules for a caller who may not use the tokens of this machine."""
        return replace(self, tokens={}, use_tokens=False)

    @property
    def hub_token(self) -> Literal[False] | None:
        """The argument `token` of the hub's libraries: None lets them use this machine's token, False forbids it."""
        return None if self.use_tokens else False

    def cache_key(self, url: str) -> str:
        """Return the key of a URL in the cache: what was downloaded with tokens is not used for requests without."""
        return url if self.use_tokens else f"without tokens: {url}"

    def allows_host(self, host: str) -> bool:
        """Whether the host matches the list of allowed hosts, or there is no list."""
        return not self.allowed_hosts or any(fnmatchcase(host.lower(), pattern) for pattern in self.allowed_hosts)


def _switch(name: str, usual: str = "0") -> bool:
    value = (os.environ.get(name) or usual).strip().lower()
    if value not in ("", "0", "1", "true", "false", "yes", "no"):
        raise DownloadError(f"{name}: {value!r} is neither 1 nor 0")
    return value in ("1", "true", "yes")


def _number(name: str, default: float) -> float:
    value = os.environ.get(name, "").strip()
    try:
        number = float(value) if value else float(default)
    except ValueError:
        raise DownloadError(f"{name}: {value!r} is not a number") from None
    if not 0 < number < float("inf"):
        raise DownloadError(f"{name}: must be above 0 (given: {value})")
    return number
