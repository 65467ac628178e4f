"""Tests of access to the studio: from this machine, or with a password, and never from the page of another site."""

import socket
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="requirements-studio.txt is not installed")

from starlette.datastructures import Headers

from settings.record import ConfigError
from studio.command_line import main
from studio.framed import escaped, framed
from studio.launch import Address
from studio.origin import refusal

OWN = {"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:7860"}


@pytest.mark.parametrize(
    ("method", "headers", "loopback", "refused"),
    [
        ("POST", OWN, True, False),
        ("POST", {"host": "localhost:7860", "origin": "http://localhost:7860"}, True, False),
        ("POST", {"host": "[::1]:7860", "origin": "http://[::1]:7860"}, True, False),
        ("GET", {"host": "127.0.0.1:7860"}, True, False),
        ("POST", {"host": "127.0.0.1:7860"}, True, False),  # a program, not a browser
        ("POST", OWN | {"origin": "http://other.example"}, True, True),
        ("POST", OWN | {"origin": "http://127.0.0.1:8000"}, True, True),  # another server of this machine
        ("POST", OWN | {"origin": "null"}, True, True),  # a sandboxed frame, or a file
        ("GET", OWN | {"origin": "http://other.example"}, True, True),
        ("POST", {"host": "127.0.0.1:7860", "sec-fetch-site": "cross-site"}, True, True),
        ("GET", {"host": "127.0.0.1:7860", "sec-fetch-site": "cross-site"}, True, False),  # a link to the page
        ("GET", {"host": "rebound.example:7860"}, True, True),
        ("GET", {"host": "[1:2"}, True, True),
        ("GET", {}, True, True),
        ("POST", {"host": "gpu.example", "origin": "https://gpu.example"}, False, False),
        ("POST", {"host": "gpu.example", "origin": "https://other.example"}, False, True),
        ("POST", {"host": "gpu.example", "origin": "https://[1:2"}, False, True),
    ],
)
def test_only_the_page_itself_may_send_requests(
    method: str, headers: dict[str, str], loopback: bool, refused: bool
) -> None:
    assert (refusal(method, Headers(headers), loopback) is not None) == refused


@pytest.mark.parametrize(
    ("address", "safe"),
    [
        (Address(), True),
        (Address("localhost"), True),
        (Address("0.0.0.0"), False),
        (Address(share=True), False),
        (Address("0.0.0.0", password="secret"), True),
        (Address(share=True, password="secret"), True),
    ],
)
def test_others_need_a_password(address: Address, safe: bool) -> None:
    if safe:
        address.require_safe()
        return
    with pytest.raises(ConfigError, match="STUDIO_PASSWORD"):
        address.require_safe()


def test_without_a_password_nothing_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("STUDIO_PASSWORD", raising=False)
    assert main(["--share", "--folder", str(tmp_path / "studio")]) == 2
    assert capsys.readouterr().err.startswith("error: share: makes the page")
    assert not (tmp_path / "studio").exists()


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(Address(password="secret"))


def test_pages_inside_the_page_cannot_leave_their_frame(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text('"></iframe><script>alert(1)</script>', encoding="utf-8")
    frame = framed(tmp_path / "report.html")
    assert frame.count("<") == 2 and 'sandbox="allow-scripts allow-downloads"' in frame


def test_names_are_no_markup() -> None:
    assert escaped("<b>*a*</b> [x](y)") == r"\<b\>\*a\*\</b\> \[x\]\(y\)"


def test_a_port_that_is_taken_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["--folder", str(tmp_path), "--port", str(port)]) == 2
    assert f"error: port: {port} is in use, or the server did not start" in capsys.readouterr().err
