"""Tests of the entry point for all commands, and of what the commands have in common."""

import runpy
import subprocess
import sys
import tomllib
from importlib import import_module

import pytest

from artifact import command_line as artifact_commands
from service.main import COMMANDS, main
from tests.conftest import PROJECT


def test_help_and_errors_of_every_command_need_no_torch() -> None:
    program = (
        "import sys\n"
        "from service.main import COMMANDS, main\n"
        "for name in COMMANDS:\n"
        "    for words in (['--help'], ['--otput', 'x', 'y']):\n"
        "        try: main([name, *words])\n"
        "        except SystemExit as ended: print(ended.code, file=sys.stderr)\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'diffusers')))"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert [line.split()[2] for line in result.stdout.splitlines() if line.startswith("usage: ")] == list(COMMANDS)
    lines = result.stderr.splitlines()
    assert len(lines) == 3 * len(COMMANDS)
    assert lines[::3] == ["0"] * len(COMMANDS) and lines[2::3] == ["2"] * len(COMMANDS)
    assert all(line.startswith("error: --otput: unknown option; ") for line in lines[1::3])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_module_with_a_main(name: str) -> None:
    assert callable(import_module(COMMANDS[name].module).main)


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"\n    {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trian", "error: trian: unknown command; did you mean train?\n"),
        ("dance", f"error: dance: unknown command; choose one of {', '.join(COMMANDS)}\n"),
    ],
)
def test_an_unknown_command_is_one_line(word: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([word, "--help"])
    assert (ended.value.code, capsys.readouterr().err) == (2, message)


@pytest.mark.parametrize(
    "package", ["service", "artifact", "preprocess", "evaluation.comparison", "service.sweep", "job.report"]
)
def test_every_package_with_a_command_runs_as_a_module(
    package: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [package, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"{package}.__main__", run_name="__main__")
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("usage: ")


def test_the_installed_command_is_this_one() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"lora-trainer": "service.main:main"}
    packages = {pattern.removesuffix("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages == set(project["tool"]["importlinter"]["root_packages"]) - {"tools"}
    assert {command.module.partition(".")[0] for command in COMMANDS.values()} <= packages


def test_the_choices_of_the_artifact_commands_are_those_that_exist() -> None:
    from artifact.artifact import PRECISIONS
    from artifact.conversion.convert import FORMATS
    from artifact.merging.merge import MODES

    assert tuple(FORMATS) == artifact_commands.FORMATS
    assert tuple(PRECISIONS) == artifact_commands.PRECISIONS
    assert artifact_commands.MODES == MODES
