"""Tests of downloads: allowed URLs, and protection against hostile servers and names."""

import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import requests

from fetching.addresses import is_public
from fetching.download import download, shown
from fetching.errors import DownloadError, DownloadTooLarge
from fetching.rules import FetchRules
from tests.local_site import Site

LOCAL = FetchRules(allow_http=True, allow_private_addresses=True)
INSIDE = [
    "127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "100.100.100.200", "0.0.0.0", "255.255.255.255", "224.0.0.1", "240.0.0.1", "192.0.0.192", "168.63.129.16",
    "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1",
    "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:db8::1",
]  # fmt: skip


class Names:
    """A fake resolver: each call for a name returns its next answer, and the last one from then on."""

    def __init__(self, **answers: Sequence[str]) -> None:
        self._answers = {name.replace("_", "."): list(addresses) for name, addresses in answers.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        known = self._answers.get(host, [host])
        return [known.pop(0) if len(known) > 1 else known[0]]


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_that_are(address: str) -> None:
    assert is_public(address)


def test_a_file_comes_with_its_name_and_digest(site: Site, tmp_path: Path) -> None:
    site.serve("/a/my%20lora.safetensors", b"hello")
    got = download(f"{site.url}/a/my%20lora.safetensors?token=x", tmp_path / "f", rules=LOCAL)
    assert (tmp_path / "f").read_bytes() == b"hello"
    assert got.file_name == "my lora.safetensors"
    assert got.sha256 == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ('attachment; filename="style.safetensors"', "style.safetensors"),
        ("attachment; filename*=UTF-8''gr%C3%BCn.safetensors", "grün.safetensors"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ('attachment; filename="a\\\\b\\x00<c>.safetensors"', "x00_c_.safetensors"),
        ("attachment", "501240"),
    ],
)
def test_names_of_civitai_s_kind(header: str, name: str, site: Site, tmp_path: Path) -> None:
    site.serve("/api/download/models/501240", b"x", {"Content-Disposition": header})
    got = download(f"{site.url}/api/download/models/501240?type=Model", tmp_path / "f", rules=LOCAL)
    assert got.file_name == name


def test_http_and_private_addresses_need_the_operator_s_word(site: Site, tmp_path: Path) -> None:
    site.serve("/f", b"x")
    with pytest.raises(DownloadError, match=r"only https is allowed.*FETCH_ALLOW_HTTP=1"):
        download(f"{site.url}/f", tmp_path / "f", rules=FetchRules())
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1, which is not an address.*FETCH_ALLOW_PRIVATE_ADDRESSES=1"):
        download(f"{site.url}/f", tmp_path / "f", rules=FetchRules(allow_http=True))
    assert not site.seen


@pytest.mark.parametrize("host", ["127.1", "0x7f.1", "2130706433", "localhost", "[::1]", "[::ffff:127.0.0.1]"])
def test_other_spellings_of_this_machine(host: str, site: Site, tmp_path: Path) -> None:
    site.serve("/f", b"x")
    with pytest.raises(
        DownloadError, match=r"not an address of the public internet|cannot be reached|cannot be parsed"
    ):
        download(f"http://{host}:{site.port}/f", tmp_path / "f", rules=FetchRules(allow_http=True))
    assert not site.seen


def test_a_name_that_leads_inside(site: Site, tmp_path: Path) -> None:
    names = Names(metadata_evil_example=["169.254.169.254"])
    with pytest.raises(DownloadError, match=r"resolves to 169\.254\.169\.254"):
        download("https://metadata.evil.example/latest", tmp_path / "f", rules=FetchRules(), resolver=names)


def test_a_name_with_one_address_inside_is_refused_whole(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"resolves to 10\.0\.0\.1"):
        download("https://a.example/f", tmp_path / "f", rules=FetchRules(), resolver=lambda *_: ["8.8.8.8", "10.0.0.1"])


