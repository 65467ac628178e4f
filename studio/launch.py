"""Serves the page on this machine; on other addresses only with a password."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from settings.record import ConfigError
from studio.origin import LOOPBACK

if TYPE_CHECKING:
    import gradio as gr

PASSWORD_VARIABLE = "STUDIO_PASSWORD"
USER = "studio"
MOST_UPLOADED = "5gb"
NO_PORT = "Cannot find empty port"
"""Gradio's message for a port that is in use, and also for a server that did not start within 5 seconds."""


@dataclass(frozen=True)
class Address:
    """The address of the page. `share`: also serve it under a public URL of Gradio."""

    host: str = "127.0.0.1"
    port: int = 7860
    share: bool = False
    password: str | None = field(default=None, repr=False)

    @property
    def is_loopback(self) -> bool:
        """Whether the page is only accessible from this machine."""
        return self.host in LOOPBACK and not self.share

    def require_safe(self) -> None:
        """Raises ConfigError if the page would be accessible from other machines without a password."""
        if not self.is_loopback and not self.password:
            what = "share" if self.share else f"host {self.host}"
            raise ConfigError(
                f"{what}: makes the page, which starts trainings and reads files, accessible to others; set the "
                f"environment variable {PASSWORD_VARIABLE} to a password for the user {USER}"
            )


def serve(root: Path, address: Address) -> None:
    """Serve until Ctrl-C. Trainings continue. Raises ConfigError, also if the port is in use."""
    address.require_safe()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(root / ".cache")
    from studio.page import (
        build_page,
    )  # deferred: Gradio takes seconds to import, and the command line is checked first
    from studio.workspace import Workspace

    root.mkdir(parents=True, exist_ok=True)
    page = build_page(Workspace(root.resolve()))
    try:
        _launch(page, root, address)
    except OSError as error:
        if NO_PORT not in str(error):
            raise
        raise ConfigError(
            f"port: {address.port} is in use, or the server did not start within 5 seconds on a busy machine; try "
            "again, or choose another port"
        ) from error


def _launch(page: "gr.Blocks", root: Path, address: Address) -> None:
    from starlette.middleware import Middleware

    from studio.origin import OwnPagesOnly
    from studio.page import script, style, theme

    page.launch(
        server_name=address.host,
        server_port=address.port,
        share=address.share,
        auth=(USER, address.password) if address.password else None,
        allowed_paths=[str(root.resolve() / name) for name in ("pictures", "runs", "images")],
        max_file_size=MOST_UPLOADED,
        footer_links=[],
        ssr_mode=False,
        theme=theme(),
        css=style(),
        head=script(),
        app_kwargs={"middleware": [Middleware(OwnPagesOnly, loopback=address.is_loopback)]},
    )
