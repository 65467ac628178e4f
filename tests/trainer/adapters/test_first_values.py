"""Tests of the initial values of a LoRA: they have no effect, follow their formulas, depend on the seed, and let both
projections learn in the first step or only one."""

from typing import Any

import pytest
import torch
from torch import nn

from artifact.layers import LoraLayer
from settings.record import ConfigError
from settings.training import build_config
from trainer.adapters.eva import start_modules
from trainer.adapters.first_values import PARTS_OF_WEIGHTS, STARTS, olora, pissa
from trainer.adapters.kind import ADAPTER
from trainer.adapters.peft_adapter import PeftAdapter


class Model(nn.Module):
    """A convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.linear = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        linear: torch.Tensor = self.linear(self.conv(x).mean(dim=(2, 3)))
        return linear


def adapted(start: str, seed: int = 1, rank: int = 4, drawn: int = 0) -> tuple[Model, PeftAdapter]:
    """`drawn`: how many values other code draws from torch's global generator before the adapter is added."""
    model = Model().requires_grad_(False)
    torch.rand(drawn)
    generator = torch.Generator().manual_seed(seed)
    return model, PeftAdapter(model, "lora", rank, 8.0, ["conv", "linear"], generator, start=start)


@pytest.mark.parametrize("start", ["kaiming", *STARTS])
def test_a_fresh_adapter_has_no_effect_and_off_is_the_base_itself(start: str) -> None:
    x = torch.randn(2, 3, 8, 8)
    bare = Model()(x)
    model, adapter = adapted(start)
    torch.testing.assert_close(model(x), bare, rtol=0, atol=1e-6)
    for layer in adapter.layers().values():
        weight = torch.zeros(5, 6) if layer.fits(torch.Size((5, 6))) else torch.zeros(6, 3, 3, 3)
        assert layer.delta(weight).abs().max() < 1e-6
    adapter.set_enabled(False)
    assert torch.equal(model(x), bare)


@pytest.mark.parametrize("start", ["kaiming", *STARTS])
def test_a_seed_is_one_start_whatever_torch_drew(start: str) -> None:
    first, again, other = (adapted(start, seed, drawn=drawn)[1].parameters for seed, drawn in ((1, 0), (1, 7), (2, 0)))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not all(torch.equal(*pair) for pair in zip(first, other, strict=True))


@pytest.mark.parametrize("start", ["kaiming", *STARTS])
def test_only_orthogonal_lets_both_projections_learn_at_once(start: str) -> None:
    model, adapter = adapted(start)
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    ups = {id(each) for each in adapter.up_projections}
    assert len(ups) == 2 and all(each.grad is not None and each.grad.any() for each in adapter.up_projections)
    downs = [each for each in adapter.parameters if id(each) not in ups]
    assert [bool(each.grad is not None and each.grad.any()) for each in downs] == [start == "orthogonal"] * 2


def test_the_sizes_are_those_of_the_formulas() -> None:
    down, up = torch.ones(8, 4000), torch.ones(3000, 8)
    STARTS["gaussian"](down, up, torch.Generator().manual_seed(0))
    assert down.std().item() == pytest.approx(1 / 8, rel=0.02) and not up.any()
    STARTS["orthogonal"](down, up, torch.Generator().manual_seed(0))
    for values in (down, up):
        assert values.square().mean().sqrt().item() == pytest.approx(0.5**0.5 / 10, rel=0.05)
        assert torch.linalg.matrix_rank(values, rtol=1e-4) == 4
    assert (up.double() @ down.double()).abs().max() < 1e-6 * (up.norm() * down.norm())


def linear(start: str, rank: int = 4, alpha: float = 8.0) -> tuple[nn.Linear, nn.Sequential, PeftAdapter]:
    """Returns a layer, a model that contains a copy of it, and the adapter on that model."""
    torch.manual_seed(0)
    layer = nn.Linear(9, 7).requires_grad_(False)
    model = nn.Sequential(nn.Linear(9, 7).requires_grad_(False))
    model[0].load_state_dict(layer.state_dict())
    return layer, model, PeftAdapter(model, "lora", rank, alpha, ["0"], torch.Generator().manual_seed(1), start=start)


