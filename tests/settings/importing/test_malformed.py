"""Whatever stands in a field, the answer is a translation or one line: never a stack trace."""

import contextlib
from collections.abc import Iterator, Mapping
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


def _only_lines(translate: Any, fields: Mapping[str, Any]) -> None:
    with contextlib.suppress(ConfigError):
        build_config(translate(fields, KNOWN).values)


@pytest.mark.parametrize("kind", [{}, LORA, CONTROL, {"ema_start_iters": 1, "ema_iters": 2, "ema_beta": 0.9}])
def test_fields_of_cascades_guide(kind: dict[str, Any]) -> None:
    fields = COMMON | kind
    for changed in _with_junk(fields, [*fields, "multi_aspect_ratio", "adaptive_loss_weight"]):
        _only_lines(from_cascade, changed)


def test_arguments_of_scripts() -> None:
    for changed in _with_junk({"rank": 4}, [*DIFFUSERS, *MORE]):
        _only_lines(from_diffusers, changed)
    for changed in _with_junk({"network_dim": 4}, [*KOHYA, *MORE]):
        assert is_kohya(changed)
        _only_lines(from_kohya, changed)


def test_sections_of_ai_toolkit() -> None:
    process = TOOLKIT["config"]["process"][0]
    for changed in _with_junk(process, process):
        _only_lines(from_ai_toolkit, {"job": "x", "config": {"name": "x", "process": [changed]}})
    for name in ("network", "save", "train", "model", "sample"):
        for changed in _with_junk(process[name], process[name]):
            _only_lines(from_ai_toolkit, {"job": "x", "config": {"process": [{**process, name: changed}]}})
    for changed in _with_junk(process["datasets"][0], process["datasets"][0]):
        _only_lines(from_ai_toolkit, {"job": "x", "config": {"process": [{**process, "datasets": [changed]}]}})
