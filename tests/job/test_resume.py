"""Tests that a run that is killed and resumed is bit for bit the same as one that was not killed, and that resuming
with other settings is refused."""

import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from families.family import ModelFamily
from job.output_folder import OutputFolder
from job.resume import resume, resumed_config
from job.run import run
from preprocess.dataset import PreparedDataset
from preprocess.prepare import prepare
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from tests.conftest import EXAMPLE, PROJECT
from tests.warm_process import WarmProcess
from trainer.building import build_training
from trainer.checkpoints.folders import Checkpoints, read_checkpoint
from trainer.checkpoints.state_file import read_state, write_state
from trainer.checkpoints.training_state import capture, restore
from trainer.data.latent_cache import CachedExample, cache_examples
from trainer.resolution import base_requirements, resolve
from trainer.training import Training

STEPS = 5
CONFIG = TrainingConfig(
    base_model="mini-sdxl", class_word="figure", max_train_steps=STEPS, train_batch_size=3, rank=2, learning_rate=2e-3,
    token_learning_rate=2e-2, num_validation_images=0, caption_dropout=0.3, shuffle_tags=True, lr_warmup_steps=1,
    augmented_views=2, crop_jitter=0.2, ema_decay=0.9, lora_targets="attention", prior_matching_weight=0.0,
)  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "adamw, ema": {},
    "prodigy, accumulation": {"optimizer": "prodigy", "learning_rate": None, "gradient_accumulation_steps": 2},
    "adafactor, prior": {"optimizer": "adafactor", "token_optimizer": "prodigy", "token_learning_rate": None,
                         "prior_matching_weight": 1.0, "prior_prompts": ("a red star", "a blue square")},
    "text encoders, dora, dropout": {"adapter": "dora", "adapter_dropout": 0.3, "train_text_encoder": True,
                                     "text_encoder_learning_rate": 1e-3},
    "oft, text encoders": {"adapter": "oft", "train_text_encoder": True, "rank": 4},
    "muon, pissa, accumulation": {"lora_init": "pissa", "optimizer": "muon", "gradient_accumulation_steps": 2,
                                  "learning_rate": 2e-3},
    "dream, dco, p2": {"dream": 1.0, "loss_type": "dco", "loss_weighting": "p2", "prior_matching_weight": 1.0,
                       "prior_matching_on": "captions", "prompt_alignment_weight": 0.3,
                       "target_prompts": ("a TOK on a red background", "a sketch of TOK"),
                       "prompt_alignment_interval": 2},
    "t-lora, lora+, orthogonal": {"adapter": "t-lora", "lora_plus_ratio": 4.0, "lora_init": "orthogonal",
                                  "train_text_encoder": True},
    "came, lion, eva": {"lora_init": "eva", "train_text_encoder": True, "optimizer": "came", "token_optimizer": "lion",
                        "token_learning_rate": 1e-3},
    "perfusion, prior": {"adapter": "perfusion", "rank": 16, "learning_rate": 0.3, "prior_matching_weight": 1.0,
                         "prior_matching_on": "trajectories", "prior_prompts": ("a red star",),
                         "prior_matching_interval": 1, "max_train_steps": 6, "input_perturbation": 0.1},
    "full": {"adapter": "full", "rank": 16},
}  # fmt: skip
"""Of six steps, the third and the sixth use trajectories. The sixth is after the later kill, so trajectories are
computed again."""
FAST = ("adamw, ema",)

Prepared = tuple[PreparedDataset, list[CachedExample]]


