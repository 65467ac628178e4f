"""Tests that every block of Python and of the shell in README, docs/ and assets/ runs.

Blocks that need a container, a GPU, the network, a server or hours are listed with the reason, and only parsed. The
options of our own commands in them are compared with the commands' help.
"""

import ast
import re
import subprocess

import pytest

from tests.conftest import PROJECT
from tests.docs.blocks import Block, find_blocks
from tests.docs.sandbox import Sandbox, program_of, unknown_options

DOCUMENTS = [
    PROJECT / "README.md",
    *sorted((PROJECT / "docs").rglob("*.md")),
    *sorted((PROJECT / "assets").rglob("*.md")),
]
BLOCKS = [block for document in DOCUMENTS for block in find_blocks(document)]
PYTHON = [block for block in BLOCKS if block.kind == "python"]
COMMANDS = {command: block.place for block in BLOCKS if block.kind == "shell" for command in block.commands()}
NOT_RUN = {
    r"^(cog|docker) ": "needs a container",
    r"^(pip|apt-get|curl|git) ": "needs the network",
    r"^(sh test_train\.sh|make )": "installs, or is the test suite itself",
    r"^(\w+=\S+ )*accelerate ": "needs several GPUs; tests/trainer/distributed starts several processes",
    r"cog\.server\.http": "a server, which does not end; tests/service/test_cog_server.py runs it",
    r" (tools|benchmarks)\.": "minutes to hours",
    r"--resume": "goes on with a run; tests/job/test_resume.py does",
    r"service\.sweep|--sweep": "several trainings; tests/service/test_sweep.py does",
    r"artifact (extract|prune|merge .*--(base|onto))": "needs other models; tests/artifact does",
    r"protocol\.yaml": "needs pictures and LoRAs of its own; tests/evaluation/test_comparison.py does",
    r"https?://": "needs the network",
    r"--(device|mixed_precision|attention|compile|shard_base|cuda_graphs)\b": "needs a GPU",
    r"import replicate|import wandb": "a service on the network",
    r"--preset full_fine_tuning": "needs a GPU; tests/trainer/adapters/test_full_fine_tuning.py trains fully",
    r"--preset subject_and_style|outputs/ink/|THG": "two whole trainings, merged; tests/artifact/merging merges",
    r"--controlnet ": "needs a ControlNet and a conditioning picture; tests/job/controlnet does",
    r"train\.py features": "needs encoded features; tests/trainer/data/test_features.py does",
    r"^(parts = PipelineParts|self\.)": "families/flux1.py has these lines; tests/families/test_adding_a_family.py",
    r"^KINDS = ": "a line of families/registry.py; tests/families/test_adding_a_family.py puts it there",
}
"""Patterns of commands and blocks that are not run, with the reasons."""
RUN = ("train.py", "predict.py", "preprocess", "artifact", "evaluation.comparison", "job.report")
"""Our own commands that are run. Others are parsed."""


def reason(text: str) -> str | None:
    """Returns why a command or block is not run, or None if it is run."""
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, text)), None)


RUNNABLE = [command for command in COMMANDS if reason(command) is None and program_of(command) in RUN]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    return Sandbox(tmp_path_factory.mktemp("sandbox"))


def test_blocks_are_found() -> None:
    assert len(PYTHON) >= 3 and len(COMMANDS) >= 15 and len(RUNNABLE) >= 4
    card = [block for block in PYTHON if block.file == PROJECT / "assets" / "mini-sdxl" / "README.md"]
    assert card and all(reason(block.text) is None for block in card)
    assert {program_of(command) for command in RUNNABLE} >= {"train.py", "predict.py", "preprocess"}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_every_block_can_be_parsed(block: Block) -> None:
    if block.kind == "python":
        ast.parse(block.text, block.place)
        return
    checked = subprocess.run(["sh", "-n"], input=block.text, text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_a_reason_is_given_for_something() -> None:
    texts = [*COMMANDS, *(block.text for block in PYTHON)]
    certain = (r"^(cog|docker) ", r"cog\.server\.http", r"import replicate|import wandb")
    assert all(any(re.search(pattern, text) for text in texts) for pattern in certain)


@pytest.mark.slow
@pytest.mark.parametrize("command", [each for each in COMMANDS if each not in RUNNABLE])
def test_options_of_what_is_not_run_exist(command: str) -> None:
    program = program_of(command)
    ours = (PROJECT / program).is_file() or (PROJECT / program.replace(".", "/")).exists()
    ours = ours or (PROJECT / f"{program.replace('.', '/')}.py").is_file()
    if "python" in command and ours:
        assert unknown_options(command) == [], COMMANDS[command]


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNNABLE)
def test_the_command_runs(command: str, sandbox: Sandbox) -> None:
    sandbox.run(sandbox.tiny(command))


@pytest.mark.slow
@pytest.mark.parametrize("block", [each for each in PYTHON if reason(each.text) is None], ids=lambda each: each.place)
def test_the_python_runs(block: Block, sandbox: Sandbox) -> None:
    sandbox.run_python(block.text)
