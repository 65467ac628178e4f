"""Tests of a command's errors: one line, the name that was meant, and status 2."""

import sys

import pytest

from service.predict_command import build_parser
from settings.command_line.parser import CommandParser

UNEXPECTED = "not expected here; put quotes around a value with spaces, and write files together, before options\n"


def make_parser() -> CommandParser:
    parser = CommandParser(prog="tool")
    parser.add_argument("source", nargs="*")
    parser.add_argument("--output", required=True)
    parser.add_argument("--count", type=int)
    parser.add_argument("--shape", choices=["round", "square"])
    return parser


def error_of(parser: CommandParser, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(words)
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--otput", "x"], "error: --otput: unknown option; did you mean --output?\n"),
        (["--otput=x", "a"], "error: --otput: unknown option; did you mean --output?\n"),
        (["--output_dir", "x"], "error: --output_dir: unknown option; did you mean --output?\n"),
        (["--OUTPUT", "x"], "error: --OUTPUT: unknown option; did you mean --output?\n"),
        (["--zzz"], "error: --zzz: unknown option; see --help\n"),
        (["--outp", "x"], "error: --outp: unknown option; did you mean --output?\n"),
        (["--a1", "--b2"], "error: --a1: unknown option; see --help\n--b2: unknown option; see --help\n"),
        (["a"], "error: the following arguments are required: --output\n"),
        (["--output"], "error: --output: expected one argument\n"),
        (["--output", "x", "--count", "many"], "error: --count: invalid int value: 'many'\n"),
        (["--output", "x", "-q"], f"error: -q: {UNEXPECTED}"),
        (["a", "--output", "x", "b"], f"error: b: {UNEXPECTED}"),
    ],
)
def test_an_error_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(make_parser(), words, capsys) == message


def test_several_loras_are_separated_by_commas(capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(build_parser(), ["a photo", "--weights", "a.safetensors", "b.safetensors"], capsys)
    assert error.startswith("error: b.safetensors: not expected here") and "separate several LoRAs by commas" in error


def test_choices_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(make_parser(), ["--output", "x", "--shape", "oval"], capsys)
    assert error.startswith("error: --shape: invalid choice: 'oval'") and "square" in error and error.count("\n") == 1


def test_a_value_that_looks_like_an_option_is_none() -> None:
    arguments = make_parser().parse_args(["--output", "--a b--", "--", "--file", "-x"])
    assert (arguments.output, arguments.source) == ("--a b--", ["--file", "-x"])


def test_options_of_a_subcommand_are_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    parser = CommandParser()
    parser.add_subparsers(dest="command", required=True).add_parser("cut").add_argument("--width")
    assert parser.parse_args(["cut", "--width", "3"]).width == "3"
    assert error_of(parser, ["cut", "--widht", "3"], capsys).endswith("did you mean --width?\n")


def test_from_its_beginning_an_interrupt_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    make_parser().parse_args(["--output", "x"])
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "stopped\n"
    sys.excepthook(RuntimeError, RuntimeError("a fault"), None)
    assert "RuntimeError: a fault" in capsys.readouterr().err
