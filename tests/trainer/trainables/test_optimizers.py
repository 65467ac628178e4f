"""Tests of optimizers and schedules: every optimizer lowers a loss, errors name what is missing, and phases of a
schedule have no effect outside their steps."""

import sys
import types
from typing import Any

import pytest
import torch
from prodigyopt import Prodigy
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from settings.record import ConfigError
from settings.sections.optimization import OptimizerName
from settings.training import build_config
from trainer.optimizers import extras
from trainer.optimizers.registry import OPTIMIZERS, build_optimizer
from trainer.optimizers.settings import BETAS, OptimizerSettings
from trainer.trainables.registry import require_optimizers
from trainer.trainables.schedules import ScheduleSettings, multiplier
from trainer.trainables.trainable import Trainable

HERE: list[OptimizerName] = [name for name in OPTIMIZERS if name not in extras.EXTRAS]


def weights() -> list[nn.Parameter]:
    """Returns parameters like those of a new LoRA: a random matrix and one of zeros."""
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(4, 16, generator=generator)), nn.Parameter(torch.zeros(16, 4))]


def loss_of(parameters: list[nn.Parameter]) -> torch.Tensor:
    down, up = parameters
    return (up @ down - torch.eye(16)).square().mean()


def trainable(name: OptimizerName, rate: float, total: int = 60, **schedule: Any) -> Trainable:
    settings = ScheduleSettings(schedule.pop("scheduler", "constant"), schedule.pop("warmup", 5), **schedule)
    optimizer = OptimizerSettings(name, rate)
    return Trainable("x", weights(), optimizer=optimizer, schedule=settings, max_grad_norm=1.0, total_steps=total)


@pytest.mark.parametrize("name", HERE)
def test_every_optimizer_lowers_a_loss(name: OptimizerName) -> None:
    it = trainable(name, 1.0 if name == "prodigy" else 0.02, total=150)
    before = loss_of(it.parameters).item()
    for _ in range(150):
        loss_of(it.parameters).backward()
        assert torch.isfinite(it.clip())
        it.update()
    assert loss_of(it.parameters).item() < 0.8 * before


def test_the_fused_kernel_is_the_plain_formula() -> None:
    fused, plain = weights(), weights()
    optimizers = (build_optimizer(fused, OptimizerSettings("adamw", 1e-2, 0.1)),
                  torch.optim.AdamW(plain, lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1, fused=False))  # fmt: skip
    for parameters, optimizer in zip((fused, plain), optimizers, strict=True):
        for _ in range(10):
            optimizer.zero_grad()
            loss_of(parameters).backward()
            optimizer.step()
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


class Reads(TorchDispatchMode):
    """Counts reads of tensor values: on a GPU each one waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_prodigy_reads_as_little_for_many_parameters_and_does_the_same() -> None:
    ours, plain = [*weights(), *weights()], [*weights(), *weights()]
    optimizers = (
        build_optimizer(ours, OptimizerSettings("prodigy", 1.0, 0.1)),
        Prodigy([{"params": plain, "weight_decay": 0.1}], lr=1.0, betas=BETAS, use_bias_correction=True,
                safeguard_warmup=True),
    )  # fmt: skip
    reads = []
    for parameters, optimizer in zip((ours, plain), optimizers, strict=True):
        for _ in range(30):
            optimizer.zero_grad()
            (loss_of(parameters[:2]) + 2 * loss_of(parameters[2:])).backward()
            with Reads() as counted:
                optimizer.step()
        reads.append(counted.count)
    assert reads[0] <= 2 < reads[1]
    assert optimizers[0].param_groups[0]["d"] > 10 * optimizers[0].param_groups[0]["d0"]
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_prodigy_keeps_its_settings_that_guard_it(capsys: pytest.CaptureFixture[str]) -> None:
    optimizer = build_optimizer(weights(), OptimizerSettings("prodigy", 1.0, weight_decay=0.01, d_coef=0.5))
    group = optimizer.param_groups[0]
    assert group["safeguard_warmup"] and group["use_bias_correction"] and group["decouple"]
    assert (group["lr"], group["d_coef"], group["weight_decay"]) == (1.0, 0.5, 0.01)
    assert capsys.readouterr().out == ""  # its output would be among the progress lines


def test_half_precision_is_refused() -> None:
    half = [nn.Parameter(torch.zeros(2, dtype=torch.float16))]
    with pytest.raises(ValueError, match="not fp32"):
        Trainable("x", half, optimizer=OptimizerSettings("prodigy", 1.0), schedule=ScheduleSettings("constant", 0),
                  max_grad_norm=1.0, total_steps=1)  # fmt: skip


@pytest.mark.parametrize("name", extras.EXTRAS)
def test_an_optimizer_that_is_not_installed_names_its_package(
    name: OptimizerName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda module: None)
    with pytest.raises(ConfigError, match=f"pip install {extras.EXTRAS[name].package}"):
        build_optimizer(weights(), OptimizerSettings(name, 1e-3))


def test_the_setting_of_the_tokens_optimizer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda module: None)
    settings = build_config({"token_optimizer": "lion"}).optimization
    with pytest.raises(ConfigError, match=r"^token_optimizer: lion needs .* or set token_optimizer: adamw"):
        require_optimizers(settings)


def test_eight_bits_need_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda module: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="needs a GPU"):
        build_optimizer(weights(), OptimizerSettings("adamw_8bit", 1e-3))


def test_extras_are_called_with_their_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins with the packages' class names record their arguments. What the packages compute is not tested."""
    seen: dict[str, dict[str, Any]] = {}

    def stand_in(name: str) -> type[torch.optim.SGD]:
        class StandIn(torch.optim.SGD):
            def __init__(self, parameters: Any, lr: float, **options: Any) -> None:
                seen[name] = {"lr": lr, **options}
                super().__init__(parameters, lr=lr)

        return StandIn

    modules = {"schedulefree": {"AdamWScheduleFree": stand_in("adamw_schedule_free")},
               "prodigyplus": {"ProdigyPlusScheduleFree": stand_in("prodigy_schedule_free")}}  # fmt: skip
    for module, contents in modules.items():
        monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**contents, __spec__=object()))
    monkeypatch.setattr(extras, "find_spec", lambda module: object())
    optimizer = build_optimizer(weights(), OptimizerSettings("adamw_schedule_free", 1e-3, 0.1))
    build_optimizer(weights(), OptimizerSettings("prodigy_schedule_free", 1.0, 0.1, d_coef=0.5))
    assert optimizer.param_groups[0]["weight_decay"] == 0.1 and seen["adamw_schedule_free"]["lr"] == 1e-3
    assert seen["prodigy_schedule_free"]["d_coef"] == 0.5 and not seen["prodigy_schedule_free"]["stochastic_rounding"]


