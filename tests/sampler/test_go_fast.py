"""Tests of matrix products in fp8, which a CPU can also compute: their values, images, and refused requests."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from artifact.artifact import Artifact
from artifact.layers import LohaLayer, LoraLayer
from families.loading.fingerprint import fingerprint
from families.precision.fp8_products import Fp8Linear, has_fp8_products
from sampler.extras import Extras
from sampler.generation import Generation
from sampler.request import RequestError, SampleRequest
from sampler.weights import ScaledArtifact
from tests.tiny_models import load_tiny, write_z_image

CPU = torch.device("cpu")
REQUEST = SampleRequest("a dog", width=64, height=64, num_inference_steps=1, guidance_scale=1.0, seed=3)
LAYER = "transformer.layers.0.attention.to_q"


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sampler.local_base.has_fp8_products", lambda _: True)


def drawn(generation: Generation, base: Path, *loras: Artifact, go_fast: bool) -> np.ndarray[Any, Any]:
    scaled = [ScaledArtifact(lora, 1.0, "lora") for lora in loras]
    found = generation.generate(REQUEST, scaled, str(base), extras=Extras(go_fast=go_fast))
    assert ("Precision: fp8" in found.parameters[0]) == go_fast
    return np.asarray(found.images[0], dtype=np.float32)


def lora(size: float) -> Artifact:
    generator = torch.Generator().manual_seed(0)
    down, up = (size * torch.randn(shape, generator=generator) for shape in ((4, 32), (32, 4)))
    return Artifact({LAYER: LoraLayer(down, up, 4.0)}, {}, None)


def test_a_product_is_that_of_the_rounded_factors() -> None:
    generator = torch.Generator().manual_seed(0)
    layer, x = nn.Linear(64, 48), torch.randn(2, 5, 64, generator=generator)
    fast = Fp8Linear(layer, CPU)

    def rounded(rows: torch.Tensor) -> torch.Tensor:
        scale = rows.abs().amax(-1, keepdim=True) / 448
        return (rows / scale).to(torch.float8_e4m3fn).float() * scale

    wanted = rounded(x) @ rounded(layer.weight.detach()).T + layer.bias.detach()
    torch.testing.assert_close(fast(x), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast.weight, rounded(layer.weight.detach()))
    exact = layer(x).detach()
    assert 0 < float((fast(x) - exact).norm() / exact.norm()) < 0.06
    assert not fast(torch.zeros(1, 64)).isnan().any()


@pytest.mark.slow
def test_pictures_differ_a_little_and_the_base_comes_back(tmp_path: Path, anywhere: None) -> None:
    base, generation = write_z_image(tmp_path / "base"), Generation(say=lambda _: None)
    exact = drawn(generation, base, lora(0.5), go_fast=False)
    fast = drawn(generation, base, lora(0.5), go_fast=True)
    assert 0 < np.abs(fast - exact).mean() < 3  # of 255 levels
    assert np.array_equal(drawn(generation, base, lora(0.5), go_fast=False), exact)


def test_the_fingerprint_stays(tmp_path: Path, anywhere: None) -> None:
    base = write_z_image(tmp_path / "base")
    family = Generation(say=lambda _: None).prepare(None, str(base), go_fast=True).family
    assert fingerprint(family.denoiser) == fingerprint(load_tiny("z-image", tmp_path / "again").denoiser)
    layers = [module for module in family.denoiser.layers.modules() if isinstance(module, nn.Linear)]
    whole = [layer for layer in layers if layer.in_features % 16 == 0 and layer.out_features % 16 == 0]
    assert whole and all(isinstance(layer, Fp8Linear) for layer in whole)


def test_a_cpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    base, generation = write_z_image(tmp_path / "base"), Generation(say=lambda _: None)
    with pytest.raises(RequestError, match=r"^go_fast: needs a GPU that supports fp8 .* this is a CPU. Leave it out$"):
        drawn(generation, base, go_fast=True)


@pytest.mark.parametrize(("capability", "found"), [((8, 0), False), ((8, 9), True), ((9, 0), True), ((12, 0), True)])
def test_which_gpus_have_them(capability: tuple[int, int], found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: capability)
    assert has_fp8_products(torch.device("cuda")) == found and not has_fp8_products(CPU)


def test_a_lora_that_changes_weights_is_refused(tmp_path: Path, anywhere: None) -> None:
    a, b = torch.ones(32, 2), torch.ones(2, 32)
    loha = Artifact({LAYER: LohaLayer(w1_a=a, w1_b=b, w2_a=a, w2_b=b, alpha=2.0)}, {}, None)
    with pytest.raises(RequestError, match=r"^go_fast: .*to_q is a loha layer, .* artifact resize"):
        drawn(Generation(say=lambda _: None), write_z_image(tmp_path / "base"), loha, go_fast=True)
