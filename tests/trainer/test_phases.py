"""Tests of training phases as schedules, of the logged changes of weights and tokens, and of the collapse guard."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer

from families.family import ModelFamily
from job.output_folder import OutputFolder
from job.steps.training import train
from settings.sections.collapse import CollapseGuardName
from settings.training import build_config
from tests.job.test_resume import CONFIG as RESUME_CONFIG
from tests.job.test_resume import Prepared, prepared, trainings  # noqa: F401 (a fixture)
from tests.samples import samples_of
from trainer.monitoring.collapse_guard import CollapseGuard
from trainer.monitoring.diagnostics import change_squared
from trainer.optimizers.settings import OptimizerSettings
from trainer.trainables.schedules import ScheduleSettings
from trainer.trainables.trainable import Trainable

CONFIG = RESUME_CONFIG.model_copy(update={"ema_decay": 0.0, "lr_warmup_steps": 0, "lr_scheduler": "constant"})


def test_tokens_first_then_both_then_the_adapter_alone(base: ModelFamily, prepared: Prepared) -> None:  # noqa: F811
    config = CONFIG.model_copy(update={"tokens_first": 0.4, "tokens_until": 0.8})
    moved: list[tuple[bool, bool]] = []
    for training in trainings(base, config, prepared):
        lora, tokens = training.trainer.trainables
        before = [[parameter.detach().clone() for parameter in each.parameters] for each in (lora, tokens)]
        for step in training.trainer.steps():
            after = [[parameter.detach().clone() for parameter in each.parameters] for each in (lora, tokens)]
            moved.append(tuple(  # type: ignore[arg-type]
                any(not torch.equal(*pair) for pair in zip(*sides, strict=True))
                for sides in zip(before, after, strict=True)
            ))  # fmt: skip
            assert (step.learning_rates["lora"] > 0, step.learning_rates["tokens"] > 0) == moved[-1]
            before = after
    assert moved == [(False, True)] * 2 + [(True, True)] * 2 + [(True, False)]


def test_the_log_says_how_far_weights_and_tokens_moved(
    base: ModelFamily, prepared: Prepared, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    output = OutputFolder.create(tmp_path / "out")
    for training in trainings(base, CONFIG.model_copy(update={"diagnostics_steps": 5}), prepared):
        first = training.observer.look()
        assert set(first.weight_change.values()) == {0.0}
        assert all(cosine == pytest.approx(1) for cosine in first.token_cosines.values())
        list(train(training, output, samples_of(training)))
        expected: dict[str, list[float]] = {}
        for path, module in base.denoiser.named_modules():
            if isinstance(module, LoraLayer):
                change = module.get_delta_weight("default").square().sum()
                torch.testing.assert_close(change_squared(module), change)
                sums = expected.setdefault(path.split(".")[0], [0.0, 0.0])
                sums[0] += change.item()
                sums[1] += module.get_base_layer().weight.square().sum().item()
        row = training.tokens.parameters[0].detach()
        usual = base.text_encoders[0].get_input_embeddings().weight.norm(dim=1).mean()
    lines = [json.loads(line) for line in output.metrics.read_text().splitlines()]
    assert ["weight_change" in line for line in lines] == [False] * 4 + [True]
    for block, (change, whole) in expected.items():
        assert lines[-1]["weight_change"][block] == pytest.approx((change / whole) ** 0.5, rel=1e-4) != 0
    assert lines[-1]["token_norms"]["clip_l"] == pytest.approx(float(row.norm(dim=1).mean() / usual), rel=1e-2)


def test_after_its_part_of_the_run_nothing_changes_a_parameter() -> None:
    """Neither hooks of the optimizer, such as token retraction, nor optimizers that average with a rate of 0."""
    row = torch.nn.Parameter(torch.ones(2))
    settings, schedule = OptimizerSettings("adamw", 0.1), ScheduleSettings("constant", 0, last=0.5)
    tokens = Trainable("tokens", [row], optimizer=settings, schedule=schedule, max_grad_norm=1.0, total_steps=4)

    def retract(*_: object) -> None:
        row.data.mul_(0.5)

    tokens.optimizer.register_step_post_hook(retract)
    seen = []
    for _ in range(4):
        row.grad = torch.ones(2)
        tokens.update()
        seen.append(row.detach().clone())
    assert row.grad is None and tokens.schedule.last_epoch == 4 and tokens.finished
    assert not torch.equal(seen[0], seen[1]) and torch.equal(seen[1], seen[2]) and torch.equal(seen[2], seen[3])


def a_trainable() -> Trainable:
    schedule = ScheduleSettings("constant", 0)
    return Trainable("lora", [torch.nn.Parameter(torch.zeros(2))], optimizer=OptimizerSettings("adamw", 0.1),
                     schedule=schedule, max_grad_norm=1.0, total_steps=100)  # fmt: skip


@pytest.mark.parametrize(("mode", "said", "rate"), [("off", 0, 0.1), ("warn", 1, 0.1), ("lower", 2, 0.025)])
def test_the_guard(mode: CollapseGuardName, said: int, rate: float) -> None:
    adapter = a_trainable()
    guard = CollapseGuard(mode, 0.05, adapter, total_steps=100)
    changes = {5: 0.04, 10: 0.06, 15: 0.07, 20: 0.12, 30: 0.5}  # halving the rate doubles the limit to 0.1
    messages = [guard.check(step, {"mid_block": 0.01, "up_blocks": change}) for step, change in changes.items()]
    assert len([message for message in messages if message]) == said
    assert all("up_blocks" in message for message in messages if message)
    assert adapter.learning_rate == pytest.approx(rate)
    adapter.optimizer.step()
    adapter.schedule.step()
    assert adapter.learning_rate == pytest.approx(rate)
    again = a_trainable()
    again.load_state_dict(adapter.state_dict(), 1)
    assert again.learning_rate == pytest.approx(rate) and again.rate_factor == adapter.rate_factor


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tokens_first": 0.5, "tokens_until": 0.5}, "tokens_first .0.5. must be less than tokens_until"),
        ({"tokens_first": 0.1, "token_learning_rate": 0}, "tokens_first has no effect with token_learning_rate 0"),
        ({"tokens_until": 0.5, "token_learning_rate": 0}, "tokens_until has no effect with token_learning_rate 0"),
        ({"tokens_until": 0.5, "adapter": "none"}, "tokens_until: adapter: none trains only the tokens"),
        ({"collapse_guard": "lower", "adapter": "perfusion"}, "collapse_guard: lower has no effect with adapter: perf"),
        ({"collapse_limit": 0.1, "adapter": "none"}, "collapse_limit has no effect with adapter: none"),
        ({"collapse_guard": "lower", "init_weights": "a.safetensors"}, "lower has no effect with init_weights"),
        ({"collapse_limit": 0.1, "collapse_guard": "off"}, "collapse_limit has no effect with collapse_guard: off"),
    ],
)
def test_phases_that_contradict(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_config(values)
