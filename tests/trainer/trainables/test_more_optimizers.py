"""Tests of Lion, CAME, Muon and LoRA+ against their formulas."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from settings.record import ConfigError
from settings.sections.optimization import OptimizerName
from settings.training import build_config
from tests.trainer.trainables.test_optimizers import loss_of, trainable, weights
from trainer.optimizers import extras
from trainer.optimizers.came import CAME_BETAS
from trainer.optimizers.registry import build_optimizer
from trainer.optimizers.settings import BETAS, OptimizerSettings
from trainer.trainables.schedules import ScheduleSettings
from trainer.trainables.trainable import Trainable

NEW: tuple[OptimizerName, ...] = ("came", "lion", "muon")
RATE, DECAY, STEPS = 1e-2, 0.1, 4


def needed(name: OptimizerName) -> None:
    if name in extras.EXTRAS:
        pytest.importorskip(extras.EXTRAS[name].module, reason="requirements-dev.txt has it")


def trained(name: OptimizerName, parameters: list[nn.Parameter]) -> list[list[Tensor]]:
    """Trains STEPS steps on `loss_of` the first two parameters. Returns the gradients of each step."""
    optimizer, gradients = build_optimizer(parameters, OptimizerSettings(name, RATE, DECAY)), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss_of(parameters[:2]).backward()
        gradients.append([each.grad.clone() for each in parameters if each.grad is not None])
        optimizer.step()
    return gradients


@pytest.mark.parametrize("name", NEW)
def test_a_loss_falls(name: OptimizerName) -> None:
    needed(name)
    it = trainable(name, 0.005 if name == "lion" else 0.03, total=150)
    before = loss_of(it.parameters).item()
    for _ in range(150):
        loss_of(it.parameters).backward()
        assert torch.isfinite(it.clip())
        it.update()
    assert loss_of(it.parameters).item() < 0.8 * before


@pytest.mark.parametrize("name", NEW)
def test_a_state_that_is_read_back_goes_on_bit_for_bit(name: OptimizerName) -> None:
    needed(name)
    whole, cut = trainable(name, 0.01), trainable(name, 0.01)
    for step in range(6):
        if step == 3:
            cut.load_state_dict(copy.deepcopy(whole.state_dict()), 3)
        for it in (whole, cut) if step >= 3 else (whole,):
            loss_of(it.parameters).backward()
            it.update()
    assert all(torch.equal(*pair) for pair in zip(whole.parameters, cut.parameters, strict=True))


def test_lion_is_its_formula() -> None:
    needed("lion")
    parameters, expected = weights(), [each.detach().double() for each in weights()]
    momenta = [torch.zeros_like(each) for each in expected]
    for gradients in trained("lion", parameters):
        for index, gradient in enumerate(gradients):
            step = (0.9 * momenta[index] + 0.1 * gradient.double()).sign()
            expected[index] = expected[index] * (1 - RATE * DECAY) - RATE * step
            momenta[index] = 0.99 * momenta[index] + 0.01 * gradient.double()
    for found, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(found.detach().double(), wanted, rtol=1e-5, atol=1e-6)


def factored(average: dict[str, Any], name: str, values: Tensor, beta: float) -> Tensor:
    """Returns 1 / √(R Cᵀ / mean R), where R and C are averages of the means of rows and columns."""
    for axis, key in ((1, f"{name} rows"), (0, f"{name} columns")):
        average[key] = beta * average.get(key, 0.0) + (1 - beta) * values.mean(dim=axis)
    rows, columns = average[f"{name} rows"], average[f"{name} columns"]
    found: Tensor = (torch.outer(rows, columns) / rows.mean()) ** -0.5
    return found


def test_came_is_its_formula_with_the_matrices_as_they_are() -> None:
    needed("came")
    parameters, expected = weights(), [each.detach().double() for each in weights()]
    averages: list[dict[str, Any]] = [{}, {}]
    first, second, third = CAME_BETAS
    for gradients in trained("came", parameters):
        for index, (gradient, average) in enumerate(zip(gradients, averages, strict=True)):
            wide = gradient.double()
            update = wide * factored(average, "squares", wide**2 + 1e-30, second)
            update = update / max(1.0, update.square().mean().sqrt().item())
            average["momentum"] = first * average.get("momentum", 0.0) + (1 - first) * update
            unsure = factored(average, "instability", (update - average["momentum"]) ** 2 + 1e-16, third)
            expected[index] = expected[index] * (1 - RATE * DECAY) - RATE * unsure * average["momentum"]
    for found, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(found.detach().double(), wanted, rtol=1e-3, atol=1e-4)


def test_muon_steps_along_the_singular_vectors_of_the_momentum() -> None:
    """All singular values of a step are about 1, times 0.2 · √(longer side) · rate."""
    parameter = nn.Parameter(torch.randn(8, 20, generator=torch.Generator().manual_seed(1)))
    before, gradient = parameter.detach().clone(), torch.randn(8, 20, generator=torch.Generator().manual_seed(2))
    parameter.grad = gradient.clone()
    build_optimizer([parameter], OptimizerSettings("muon", RATE, DECAY)).step()
    step = (before * (1 - RATE * DECAY) - parameter.detach()) / (RATE * 0.2 * math.sqrt(20))
    left, _, right = torch.linalg.svd(gradient, full_matrices=False)
    inside = left.T @ step @ right.T
    assert ((inside.diagonal() > 0.6) & (inside.diagonal() < 1.3)).all()
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 0.05
    assert step.square().mean().sqrt().item() * 0.2 * math.sqrt(20) == pytest.approx(0.2, rel=0.2)


def test_muon_leaves_what_is_no_matrix_to_adamw() -> None:
    vector, kernel = torch.randn(5), torch.randn(2, 3, 3, 3)
    ours, plain = ([nn.Parameter(each.clone()) for each in (vector, kernel)] for _ in range(2))
    mixed = build_optimizer([*weights(), *ours], OptimizerSettings("muon", RATE, DECAY), undecayed=ours[:1])
    groups: list[dict[str, Any]] = [{"params": plain[:1], "weight_decay": 0.0}, {"params": plain[1:]}]
    adamw = torch.optim.AdamW(groups, RATE, (0.9, 0.99), weight_decay=DECAY)
    for optimizer, parameters in ((mixed, ours), (adamw, plain)):
        for _ in range(STEPS):
            optimizer.zero_grad()
            sum(each.square().sum() for each in parameters).backward()  # type: ignore[union-attr]
            optimizer.step()
    assert all(torch.equal(*pair) for pair in zip(ours, plain, strict=True))


def test_lora_plus_is_two_rates_that_follow_one_schedule() -> None:
    """Compared with two optimizers, one with a rate 4 times as high."""
    parameters, apart = weights(), weights()
    it = Trainable(
        "lora", parameters, optimizer=OptimizerSettings("adamw", RATE, DECAY, up_ratio=4.0),
        schedule=ScheduleSettings("linear", 0), max_grad_norm=1e9, total_steps=10, ups=parameters[1:],
    )  # fmt: skip
    slow, fast = (torch.optim.AdamW([each], 1.0, BETAS, weight_decay=DECAY) for each in apart)
    for step in range(6):
        rates = {"lora": RATE * (1 - step / 10), "lora_up": 4 * RATE * (1 - step / 10)}
        assert it.learning_rates == pytest.approx(rates) and it.learning_rate == pytest.approx(rates["lora"])
        slow.param_groups[0]["lr"], fast.param_groups[0]["lr"] = rates.values()
        loss_of(parameters).backward()
        loss_of(apart).backward()
        it.update()
        for optimizer in (slow, fast):
            optimizer.step()
            optimizer.zero_grad()
    for one, other in zip(parameters, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_lora_plus_does_not_decay_parameters_without_decay() -> None:
    """With lora_init: pissa the up projections begin as a part of the base's weight, which decay would remove."""
    down, up = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3, 2))
    optimizer = build_optimizer([down, up], OptimizerSettings("adamw", RATE, DECAY, up_ratio=4.0), [down, up], [up])
    down.grad, up.grad = torch.zeros_like(down), torch.zeros_like(up)
    optimizer.step()
    assert torch.equal(down.detach(), torch.ones(2, 3)) and torch.equal(up.detach(), torch.ones(3, 2))
    assert [group["lr"] for group in optimizer.param_groups] == [RATE, 4 * RATE]