def test_the_second_answer_of_a_resolver_is_never_asked_for(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the name first resolves to a public address, then to this machine."""
    dialled: list[Any] = []

    def dial(address: Any, *arguments: object, **options: object) -> socket.socket:
        dialled.append(address)
        raise OSError("unreachable")

    monkeypatch.setattr("fetching.connection.create_connection", dial)
    names = Names(rebind_example=["93.184.215.14", "127.0.0.1"])
    with pytest.raises(DownloadError, match="cannot be reached"):
        download(
            f"http://rebind.example:{site.port}/f", tmp_path / "f", rules=FetchRules(allow_http=True), resolver=names
        )
    assert names.asked == ["rebind.example"]
    assert dialled == [("93.184.215.14", site.port)]


def test_a_redirect_inside_is_refused(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first host is accepted as if it were public. The address of the redirect's target is checked again."""
    site.redirect("/f", "http://inner.example/secret")
    names = Names(outer_example=["127.0.0.1"], inner_example=["10.0.0.7"])
    monkeypatch.setattr("fetching.addresses.is_public", lambda address: address == "127.0.0.1")
    with pytest.raises(DownloadError, match=r"inner\.example: resolves to 10\.0\.0\.7"):
        download(
            f"http://outer.example:{site.port}/f", tmp_path / "f", rules=FetchRules(allow_http=True), resolver=names
        )
    assert len(site.seen) == 1


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://a.example/x", "data:text/plain;base64,eA==", ""])
def test_a_redirect_to_another_scheme(location: str, site: Site, tmp_path: Path) -> None:
    site.redirect("/f", location)
    with pytest.raises(DownloadError, match="only https is allowed|redirects more than 5 times|cannot be parsed"):
        download(f"{site.url}/f", tmp_path / "f", rules=LOCAL)


def test_hosts_that_are_not_on_the_list(site: Site, tmp_path: Path) -> None:
    rules = FetchRules(True, True, allowed_hosts=("127.0.0.1", "*.allowed.example"))
    site.redirect("/away", f"http://localhost:{site.port}/f")
    site.serve("/f", b"x")
    with pytest.raises(DownloadError, match="FETCH_ALLOWED_HOSTS"):
        download(f"{site.url}/away", tmp_path / "f", rules=rules)
    with pytest.raises(DownloadError, match="FETCH_ALLOWED_HOSTS"):
        download("https://allowed.example.evil.example/f", tmp_path / "f", rules=rules)
    assert rules.allows_host("CDN.allowed.example") and not rules.allows_host("allowed.example")
    assert download(f"{site.url}/f", tmp_path / "f", rules=rules).sha256


def test_limits_on_size(site: Site, tmp_path: Path) -> None:
    def endless(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        for _ in range(1000):
            request.wfile.write(bytes(1000))

    site.answers["/endless"] = endless
    site.serve("/large", bytes(5000))
    for path in ("endless", "large"):
        with pytest.raises(DownloadTooLarge, match="larger than 4,000 bytes"):
            download(f"{site.url}/{path}", tmp_path / "f", rules=LOCAL, max_bytes=4000)
    with pytest.raises(DownloadTooLarge):
        download(f"{site.url}/large", tmp_path / "f", rules=FetchRules(True, True, max_bytes=10), max_bytes=9000)


@pytest.mark.parametrize("in_header", [True, False])
def test_a_server_that_drips_is_cut_off(in_header: bool, site: Site, tmp_path: Path) -> None:
    def drip(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"X: " if in_header else b"\r\n"))
        for _ in range(100):
            request.wfile.write(b"a")
            request.wfile.flush()
            time.sleep(0.05)

    site.answers["/drip"] = drip
    begun = time.monotonic()
    with pytest.raises(DownloadError, match=r"took longer than 0\.3 s"):
        download(f"{site.url}/drip", tmp_path / "f", rules=FetchRules(True, True, max_seconds=0.3))
    assert time.monotonic() - begun < 2


def test_a_body_that_breaks_off(site: Site, tmp_path: Path) -> None:
    site.serve("/f", b"half", {"Content-Length": "9"})
    with pytest.raises(DownloadError, match=r"cannot be downloaded|ended after 4 of 9"):
        download(f"{site.url}/f", tmp_path / "f", rules=LOCAL)


def test_shown_urls_hold_no_secret() -> None:
    assert shown("https://me:pw@host.example:8443/a/b?token=x#y") == "https://host.example:8443/a/b"


def certificate(folder: Path) -> Path:
    """Create a file with a key and a certificate for two host names of this machine."""
    path = folder / "certificate.pem"
    names = "subjectAltName=DNS:hub.example,DNS:cdn.example"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
               "-days", "2", "-subj", "/CN=hub.example", "-addext", names, "-keyout", "key.pem",
               "-out", "cert.pem"]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    path.write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return path


