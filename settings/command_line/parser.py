"""argparse with foldable help and one-line errors."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, TypeVar, overload

from settings.command_line.interrupts import one_line_for_interrupts
from settings.unknown_names import advice, as_option

WRONG_INPUT = 2
UNEXPECTED = "unrecognized arguments: "
"""The beginning of argparse's error on an unexpected argument."""
Parsed = TypeVar("Parsed")


class CommandParser(argparse.ArgumentParser):
    """A parser without abbreviations. Its errors are one line without the usage, with exit status 2. `expected`: how to
    write what an unexpected argument may be."""

    expected = "write files together, before options"

    def __init__(self, **options: Any) -> None:
        """As argparse.ArgumentParser."""
        super().__init__(allow_abbrev=False, **options)
        self._folded: list[tuple[argparse.Action | argparse._ArgumentGroup, str, str | None]] = []

    def fold(self, group: argparse._ArgumentGroup, actions: Sequence[argparse.Action]) -> None:
        """Hide a group and its options from --help; --help_all shows them."""
        if not self._folded:
            self.add_argument("--help_all", action=_HelpAll, help="show all settings and exit")
        self._folded.append((group, "description", group.description))
        group.description = None
        for action in actions:
            self._folded.append((action, "help", action.help))
            action.help = argparse.SUPPRESS

    def format_help_all(self) -> str:
        """Return the help including the hidden groups."""
        for part, attribute, text in self._folded:
            setattr(part, attribute, text)
        self.epilog = None
        return self.format_help()

    @overload
    def parse_known_args(
        self, args: Iterable[str] | None = None, namespace: None = None
    ) -> tuple[argparse.Namespace, list[str]]: ...

    @overload
    def parse_known_args(self, args: Iterable[str] | None, namespace: Parsed) -> tuple[Parsed, list[str]]: ...

    @overload
    def parse_known_args(self, *, namespace: Parsed) -> tuple[Parsed, list[str]]: ...

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As the parent, but unknown options are reported first: a misspelt one may cause other errors. Also
        installs the one-line handler of Ctrl-C."""
        one_line_for_interrupts()
        given = sys.argv[1:] if args is None else list(args)
        if self._subparsers is None:
            self._require_known(given)
        return super().parse_known_args(given, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the error on one line of stderr, and exit."""
        if message.startswith(UNEXPECTED):
            unexpected = message.removeprefix(UNEXPECTED)
            message = f"{unexpected}: not expected here; put quotes around a value with spaces, and {self.expected}"
        self.exit(WRONG_INPUT, f"error: {message.removeprefix('argument ')}\n")

    def _require_known(self, given: Sequence[str]) -> None:
        """Report unknown options. An argument is an option, as in argparse, if it starts with two dashes and has no
        blanks."""
        options = given[: given.index("--")] if "--" in given else given
        names = [text[2:].partition("=")[0] for text in options if text.startswith("--") and " " not in text]
        known = [text[2:] for text in self._option_string_actions if text.startswith("--")]
        problems = [
            f"--{name}: unknown option; {advice(name, known, as_option) or f'see {self._help_option()}'}"
            for name in names
            if name not in known
        ]
        if problems:
            self.error("\n".join(problems))

    def _help_option(self) -> str:
        return "--help_all" if self._folded else "--help"


def report_wrong_input(error: Exception) -> int:
    """Print the error on one line of stderr. Returns the exit status."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    return WRONG_INPUT


class _HelpAll(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        assert isinstance(parser, CommandParser)
        print(parser.format_help_all(), end="")
        parser.exit()