def test_the_parts_are_those_of_the_decompositions() -> None:
    weight = torch.randn(7, 9, generator=torch.Generator().manual_seed(3))
    u, values, vh = torch.linalg.svd(weight)
    down, up = pissa(weight, 3, 2.0)
    torch.testing.assert_close(2 * up @ down, (u[:, :3] * values[:3]) @ vh[:3])
    torch.testing.assert_close(up.norm(dim=0), down.norm(dim=1))  # singular values are split evenly
    down, up = olora(weight, 3, 2.0)
    torch.testing.assert_close(up.T @ up, torch.eye(3))
    torch.testing.assert_close((up @ down)[:, :3], weight[:, :3])  # R is triangular
    torch.testing.assert_close(down, up.T @ weight)


@pytest.mark.parametrize("start", PARTS_OF_WEIGHTS)
@pytest.mark.parametrize("rank", [4, 8])
def test_a_part_of_the_weight_is_trained_without_touching_it(start: str, rank: int) -> None:
    """Rank 8 is more than the rank of the weight: the remaining components are initialised as in a plain LoRA."""
    layer, model, adapter = linear(start, rank)
    x, before = torch.randn(5, 9), layer.weight.clone()
    assert torch.equal(model(x), layer(x))
    assert all(each.changes_nothing for each in adapter.layers().values())
    down, up = (each.detach().clone() for each in adapter.parameters)
    assert {id(each) for each in adapter.undecayed} == {id(each) for each in adapter.parameters}
    model(x).square().sum().backward()
    gradients = torch.autograd.functional.jacobian(
        lambda a, b: nn.functional.linear(x, before + 8 / rank * (b @ a - up @ down), layer.bias).square().sum(),
        (down, up),
    )
    for parameter, gradient in zip(adapter.parameters, gradients, strict=True):
        assert parameter.grad is not None and gradient.norm() > 1e-3
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        for parameter in adapter.parameters:
            parameter.add_(1e-3 * torch.randn(parameter.shape))
    moved_down, moved_up = (each.detach() for each in adapter.parameters)
    change = 8 / rank * (moved_up.double() @ moved_down.double() - up.double() @ down.double())
    (found,) = adapter.layers().values()
    torch.testing.assert_close(found.delta(before).double(), change, rtol=1e-3, atol=1e-6)
    halves = LoraLayer(found.tensors()["lora_down.weight"].half(), found.tensors()["lora_up.weight"].half(), 2.0 * 8)
    assert (halves.delta(before) - change).norm() < 1e-3 * change.norm()  # no large values cancel in an fp16 file
    torch.testing.assert_close(model(x), nn.functional.linear(x, before + change.float(), layer.bias))
    adapter.set_enabled(False)
    assert torch.equal(model(x), layer(x))
    assert torch.equal(adapter.modules()[0].get_base_layer().weight, before)
    adapter.remove()
    assert type(model[0]) is nn.Linear and torch.equal(model[0].weight, before)


def test_eva_begins_with_the_main_directions_of_the_inputs() -> None:
    layer, model, adapter = linear("eva", rank=3)
    batches = [torch.randn(6, 4, 9) * torch.arange(1, 10) for _ in range(2)]
    share = start_modules(adapter.modules(), lambda: [model(batch) for batch in batches])  # type: ignore[arg-type]
    _, values, vh = torch.linalg.svd(torch.cat(batches).flatten(0, 1), full_matrices=False)
    (module,) = adapter.modules()
    down = module.lora_A[ADAPTER].weight.detach()
    torch.testing.assert_close((down * vh[:3]).sum(1).abs(), torch.ones(3))  # equal except for the sign
    assert share == pytest.approx(float(values[:3].square().sum() / values.square().sum()), rel=1e-5)
    assert torch.equal(model(batches[0]), layer(batches[0]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora_init": "pissa", "adapter": "dora"}, "pissa works with lora and rslora, not with dora"),
        ({"lora_init": "olora", "adapter_l1_weight": 0.1}, "whose initial adapter is a part of the base weight"),
        (
            {"lora_init": "orthogonal", "adapter": "loha"},
            "lora_init works with lora, rslora, dora and t-lora, not with loha",
        ),
        ({"lora_init": "gaussian", "adapter": "none"}, "lora_init has no effect with adapter: none"),
        ({"lora_init": "orthogonal", "rank": 3}, "3 is odd; set an even one"),
        ({"lora_init": "orthogonal", "train_text_encoder": True, "text_encoder_rank": 5}, "5 is odd"),
    ],
)
def test_what_has_no_effect_is_an_error(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(values)