def test_a_token_goes_to_its_own_host_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The connections use TLS. The certificate is checked against the host name, not against the address."""
    site = Site(certificate(tmp_path))
    monkeypatch.setattr("requests.sessions.merge_setting", _trusting(tmp_path / "cert.pem"))
    names = Names(hub_example=["127.0.0.1"], cdn_example=["127.0.0.1"], other_example=["127.0.0.1"])
    rules = FetchRules(allow_private_addresses=True, tokens={"hub.example": "t0ken"})
    site.redirect("/hub", f"https://cdn.example:{site.port}/cdn")
    site.redirect("/cdn", f"https://hub.example:{site.port}/back?x=1")
    site.serve("/back", b"x")
    download(f"https://hub.example:{site.port}/hub", tmp_path / "f", rules=rules, resolver=names)
    assert [headers.get("Authorization") for _, headers in site.seen] == ["Bearer t0ken", None, "Bearer t0ken"]
    with pytest.raises(DownloadError) as error:  # a certificate for other names
        download(f"https://other.example:{site.port}/hub", tmp_path / "f", rules=rules, resolver=names)
    assert "SSLError" in str(error.value)
    assert "t0ken" not in str(error.value) + repr(rules) + str(rules) + "".join(capfd.readouterr())
    assert len(site.seen) == 3
    site.server.shutdown()
    site.server.server_close()


def _trusting(file: Path) -> Callable[..., Any]:
    """Return requests' function that merges settings, with the test's certificate as the trusted one."""
    original = requests.sessions.merge_setting

    def merge(given: Any, own: Any, **options: Any) -> Any:
        merged = original(given, own, **options)
        return str(file) if merged is True else merged

    return merge


def test_no_token_over_plain_http(site: Site, tmp_path: Path) -> None:
    site.serve("/f", b"x")
    rules = FetchRules(True, True, tokens={"127.0.0.1": "t0ken"})
    download(f"{site.url}/f", tmp_path / "f", rules=rules)
    assert "Authorization" not in site.seen[0][1]


def test_rules_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "FETCH_ALLOW_HTTP": "true", "FETCH_ALLOWED_HOSTS": "Huggingface.co, *.hf.co", "FETCH_MAX_BYTES": "1e9",
        "FETCH_MAX_SECONDS": "60", "HF_TOKEN": "h", "CIVITAI_TOKEN": "c",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    rules = FetchRules.from_environment()
    assert rules == FetchRules(
        True, False, ("huggingface.co", "*.hf.co"), 10**9, 60.0, {"huggingface.co": "h", "civitai.com": "c"}
    )
    for name, value in (("FETCH_ALLOW_HTTP", "perhaps"), ("FETCH_MAX_BYTES", "-1"), ("FETCH_MAX_SECONDS", "soon")):
        monkeypatch.setenv(name, value)
        with pytest.raises(DownloadError, match=name):
            FetchRules.from_environment()
        monkeypatch.delenv(name)