def test_lora_plus_with_muon_reports_the_rate_of_the_up_projections() -> None:
    """Muon's groups are ordered by the shapes of their parameters: DoRA's magnitudes come last."""
    down, up, magnitudes = (nn.Parameter(torch.ones(shape)) for shape in ((2, 3), (3, 2), (3,)))
    it = Trainable(
        "lora", [down, up, magnitudes], optimizer=OptimizerSettings("muon", RATE, up_ratio=4.0),
        schedule=ScheduleSettings("constant", 0), max_grad_norm=1.0, total_steps=2, undecayed=[magnitudes], ups=[up],
    )  # fmt: skip
    assert it.learning_rates == pytest.approx({"lora": RATE, "lora_up": 4 * RATE})


@pytest.mark.parametrize("values", [{"optimizer": "prodigy"}, {"adapter": "loha"}, {"adapter": "full"}])
def test_lora_plus_is_refused_where_it_means_nothing(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="lora_plus_ratio"):
        build_config(values | {"lora_plus_ratio": 4} | ({"learning_rate": 1e-5} if "adapter" in values else {}))


def test_lion_has_a_rate_of_its_own_and_muon_trains_no_tokens() -> None:
    config = build_config({"optimizer": "lion", "token_optimizer": "lion"})
    assert config.resolved_learning_rate == pytest.approx(2e-5)
    assert config.resolved_token_learning_rate == pytest.approx(2e-4)
    assert config.resolved_text_encoder_learning_rate == pytest.approx(1e-5)
    with pytest.raises(ConfigError, match="muon needs weight matrices, and adapter: oft"):
        build_config({"optimizer": "muon", "adapter": "oft"})
    with pytest.raises(ConfigError, match="token_optimizer: muon .* choose adamw"):
        build_config({"token_optimizer": "muon"})
