"""One entry point for all commands, and what they have in common."""

import subprocess
import sys
import tomllib
from importlib import import_module

import pytest

from artifact import command_line as artifact_commands
from service.main import COMMANDS, main
from tests.conftest import PROJECT


@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_errors_need_no_torch(name: str) -> None:
    program = (
        "import sys\n"
        "from service.main import main\n"
        "for words in (['--help'], ['--otput', 'x', 'y']):\n"
        "    try: main([sys.argv[1], *words])\n"
        "    except SystemExit as ended: print(ended.code, file=sys.stderr)\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'diffusers')))"
    )
    command = [sys.executable, "-c", program, name]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: lora-trainer {name}")
    status, error, second = result.stderr.splitlines()
    assert (status, second) == ("0", "2")
    assert error.startswith("error: --otput: unknown option; ")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_module_with_a_main(name: str) -> None:
    assert callable(import_module(COMMANDS[name].module).main)


def test_the_commands_of_the_issue_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"\n    {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trian", "error: trian: unknown command; did you mean train?\n"),
        ("dance", f"error: dance: unknown command; there are {', '.join(COMMANDS)}\n"),
    ],
)
def test_an_unknown_command_is_one_line(word: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([word, "--help"])
    assert (ended.value.code, capsys.readouterr().err) == (2, message)


@pytest.mark.parametrize(
    "command", ["service", "artifact", "preprocess", "evaluation.comparison", "service.sweep", "job.report"]
)
def test_every_room_with_a_command_runs_as_a_module(command: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", command, "--help"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0 and result.stdout.startswith("usage: ")


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
