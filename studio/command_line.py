"""The command `python -m studio`: serves the page on this machine."""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from settings.command_line.parser import CommandParser, report_wrong_input
from settings.record import ConfigError
from studio.launch import PASSWORD_VARIABLE, Address, serve

SUCCESS = 0


def build_parser(prog: str = "python -m studio") -> CommandParser:
    """Return the parser."""
    parser = CommandParser(
        prog=prog,
        description="Serve a page to prepare images, train, monitor and test LoRAs. Ctrl-C stops only the page.",
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("outputs/studio"), metavar="DIR",
        help="folder for images, runs and the queue (default: outputs/studio)",
    )  # fmt: skip
    parser.add_argument(
        "--host", default="127.0.0.1", help=f"address to listen on; all but the default need {PASSWORD_VARIABLE}"
    )
    parser.add_argument("--port", type=int, default=7860, metavar="INT", help="default: 7860")
    parser.add_argument(
        "--share", action="store_true", help=f"also serve it at a public address by Gradio; needs {PASSWORD_VARIABLE}"
    )
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "python -m studio") -> int:
    """Run the command. Returns the exit status: 0, or 2 for wrong input."""
    arguments = build_parser(prog).parse_args(argv)
    address = Address(arguments.host, arguments.port, arguments.share, os.environ.get(PASSWORD_VARIABLE) or None)
    try:
        if find_spec("gradio") is None:
            raise ConfigError("the studio needs gradio, which is not installed: pip install -r requirements-studio.txt")
        serve(arguments.folder, address)
    except (ConfigError, OSError) as error:
        return report_wrong_input(error)
    return SUCCESS


if __name__ == "__main__":
    sys.exit(main())
