"""The frame of a page: head, content security policy, top bar with the theme switch."""

import base64
import hashlib
import html
import json
from importlib.resources import files
from string import Template
from typing import Any


def html_page(title: str, masthead: str, body: str, *, style: str, script: str = "", data: Any = None) -> str:
    """Return the HTML of a page. `style` and `script` are appended to those shared by all pages.

    `masthead`, `body`: HTML. `title`: plain text. `data`: available to `script` as JSON in the element `data`. Elements
    of `body` may have style attributes only if it contains an SVG.
    """
    styles, scripts = page_file("base.css") + style, page_file("theme.js") + script
    return Template(page_file("shell.html")).substitute(
        title=html.escape(title),
        policy=_policy(styles, scripts, attributes="<svg role" in body),
        style=styles,
        masthead=masthead,
        body=body,
        data="" if data is None else f'<script type="application/json" id="data">{_json_in_html(data)}</script>\n',
        script=scripts,
    )


def page_file(name: str, package: str = "pages") -> str:
    """Read a file in the folder `assets` of a package."""
    return (files(package) / "assets" / name).read_text(encoding="utf-8")


def data_uri(webp: bytes) -> str:
    """Return a WebP image as a data URI."""
    return f"data:image/webp;base64,{base64.b64encode(webp).decode('ascii')}"


def _policy(style: str, script: str, attributes: bool) -> str:
    """Return a policy that blocks all loading, and allows only the page's own script and style, by their hashes."""
    styles = f"style-src '{_hash(style)}'"
    if attributes:
        styles = f"style-src-elem '{_hash(style)}'; style-src-attr 'unsafe-inline'"
    scripts = f"script-src '{_hash(script)}'"
    return f"default-src 'none'; img-src data:; {styles}; {scripts}; base-uri 'none'; form-action 'none'"


def _hash(source: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode('utf-8')).digest()).decode('ascii')}"


def _json_in_html(data: Any) -> str:
    """Encode JSON so that it cannot end its script element. ASCII only: file names may contain invalid UTF-8."""
    return json.dumps(data).replace("<", "\\u003c")