@pytest.mark.parametrize("name", ["adamw_schedule_free", "prodigy_schedule_free"])
def test_the_real_schedule_free_packages(name: OptimizerName) -> None:
    pytest.importorskip(extras.EXTRAS[name].module, reason="an extra that requirements.txt leaves out")
    it = trainable(name, 1.0 if name.startswith("prodigy") else 0.02, total=150)
    it.optimizer.train()  # type: ignore[attr-defined]
    for _ in range(150):
        loss_of(it.parameters).backward()
        it.clip()
        it.update()
    assert loss_of(it.parameters).item() < 0.06


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        ("constant", {5: 1.0, 10: 1.0, 99: 1.0}),
        ("linear", {10: 1.0, 55: 0.5, 99: 0.0111}),
        ("cosine", {10: 1.0, 55: 0.5, 99: 0.0003}),
        ("cosine_with_restarts", {10: 1.0, 54: 0.0012, 55: 1.0}),
        ("polynomial", {10: 1.0, 55: 0.25}),
        ("warmup_stable_decay", {10: 1.0, 79: 1.0, 85: 0.5, 99: 0.0253}),
    ],
)
def test_schedules_by_their_formulas(scheduler: Any, expected: dict[int, float]) -> None:
    settings = ScheduleSettings(scheduler, 10 if scheduler != "constant" else 5, cycles=2, power=2.0)
    at = multiplier(settings, 1e-4, 100)
    assert at(0) == 0.0 and at(100) == 0.0
    for step, value in expected.items():
        assert at(step) == pytest.approx(value, abs=1e-3)


def test_a_phase_warms_up_where_it_begins_and_ends_where_it_ends() -> None:
    at = multiplier(ScheduleSettings("cosine", 4, first=0.2, last=0.6), 1e-4, 100)
    assert [at(step) > 0 for step in (0, 19, 20, 21, 59, 60, 99)] == [False, False, False, True, True, False, False]
    assert at(22) == pytest.approx(0.5) and at(24) == pytest.approx(1.0) and at(59) < 0.01


@pytest.mark.parametrize("name", HERE)
def test_a_rate_of_zero_leaves_parameters_alone(name: OptimizerName) -> None:
    it = trainable(name, 1.0 if name == "prodigy" else 0.1, total=10, warmup=0, first=0.5)
    before = [parameter.detach().clone() for parameter in it.parameters]
    for step in range(10):
        loss_of(it.parameters).backward()
        it.update()
        same = all(torch.equal(*pair) for pair in zip(before, it.parameters, strict=True))
        assert same == (step < 5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "prodigy", "learning_rate": 5e-5}, "learning_rate 5e-05 is far from 1.* leave it out"),
        ({"token_optimizer": "prodigy", "token_learning_rate": 1e-3}, "token_learning_rate 0.001 is far from 1"),
        ({"optimizer": "prodigy", "lr_scheduler": "cosine_with_restarts"}, "does not support restarts"),
        ({"optimizer": "prodigy", "max_grad_norm": 0.5}, "max_grad_norm 0.5: clipping below 1"),
        ({"optimizer": "adamw_schedule_free", "lr_scheduler": "cosine"}, "leave lr_scheduler out"),
        ({"lr_num_cycles": 3}, "lr_num_cycles has no effect"),
        ({"lr_power": 3}, "lr_power has no effect"),
        ({"prodigy_d_coef": 0.5}, "prodigy_d_coef has no effect"),
        ({"token_optimizer": "prodigy", "token_learning_rate": 0}, "token_optimizer has no effect"),
        ({"token_weight_decay": 0.1, "token_learning_rate": 0}, "token_weight_decay has no effect"),
        ({"token_max_grad_norm": 0.1, "token_learning_rate": 0}, "token_max_grad_norm has no effect"),
    ],
)
def test_contradictions_name_the_remedy(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(values)


def test_each_optimizer_has_a_usual_rate_and_schedule() -> None:
    plain, prodigy = build_config({}), build_config({"optimizer": "prodigy"})
    assert (plain.resolved_learning_rate, plain.resolved_token_learning_rate) == (1e-4, 1e-3)
    assert (prodigy.resolved_learning_rate, prodigy.resolved_token_learning_rate) == (1.0, 1e-3)
    assert plain.scheduler_of("adamw") == "cosine" and plain.scheduler_of("adamw_schedule_free") == "constant"
