"""Tests of compiled blocks in the predictor: LoRAs are exchanged without recompilation, and the base is restored."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch._dynamo.utils import counters

from artifact.artifact import Artifact
from artifact.layers import Gate, GatedLayer, Layer, LohaLayer, LoraLayer, TimedLoraLayer
from artifact.placement.compilation import Compilation, CompiledDrawing
from families.controls.control import controllable
from families.family import ModelFamily
from families.parts.blocks import repeated_blocks
from families.precision.fp8_products import Fp8Linear
from sampler.generation import Generation
from sampler.local_base import place_on
from sampler.request import Control, SampleRequest
from sampler.sampler import Sampler
from sampler.weights import ScaledArtifact
from service.cog_prediction import CogPredictions
from service.policy.compilation import compilation_from_environment
from service.predict_command import main as predict_command
from settings.record import ConfigError
from tests.tiny_models import load_tiny

REQUEST = SampleRequest("a dog", width=32, height=32, num_inference_steps=2, guidance_scale=2.0, seed=3)
COMPILATION = Compilation(rank=8, backend="eager")
PATHS = [f"mid_block.attentions.0.transformer_blocks.0.attn{part}.to_{layer}" for part in (1, 2) for layer in "qv"]
TOLERANCE = 1
"""Largest difference, of 255 levels, in fp32: zeros with which a LoRA is padded change the order of a sum."""


@pytest.fixture(autouse=True)
def fresh_counters() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> ModelFamily:
    return load_tiny("sdxl", tmp_path_factory.mktemp("compiled") / "base")


@pytest.fixture
def plain(family: ModelFamily) -> Sampler:
    return Sampler(family)


@pytest.fixture
def compiled(family: ModelFamily) -> Sampler:
    return Sampler(family, COMPILATION)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lora(family: ModelFamily, rank: int, seed: int, alpha: float) -> Artifact:
    layers: dict[str, Layer] = {}
    for path in PATHS:
        outputs, inputs = family.denoiser.get_submodule(path).weight.shape
        layers[f"unet.{path}"] = LoraLayer(random(rank, inputs, seed=seed), random(outputs, rank, seed=seed), alpha)
    return Artifact(layers, {}, None)


def drawn(sampler: Sampler, *loras: tuple[Artifact, float], request: SampleRequest = REQUEST) -> np.ndarray[Any, Any]:
    sampler.load_several(loras)
    try:
        return np.asarray(sampler.generate(request)[0], dtype=np.int16)
    finally:
        sampler.unload()


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def difference(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> int:
    return int(np.abs(one - other).max())


@pytest.mark.slow
def test_loras_of_other_ranks_and_scales_are_exchanged_without_recompiling(plain: Sampler, compiled: Sampler) -> None:
    family = plain.family
    bare = drawn(compiled)
    requests = [(lora(family, 4, 1, 16.0), 1.0), (lora(family, 2, 2, 12.0), 0.7), (lora(family, 8, 3, 24.0), -1.0)]
    counts = []
    for request in requests:
        ours = drawn(compiled, request)
        counts.append(graphs())
        assert difference(ours, drawn(plain, request)) <= TOLERANCE
        assert difference(ours, bare) > 5 * TOLERANCE
    assert counts == [2, 2, 2]  # the block without a LoRA, and with one
    assert np.array_equal(drawn(compiled), bare) and graphs() == 2
    assert difference(drawn(compiled, *requests[:2]), drawn(plain, *requests[:2])) <= TOLERANCE and graphs() == 3
    drawn(compiled, requests[0])
    assert graphs() == 3
    assert difference(bare, drawn(plain)) <= TOLERANCE
    assert not counters["graph_break"]
    assert all(block._compiled_call_impl is None for block in repeated_blocks(family.denoiser))  # outside of sampling


def test_layers_that_change_weights_are_drawn_by_the_graph_of_the_base(plain: Sampler, compiled: Sampler) -> None:
    drawn(compiled)
    before, width = graphs(), plain.family.denoiser.get_submodule(PATHS[0]).weight.shape[0]
    a, b = random(width, 2, seed=1), random(2, width, seed=2)
    loha = Artifact({f"unet.{PATHS[0]}": LohaLayer(w1_a=a, w1_b=b, w2_a=a, w2_b=b, alpha=2.0)}, {}, None), 1.0
    assert difference(drawn(compiled, loha), drawn(plain, loha)) <= TOLERANCE
    assert graphs() == before


def test_a_controlnet_steers_compiled_blocks(plain: Sampler, compiled: Sampler) -> None:
    maker = controllable(plain.family)
    assert maker is not None
    controlnet = maker.new_controlnet().eval()
    for number, parameter in enumerate(controlnet.parameters()):
        parameter.data += 0.1 * random(*parameter.shape, seed=number)
    request = replace(REQUEST, control=Control(controlnet, Image.new("RGB", (32, 32), "red"), 1.0))
    steered = drawn(compiled, request=request)
    assert graphs() and difference(steered, drawn(plain, request=request)) <= TOLERANCE
    assert difference(steered, drawn(plain)) > 5 * TOLERANCE


def test_what_compiled_blocks_cannot_draw_is_drawn_without_and_said(plain: Sampler, compiled: Sampler) -> None:
    large = lora(plain.family, 9, 1, 4.0)
    times = torch.tensor([[0.0, 0.5]]).repeat(4, 1)
    timed = Artifact(
        {name: TimedLoraLayer(layer, times) for name, layer in lora(plain.family, 4, 1, 4.0).layers.items()
         if isinstance(layer, LoraLayer)}, {}, None,
    )  # fmt: skip
    for artifact, words in ((large, "of rank 9 is above COMPILE_RANK=8"), (timed, "limited to some timesteps")):
        (note,) = compiled.load_several([(artifact, 1.0)])
        assert note.startswith("generating without compilation: ") and words in note
        assert np.array_equal(drawn(compiled, (artifact, 1.0)), drawn(plain, (artifact, 1.0)))
    state = torch.ones(1, 8)
    edit = Artifact({"a": GatedLayer(torch.ones(1, 4), Gate(state, state, state, 0.5, 0.1))}, {}, None)
    drawing = CompiledDrawing(plain.family, COMPILATION)
    obstacle = drawing.obstacle([edit])
    assert obstacle is not None and "Perfusion" in obstacle
    convolution = LoraLayer(torch.ones(9, 4, 3, 3), torch.ones(4, 9, 1, 1), 1.0)  # outside the blocks
    assert drawing.obstacle([Artifact({"a": convolution}, {}, None)]) is None
    assert graphs() == 0


@pytest.mark.slow
def test_products_in_fp8_are_compiled_too(tmp_path: Path) -> None:
    fast = place_on(load_tiny("sdxl", tmp_path / "base"), torch.device("cpu"), go_fast=True)
    assert any(isinstance(module, Fp8Linear) for module in fast.denoiser.modules())
    request = lora(fast, 4, 1, 16.0), 1.0
    assert difference(drawn(Sampler(fast, COMPILATION), request), drawn(Sampler(fast), request)) <= TOLERANCE
    assert graphs()


def test_a_request_is_drawn_with_compiled_blocks(family: ModelFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sampler.generation.load_base_model", lambda *arguments, **options: family)
    said: list[str] = []
    loras = [ScaledArtifact(lora(family, 9, 1, 4.0), 1.0, "large")]
    generation = Generation(said.append, compilation=COMPILATION)
    generation.generate(replace(REQUEST, num_inference_steps=1), loras, "base")
    assert any(line.startswith("warning: generating without compilation: a LoRA of rank 9") for line in said)
    generation.generate(replace(REQUEST, num_inference_steps=1), [], "base")
    assert graphs() == 1


def test_the_operators_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COMPILE_DENOISER", "COMPILE_CACHE", "COMPILE_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert compilation_from_environment() is None
    monkeypatch.setenv("COMPILE_RANK", "16")
    with pytest.raises(ConfigError, match="^COMPILE_RANK: has no effect without COMPILE_DENOISER=1"):
        compilation_from_environment()
    monkeypatch.setenv("COMPILE_DENOISER", "1")
    monkeypatch.setenv("COMPILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/g++")
    assert compilation_from_environment() == Compilation(tmp_path / "cache", 16)
    assert (tmp_path / "cache").is_dir()
    monkeypatch.setenv("COMPILE_RANK", "-1")
    with pytest.raises(ConfigError, match="^COMPILE_RANK: '-1' is not a whole number above 0"):
        compilation_from_environment()
    (tmp_path / "file").touch()
    monkeypatch.setenv("COMPILE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ConfigError, match="^COMPILE_CACHE: .*cannot be created"):
        compilation_from_environment()
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ConfigError, match=r"^COMPILE_DENOISER: needs a C\+\+ compiler"):
        compilation_from_environment()


def test_command_and_server_say_what_is_wrong_with_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMPILE_DENOISER", "often")
    assert predict_command(["a dog", "--base_model", "mini-sdxl", "--output", str(tmp_path / "out")]) != 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].endswith("COMPILE_DENOISER: 'often' is neither 1 nor 0") and "Traceback" not in "".join(lines)
    with pytest.raises(ConfigError, match="^COMPILE_DENOISER: 'often' is neither 1 nor 0"):
        CogPredictions(None)
