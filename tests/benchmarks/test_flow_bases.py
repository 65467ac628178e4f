"""Tests that the benchmark of FLUX.2 and Z-Image runs with tiny bases, and compares them with a script."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights

from benchmarks.learning.contenders import Usage
from benchmarks.record import Row
from benchmarks.speed import flow_bases
from benchmarks.speed.flow_bases import Run, attention_layers, rows_of_base
from benchmarks.speed.full_size import FULL_SIZE
from tests.tiny_models import write_flux2, write_z_image

TINY: Mapping[str, Callable[[Path], Path]] = {"flux2-klein-4b": write_flux2, "z-image": write_z_image}


def measured(name: str, folder: Path, **run: Any) -> list[Row]:
    settings = Run([(64, 1)], 2, compiled=False, **run)
    return list(rows_of_base(name, folder, lambda base, path: TINY[base](path), settings))


@pytest.mark.slow
def test_every_training_has_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script is a stand-in that reports when its backward passes began."""

    def script(command: Sequence[Any], _: Path) -> Usage:
        options = dict(pairwise(command))
        assert all("attention" in layer for layer in options["--lora_layers"].split(","))
        begun = [(0.25 * number, 0.0) for number in range(options["--max_train_steps"])]
        command[2].write_text(json.dumps({"backward_begun": begun, "peak_bytes": 3e9}))
        return Usage(1.0, 1.0)

    monkeypatch.setattr(flow_bases, "run_measured", script)
    rows = measured("z-image", tmp_path, scripts={"z-image": [Path("script.py")]})
    assert [row["training"] for row in rows] == ["diffusers' script", "ours, bf16", "ours, fp8"]
    assert (rows[0]["step, ms"], rows[0]["images/s"], rows[0]["peak memory, GB"]) == (250.0, 4.0, 3.0)
    assert all(row["step, ms"] > 0 and row["peak memory, GB"] > 0 for row in rows)
    assert rows[1]["GFLOP a step"] == rows[2]["GFLOP a step"]


def test_a_script_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("script.py failed (2):\nerror: no such option")

    monkeypatch.setattr(flow_bases, "run_measured", fail)
    monkeypatch.setattr(flow_bases, "measure", lambda *_: [])
    (row,) = measured("flux2-klein-4b", tmp_path, scripts={"flux2-klein-4b": [tmp_path / "script.py"]})
    assert row["failed"] == "error: no such option" and row["training"] == "diffusers' script"


def test_nothing_begins_when_the_time_is_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert measured("z-image", tmp_path, ends=0.0) == []
    assert capsys.readouterr().out == "ours, bf16: left out, the time is over\nours, fp8: left out, the time is over\n"


def test_the_layers_of_a_script_are_ours(tmp_path: Path) -> None:
    layers = attention_layers(write_z_image(tmp_path / "base"))
    assert "layers.0.attention.to_q" in layers and not any("feed_forward" in layer for layer in layers)


@pytest.mark.parametrize(("name", "parameters"), [("flux2-klein-4b", 3.9e9), ("z-image", 6.2e9)])
def test_they_are_as_large_as_the_real_ones(name: str, parameters: float) -> None:
    """The models are on the meta device, so nothing is allocated."""
    with init_empty_weights():
        pipeline = FULL_SIZE[name]()
    found = sum(each.numel() for each in pipeline.transformer.parameters())
    assert math.isclose(found, parameters, rel_tol=0.02)
    assert pipeline.text_encoder.config.hidden_size == 2560
    assert next(pipeline.transformer.parameters()).device == torch.device("meta")
