"""Tests of the formats of stored weights: their size, their rounding errors, and a layer's output with them."""

import pytest
import torch
from torch import nn

from families.precision.formats import FORMATS, NF4_VALUES, Nf4, PrecisionOfBase
from families.precision.stored_linear import StoredLinear

CPU = torch.device("cpu")
SHAPE = (96, 128)


def weight(dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "most", "rounding"), [("bf16", 16, 0.0), ("fp8", 8.4, 0.026), ("int8", 8.4, 0.007), ("nf4", 4.5, 0.093)]
)
def test_bits_of_a_value_and_rounding(name: PrecisionOfBase, most: float, rounding: float, dtype: torch.dtype) -> None:
    """`most`: upper limit of the bits per bf16 value, including scales. `rounding`: the expected error of normally
    distributed values, relative to their norm."""
    values = weight(dtype)
    stored = FORMATS[name].encode(values)
    again = FORMATS[name].decode(stored, SHAPE)
    assert again.dtype == dtype and again.shape == SHAPE
    assert ((again - values).norm() / values.norm()).item() == pytest.approx(rounding, rel=0.1, abs=1e-4)
    if dtype == torch.bfloat16:
        assert 8 * sum(tensor.nbytes for tensor in stored[:2]) / values.numel() <= most
    empty = FORMATS[name].encode(values.to("meta"))  # as for the prediction of memory
    assert [(each.shape, each.dtype) for each in empty] == [(each.shape, each.dtype) for each in stored]
    assert not any(tensor.is_floating_point() and tensor.dtype != dtype for tensor in stored)


@pytest.mark.parametrize("name", ["fp8", "int8", "nf4"])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_no_size_of_weights_is_lost(name: PrecisionOfBase, size: float) -> None:
    values = weight(torch.float32) * size
    values[0] = 0
    again = FORMATS[name].decode(FORMATS[name].encode(values), SHAPE)
    assert torch.isfinite(again).all() and not again[0].any()
    torch.testing.assert_close(again, values, rtol=0, atol=0.6 * size)


@pytest.mark.parametrize("name", ["fp8", "int8", "nf4"])
def test_small_rows_of_fp16_stay_finite(name: PrecisionOfBase) -> None:
    values = weight(torch.float16)
    values[0], values[1] = 0, values[1] * 1e-5
    again = FORMATS[name].decode(FORMATS[name].encode(values), SHAPE)
    assert torch.isfinite(again).all() and not again[0].any()
    assert (again[1] - values[1]).norm() < 0.5 * values[1].norm()


def test_nf4_takes_the_nearest_value_and_packs_in_order() -> None:
    values = torch.tensor(NF4_VALUES).repeat(4)[None] * 3
    codes, _, _ = stored = Nf4().encode(values)
    assert codes[:8].tolist() == [0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF]
    torch.testing.assert_close(Nf4().decode(stored, (1, 64)), values)
    drawn = weight(torch.float32).view(-1, 64)
    shares = drawn / drawn.abs().amax(1, keepdim=True)
    nearest = (shares[..., None] - torch.tensor(NF4_VALUES)).abs().amin(-1)
    again = Nf4().decode(Nf4().encode(drawn), (192, 64)) / drawn.abs().amax(1, keepdim=True)
    torch.testing.assert_close((again - shares).abs(), nearest, rtol=0, atol=1e-6)
    assert Nf4().holds(values) and not Nf4().holds(torch.zeros(3, 5))


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_layer_computes_with_what_is_stored(name: PrecisionOfBase) -> None:
    plain = nn.Linear(128, 96)
    plain.weight.data = weight(torch.float32)
    stored = StoredLinear(plain, FORMATS[name], CPU)
    plain.weight.data = stored.weight
    x = torch.randn(2, 5, 128, requires_grad=True)
    pull = torch.randn(2, 5, 96)
    assert torch.equal(stored(x), plain(x))
    torch.testing.assert_close(
        torch.autograd.grad(stored(x), x, pull)[0], torch.autograd.grad(plain(x), x, pull)[0], rtol=1e-5, atol=1e-5
    )
    assert not any(parameter.requires_grad for parameter in stored.parameters())


@pytest.mark.parametrize("name", list(FORMATS))
def test_what_is_offloaded_stays_while_the_layer_computes_elsewhere(name: PrecisionOfBase) -> None:
    """The meta device stands in for a GPU: its matrix products do not accept CPU tensors."""
    layer = StoredLinear(nn.Linear(128, 96), FORMATS[name], CPU, offloaded=True).to("meta")
    assert {each.device.type for each in layer.stored} == {"cpu"} and layer.weight.is_meta
    x = torch.empty(5, 128, device="meta", requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and x.grad.is_meta and {each.device.type for each in layer.stored} == {"cpu"}
    moved = StoredLinear(nn.Linear(128, 96), FORMATS[name], CPU).to("meta")
    assert {each.device.type for each in moved.stored} == {"meta"}
