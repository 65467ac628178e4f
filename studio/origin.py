"""Rejects requests that pages of other sites make through the user's browser.

A page of another site can send requests to 127.0.0.1, and browsers name that page in the header Origin. A site whose
name resolves to 127.0.0.1 (DNS rebinding) is recognised by the header Host.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
READING = ("GET", "HEAD", "OPTIONS")
OWN_SITE = ("same-origin", "none")


class OwnPagesOnly:
    """ASGI middleware that answers 403 to requests rejected by `refusal`."""

    def __init__(self, app: ASGIApp, loopback: bool) -> None:
        """`loopback`: whether the page is only served under the machine's own names."""
        self._app, self._loopback = app, loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["type"] == "http" else "POST"
        reason = refusal(method, Headers(scope=scope), self._loopback)
        if reason is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await PlainTextResponse(reason, 403)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": reason})


def refusal(method: str, headers: Headers, loopback: bool) -> str | None:
    """Return why a request is rejected; None for requests of the page itself or of a program on this machine."""
    host = headers.get("host", "")
    if loopback and _host_name(host) not in LOOPBACK:
        return "the studio only accepts requests to 127.0.0.1 and localhost"
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        return "a page of another site may not use the studio"
    if method not in READING and origin is None and headers.get("sec-fetch-site", "none") not in OWN_SITE:
        return "a page of another site may not use the studio"
    return None


def _host_name(host: str) -> str | None:
    """Return the host without its port; None for an invalid host."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
