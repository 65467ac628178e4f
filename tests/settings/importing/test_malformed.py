"""Tests that any value in a field gives a translation, or one short line for each fault, and never a stack trace."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest

from settings.importing.ai_toolkit import from_ai_toolkit
from settings.importing.cascade import from_cascade
from settings.importing.diffusers_scripts import RULES as DIFFUSERS
from settings.importing.diffusers_scripts import from_diffusers
from settings.importing.files import KNOWN
from settings.importing.kohya import RULES as KOHYA
from settings.importing.kohya import from_kohya, is_kohya
from settings.record import ConfigError
from settings.training import build_config
from tests.settings.importing.test_cascade import COMMON, CONTROL, LORA
from tests.settings.importing.test_other_trainers import TOOLKIT

JUNK: tuple[Any, ...] = ("", "x", -1, 0, 1e400, True, [], {}, [[]], [{}], [1, "a"], {"a": {"b": 1}}, [["a", {"b": 1}]])
MOST_LINES, LONGEST_LINE = 3, 200
MORE = (
    "datasets",
    "general",
    "num_train_epochs",
    "push_to_hub",
    "hub_model_id",
    "output_dir",
    "output_name",
    "lr_warmup_steps",
    "snr_gamma",
    "min_snr_gamma",
    "with_prior_preservation",
    "class_data_dir",
    "instance_prompt",
    "max_train_steps",
)


def _with_junk(fields: Mapping[str, Any], names: Any) -> Iterator[dict[str, Any]]:
    for name in names:
        for junk in JUNK:
            yield {**fields, name: junk}


def _is_translated(translate: Any, fields: Mapping[str, Any]) -> bool:
    """Whether the fields give a valid configuration. Otherwise, checks that the error has few and short lines."""
    try:
        build_config(translate(fields, KNOWN).values)
    except ConfigError as error:
        lines = str(error).split("\n")
        assert len(lines) <= MOST_LINES and all(10 < len(line.strip()) <= LONGEST_LINE for line in lines), lines
        return False
    return True


@pytest.mark.parametrize("kind", [{}, LORA, CONTROL, {"ema_start_iters": 1, "ema_iters": 2, "ema_beta": 0.9}])
def test_fields_of_cascades_guide(kind: dict[str, Any]) -> None:
    fields = COMMON | kind
    names = [*fields, "multi_aspect_ratio", "adaptive_loss_weight"]
    assert {_is_translated(from_cascade, changed) for changed in _with_junk(fields, names)} == {True, False}


def test_arguments_of_scripts() -> None:
    of_diffusers = _with_junk({"rank": 4}, [*DIFFUSERS, *MORE])
    assert {_is_translated(from_diffusers, changed) for changed in of_diffusers} == {True, False}
    of_kohya = list(_with_junk({"network_dim": 4}, [*KOHYA, *MORE]))
    assert all(is_kohya(changed) for changed in of_kohya)
    assert {_is_translated(from_kohya, changed) for changed in of_kohya} == {True, False}


def test_sections_of_ai_toolkit() -> None:
    process = TOOLKIT["config"]["process"][0]

    def outcomes(processes: Iterable[dict[str, Any]]) -> set[bool]:
        files = ({"job": "x", "config": {"name": "x", "process": [changed]}} for changed in processes)
        return {_is_translated(from_ai_toolkit, file) for file in files}

    assert outcomes(_with_junk(process, process)) == {True, False}
    for name in ("network", "save", "train", "model", "sample"):
        of_section = _with_junk(process[name], process[name])
        assert outcomes({**process, name: changed} for changed in of_section) == {True, False}
    of_data = _with_junk(process["datasets"][0], process["datasets"][0])
    assert outcomes({**process, "datasets": [changed]} for changed in of_data) == {True, False}