@pytest.fixture(scope="module")
def prepared(_loaded_base: ModelFamily, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The example with two views of each image, in buckets of two shapes. Every second image has several captions."""
    config = resolve(CONFIG, _loaded_base)
    folder = tmp_path_factory.mktemp("prepared") / "dataset"
    dataset = prepare([EXAMPLE], config, folder, base_requirements(_loaded_base, config, config.num_tokens))
    examples = list(cache_examples(dataset, _loaded_base))
    several = ("TOK at sea", "a red TOK, from the front")
    examples = [replace(each, other_captions=several) if index % 2 else each for index, each in enumerate(examples)]
    return dataset, [narrowed(example) if index % 3 == 0 else example for index, example in enumerate(examples)]


def narrowed(example: CachedExample) -> CachedExample:
    """Returns the example with half of its width, in another bucket."""
    views = [view.load() for view in example.views]
    halves = tuple(replace(view, moments=view.moments[..., : view.moments.shape[-1] // 2]) for view in views)
    return replace(example, views=halves, bucket=(example.bucket[0] // 2, example.bucket[1]))


def trainings(base: ModelFamily, config: TrainingConfig, prepared: Prepared) -> Iterator[Training]:
    training = build_training(resolve(config, base), base, *prepared, Accelerator(cpu=True))
    try:
        yield training
    finally:
        training.remove()


def tensors(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree.clone()
    elif isinstance(tree, Mapping | list | tuple):
        for node in tree.values() if isinstance(tree, Mapping) else tree:
            yield from tensors(node)


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in VARIANTS]
)
def test_resumed_at_any_step_is_uninterrupted_bit_for_bit(
    variant: str, base: ModelFamily, prepared: Prepared, tmp_path: Path
) -> None:
    config = TrainingConfig(**(CONFIG.model_dump(exclude_unset=True) | VARIANTS[variant]))
    checkpoints, last = Checkpoints(tmp_path), config.max_train_steps or 0
    for training in trainings(base, config, prepared):
        for step in training.trainer.steps():
            if step.number < last:
                checkpoints.write(training)
        expected = list(tensors(capture(training)))
        losses = step.losses
    for kill in (1, 4):
        for training in trainings(base, config, prepared):
            restore(training, read_checkpoint(checkpoints.path(kill)))
            torch.manual_seed(kill)
            resumed = list(training.trainer.steps())
            assert [step.number for step in resumed] == list(range(kill + 1, last + 1))
            assert resumed[-1].losses == losses
            found = list(tensors(capture(training)))
        assert len(found) == len(expected)
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_the_state_file_keeps_every_value(tmp_path: Path) -> None:
    tree = {"a": torch.tensor(3.0), "b": [torch.arange(4, dtype=torch.uint8), {"c": None, "d": 0.1, "e": True}],
            "f": (1, 2), "half": torch.randn(2, 3).t().to(torch.bfloat16)}  # fmt: skip
    write_state(tmp_path, tree)
    read = read_state(tmp_path)
    assert read["b"][1] == tree["b"][1] and read["f"] == [1, 2]  # type: ignore[index]
    assert all(torch.equal(*pair) for pair in zip(tensors(read), tensors(tree), strict=True))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]


def test_a_kill_while_writing_leaves_the_checkpoints_as_they_were(
    base: ModelFamily, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for training in trainings(base, CONFIG, prepared):
        for step in training.trainer.steps():
            checkpoints.protected = {1}
            checkpoints.write(training)
            if step.number == 4:
                break
        assert checkpoints.steps() == [1, 3, 4]  # the last two, and the protected one
        next(training.trainer.steps())
        with monkeypatch.context() as patch:
            patch.setattr(
                "trainer.checkpoints.folders.os.replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt)
            )
            with pytest.raises(KeyboardInterrupt):
                checkpoints.write(training)
        assert checkpoints.steps() == [1, 3, 4]
        checkpoints.write(training)  # despite the unfinished one
        assert checkpoints.steps() == [1, 4, 5]


def test_a_broken_checkpoint_is_named(tmp_path: Path) -> None:
    write_state(tmp_path, {"format": 1, "a": torch.zeros(100)})
    file = tmp_path / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ConfigError, match="is not a complete checkpoint"):
        read_checkpoint(tmp_path)


def test_a_checkpoint_of_another_version_is_named(tmp_path: Path) -> None:
    write_state(tmp_path, {"format": 1, "step": 5})
    with pytest.raises(
        ConfigError, match=r"has format 1, this version reads 2\. Continue with the version that wrote it"
    ):
        read_checkpoint(tmp_path)


def test_other_settings_are_refused_with_a_table() -> None:
    saved = resume_base = TrainingConfig(max_train_steps=100, rank=8, learning_rate=1e-3)
    given = TrainingConfig(rank=4, learning_rate=1e-4, max_train_steps=200)
    with pytest.raises(ConfigError) as error:
        resumed_config(saved, given)
    lines = [line.split() for line in str(error.value).splitlines()]
    assert ["rank", "8", "4"] in lines and ["learning_rate", "0.001", "0.0001"] in lines
    assert "max_train_steps  " not in str(error.value)
    longer = resumed_config(saved, TrainingConfig(max_train_steps=200, rank=8, alpha=None))
    assert (longer.max_train_steps, longer.rank) == (200, 8)
    assert resume_base.max_train_steps == 100
    scored = build_config({"checkpointing_steps": 5, "evaluation_scales": [0.5], "evaluation_samples": 1})
    unscored = resumed_config(scored, TrainingConfig(evaluate="false"))
    assert unscored.evaluate == "false" and unscored.evaluation_scales != (0.5,)


def test_a_choice_that_is_left_to_the_program_stays_that_of_the_run() -> None:
    prior = {"prior_matching_weight": 1.0, "prior_matching_on": "trajectories", "prior_prompts": ["a house"]}
    saved = build_config({"base_precision": "nf4", **prior})
    resumed = resumed_config(saved, build_config({"base_precision": "auto", "prior_prompts": []}))
    assert (resumed.base_precision, resumed.prior_prompts) == ("nf4", ("a house",))
    blocks = build_config({"adapter": "controlnet", "control": "canny", "controlnet_blocks": [0, 4]})
    assert resumed_config(blocks, build_config({"controlnet_blocks": []})).controlnet_blocks == (0, 4)
    with pytest.raises(ConfigError, match="base_precision"):
        resumed_config(saved, build_config({"base_precision": "int8"}))


@pytest.mark.parametrize(
    ("which", "output", "message"),
    [
        ("latest", None, "latest needs --output, the folder of the run"),
        ("latest", "empty", "has no checkpoint"),
        ("nowhere", None, "nowhere does not exist"),
    ],
)
def test_what_cannot_be_resumed_says_why(which: str, output: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        resume(which, None if output is None else tmp_path / output, TrainingConfig())


@pytest.mark.slow
def test_a_closed_run_goes_on_in_its_own_folder(base: ModelFamily, tmp_path: Path) -> None:
    config = TrainingConfig(
        base_model="mini-sdxl", class_word="figure", max_train_steps=4, train_batch_size=2, rank=2,
        save_precision="fp32", num_validation_images=0, checkpointing_steps=1, evaluate="false",
    )  # fmt: skip
    whole, cut = (OutputFolder.create(tmp_path / name) for name in ("whole", "cut"))
    list(run(config, [EXAMPLE], whole))
    progress = run(config, [EXAMPLE], cut)
    next(event for event in progress if event.step == 2)
    progress.close()
    for given in (TrainingConfig(rank=4), TrainingConfig(seed=1)):
        with pytest.raises(ConfigError, match="settings differ"):
            resume("latest", cut.path, given)
    resumed = resume("latest", cut.path, TrainingConfig())
    events = [event for event in run(resumed.config, [], resumed.output, resumed.state) if event.step is not None]
    assert [event.step for event in events] == [3, 4]
    assert len(cut.metrics.read_text().splitlines()) == 4
    first, second = load_file(whole.weights), load_file(cut.weights)
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ConfigError, match="later checkpoints .step 3, 4"):
        resume(str(cut.checkpoints / "step_000002"), None, TrainingConfig())


@pytest.mark.slow
def test_sigkill_and_resume_from_the_command_line(tmp_path: Path) -> None:
    """The process is killed twice in training. The file is that of a run that was not killed."""
    settings = ["--base_model", "mini-sdxl", "--max_train_steps", "8", "--train_batch_size", "2", "--rank", "2",
                "--num_validation_images", "0", "--checkpointing_steps", "1", "--keep_checkpoints", "2",
                "--optimizer", "prodigy", "--ema_decay", "0.9", "--save_precision", "fp32",
                "--evaluate", "false"]  # fmt: skip

    def start(*arguments: object) -> WarmProcess:
        return WarmProcess([str(PROJECT / "train.py"), *map(str, arguments), "--progress_json"], PROJECT)

    def kill_at(process: WarmProcess, step: int) -> None:
        process.wait_for(f'"step": {step},')
        process.send(signal.SIGKILL)
        assert process.result().returncode == -signal.SIGKILL

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    uninterrupted = start(EXAMPLE, "--output", whole, *settings).result()
    assert uninterrupted.returncode == 0, uninterrupted.stderr
    kill_at(start(EXAMPLE, "--output", cut, *settings), 3)
    kill_at(start("--resume", "latest", "--output", cut), 6)
    last = start("--resume", cut).result()
    assert last.returncode == 0, last.stderr
    first, second = load_file(whole / "weights.safetensors"), load_file(cut / "weights.safetensors")
    assert first and all(torch.equal(first[name], second[name]) for name in first)
