"""Tests that a training with `init_weights` predicts at first what the file does, for every kind of layer that its
adapter can represent."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from artifact.artifact import Artifact
from artifact.conversion.convert import convert
from families.family import ModelFamily
from job.output_folder import OutputFolder
from job.run import run
from job.verification.verify import Probe
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from tests.conftest import EXAMPLE
from tests.job.test_resume import CONFIG, Prepared, prepared, trainings  # noqa: F401 (a fixture)
from trainer.building import build_training
from trainer.initial_weights import read_initial_weights
from trainer.resolution import resolve

RATES = {"max_train_steps": 2, "learning_rate": 2e-2, "lr_warmup_steps": 0, "ema_decay": 0.0, "rank": 4}


def config_of(**changes: Any) -> TrainingConfig:
    return build_config(CONFIG.model_dump(exclude_unset=True) | RATES | changes)


def trained(base: ModelFamily, data: Prepared, folder: Path, **changes: Any) -> tuple[Path, torch.Tensor]:
    """Trains two large steps. Returns the file, and the probe's prediction with the trained adapter."""
    path, probe = folder / "first.safetensors", Probe.make(base, "a photo of TOK")
    for training in trainings(base, config_of(save_precision="fp32", **changes), data):
        list(training.trainer.steps())
        seen = probe.predict(base, training.triggers)
        training.write(path)
    return path, seen


def started(
    base: ModelFamily, data: Prepared, path: Path, prompt: str = "a photo of TOK", **changes: Any
) -> tuple[torch.Tensor, list[str], dict[str, torch.Tensor]]:
    """Starts a training from the file. Returns the probe's prediction before the first step, the training's notes, and
    the gradient norms of the first step."""
    config = resolve(config_of(**changes), base)
    initial = read_initial_weights(path, list(config.class_words), config.num_tokens, base)
    training = build_training(config, base, *data, Accelerator(cpu=True), initial)
    try:
        seen = Probe.make(base, prompt).predict(base, training.triggers)
        norms = next(training.trainer.steps()).gradient_norms
        return seen, training.notes, {name: torch.tensor(norm) for name, norm in norms.items()}
    finally:
        training.remove()


def apart(one: torch.Tensor, other: torch.Tensor, base: torch.Tensor) -> float:
    return float((one - other).norm() / (other - base).norm())


EXACT = [
    ({}, {}),
    ({}, {"rank": 8}),
    ({"adapter": "rslora"}, {"rank": 6}),
    ({}, {"adapter": "dora"}),
    ({"adapter": "dora"}, {"adapter": "dora", "rank": 8}),
    ({"adapter": "loha"}, {"adapter": "loha"}),
    ({"adapter": "lokr"}, {"adapter": "lokr"}),
    ({"adapter": "oft"}, {"adapter": "oft"}),
    ({"adapter": "lokr"}, {"adapter": "full", "rank": 16, "learning_rate": 1e-5}),
    ({"train_text_encoder": True}, {"train_text_encoder": True}),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), EXACT, ids=lambda changes: ",".join(map(str, changes.values())))
def test_what_it_can_hold_it_holds_exactly(
    first: dict[str, Any],
    second: dict[str, Any],
    base: ModelFamily,
    prepared: Prepared,  # noqa: F811
    tmp_path: Path,
) -> None:
    bare = Probe.make(base, "a photo of TOK").predict(base, {})
    path, wanted = trained(base, prepared, tmp_path, **first)
    seen, notes, norms = started(base, prepared, path, **second)
    assert apart(seen, wanted, bare) < 1e-3
    assert len(notes) == 1 and "layers exactly" in notes[0] and "singular" not in notes[0]
    assert all(norm > 0 for norm in norms.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second", "most"),
    [
        ({"rank": 8}, {"rank": 4}, 0.6),
        ({"adapter": "loha"}, {"rank": 16}, 0.02),
        ({"adapter": "lokr"}, {"rank": 2}, 0.9),
        ({"adapter": "dora"}, {"rank": 8}, 0.6),
    ],
    ids=lambda changes: str(changes),
)
def test_what_it_cannot_hold_it_meets_by_singular_values(
    first: dict[str, Any], second: dict[str, Any], most: float,
    base: ModelFamily, prepared: Prepared, tmp_path: Path,  # noqa: F811
) -> None:  # fmt: skip
    bare = Probe.make(base, "a photo of TOK").predict(base, {})
    path, wanted = trained(base, prepared, tmp_path, **first)
    seen, notes, _ = started(base, prepared, path, **second)
    assert apart(seen, wanted, bare) < most
    assert "by singular values with a relative error of" in notes[0]


