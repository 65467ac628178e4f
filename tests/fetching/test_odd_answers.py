"""Names of hosts, redirects and files that are no names: one line, as for any other failed download."""

from pathlib import Path

import pytest

from fetching.addresses import is_public, public_addresses
from fetching.cache import DownloadCache
from fetching.download import download
from fetching.errors import DownloadError, DownloadTooLarge
from fetching.rules import FetchRules
from tests.local_site import Site

RULES = FetchRules(allow_http=True, allow_private_addresses=True)


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example"])
def test_a_host_that_is_no_name(host: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"^{host[:20]}.*is not a valid host name"):
        download(f"https://{host}/x", tmp_path / "x", rules=FetchRules())


def test_a_redirect_to_no_url(site: Site, tmp_path: Path) -> None:
    site.redirect("/x", "https://[y")
    with pytest.raises(DownloadError, match="redirects to an invalid URL"):
        download(f"{site.url}/x", tmp_path / "x", rules=RULES)


def test_a_long_name_of_wide_letters_is_shortened_to_what_file_systems_take(site: Site, tmp_path: Path) -> None:
    site.serve(
        "/x", b"x", {"Content-Disposition": "attachment; filename*=UTF-8''" + "%E6%BC%A2" * 150 + ".safetensors"}
    )
    cache = DownloadCache(tmp_path / "cache", 1000)
    with cache.using("x", lambda folder: download(f"{site.url}/x", folder / "download", rules=RULES)) as path:
        assert path.name.endswith("漢.safetensors") and len(path.name.encode()) <= 200


def test_an_incomplete_file_does_not_stay(site: Site, tmp_path: Path) -> None:
    site.serve("/x", b"x" * 100, {"Content-Length": "1000"})
    with pytest.raises(DownloadError):
        download(f"{site.url}/x", tmp_path / "x", rules=RULES)
    with pytest.raises(DownloadTooLarge):
        download("data:;base64,AAAA", tmp_path / "x", rules=RULES, max_bytes=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "address",
    [
        "fec0::1", "64:ff9b:1::a00:1", "::10.0.0.1", "::127.0.0.1", "::ffff:0:10.0.0.1", "3fff::1", "5f00::1",
        "192.88.99.1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_reachable_from_everywhere_are_not_public(address: str) -> None:
    assert not is_public(address)
    with pytest.raises(DownloadError, match="not an address of the public internet"):
        public_addresses("host.example", 443, lambda host, port: ["93.184.216.34", address])


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34"])
def test_public_addresses_stay_public(address: str) -> None:
    assert is_public(address)
