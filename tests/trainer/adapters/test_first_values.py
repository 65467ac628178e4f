"""First values of a LoRA: without effect, by their formula, the same for a seed, and both trainable at once or not."""

from typing import Any

import pytest
import torch
from torch import nn

from settings.record import ConfigError
from settings.training import build_config
from trainer.adapters.first_values import STARTS
from trainer.adapters.peft_adapter import PeftAdapter


class Model(nn.Module):
    """A layer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.linear = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        linear: torch.Tensor = self.linear(self.conv(x).mean(dim=(2, 3)))
        return linear


def adapted(start: str, seed: int = 1, rank: int = 4) -> tuple[Model, PeftAdapter]:
    model = Model().requires_grad_(False)
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
    first, again, other = (adapted(start, seed)[1].parameters for seed in (1, 1, 2))
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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"lora_init": "orthogonal", "adapter": "loha"},
            "lora_init works with lora, rslora, dora and t-lora, not with loha",
        ),
        ({"lora_init": "gaussian", "adapter": "none"}, "lora_init has no effect with adapter: none"),
        ({"lora_init": "orthogonal", "rank": 3}, "3 is odd; choose an even one"),
        ({"lora_init": "orthogonal", "train_text_encoder": True, "text_encoder_rank": 5}, "5 is odd"),
    ],
)
def test_what_has_no_effect_is_an_error(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(values)