@pytest.mark.slow
def test_a_file_of_another_tool_is_as_good(base: ModelFamily, prepared: Prepared, tmp_path: Path) -> None:  # noqa: F811
    """A kohya file has the same layers but no tokens, so the prompt has no trigger word."""
    path, _ = trained(base, prepared, tmp_path)
    convert(path, tmp_path / "kohya.safetensors", "kohya")
    found = [started(base, prepared, file, "a red star") for file in (path, tmp_path / "kohya.safetensors")]
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-2, atol=1e-3)
    assert found[0][1] == [found[1][1][0].replace("kohya", "first")]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({}, {"trigger_word": "ANNA"}, "the trigger words of first.safetensors are TOK; set trigger_word"),
        ({}, {"num_tokens": 3}, "TOK has 2 tokens in first.safetensors; set num_tokens: 2"),
        (
            {"train_text_encoder": True},
            {},
            "layers of first.safetensors cannot be represented .*set train_text_encoder: true",
        ),
        ({"lora_targets": "attention+feed-forward"}, {}, "such as denoiser .*choose lora_targets that include it"),
        ({"adapter": "loha"}, {"adapter": "lokr"}, "it is loha with factors of shapes"),
        ({}, {"adapter": "oft"}, "it is lora; choose"),
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_what_does_not_fit_is_refused_with_a_remedy(
    first: dict[str, Any], second: dict[str, Any], message: str,
    base: ModelFamily, prepared: Prepared, tmp_path: Path,  # noqa: F811
) -> None:  # fmt: skip
    path, _ = trained(base, prepared, tmp_path, **first)
    with pytest.raises(ConfigError, match=message):
        started(base, prepared, path, **second)


@pytest.mark.slow
def test_a_whole_run_from_the_result_of_another_one(tmp_path: Path) -> None:
    settings = {
        "base_model": "mini-sdxl", "class_word": "robot", "captioner": "none", "max_train_steps": 2, "rank": 2,
        "train_batch_size": 2, "num_validation_images": 0, "evaluate": "false", "save_precision": "fp32",
        "lora_targets": "attention",
    }  # fmt: skip
    first, second = (OutputFolder.create(tmp_path / name) for name in ("first", "second"))
    list(run(build_config(settings), [EXAMPLE], first))
    more = {"init_weights": first.weights, "rank": 4, "max_train_steps": 1, "learning_rate": 1e-8}
    lines = [str(event) for event in run(build_config(settings | more | {"token_learning_rate": 0}), [EXAMPLE], second)]
    assert "starting from weights.safetensors: 88 of 88 layers exactly" in lines
    before, after = Artifact.read(first.weights), Artifact.read(second.weights)
    assert all(torch.equal(before.tokens[name], after.tokens[name]) for name in before.tokens)
    assert after.description is not None and after.description.config["init_weights"] == "weights.safetensors"
    assert load_file(second.weights)


def test_a_file_that_is_none(base: ModelFamily, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"no")
    for name, message in (("b.safetensors", "is not a file"), ("a.safetensors", "not a readable")):
        with pytest.raises(ConfigError, match=f"init_weights: .*{message}"):
            read_initial_weights(tmp_path / name, ["TOK"], 2, base)
