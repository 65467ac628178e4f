"""Regression tests for bugs of the trainers that this one is derived from.

Tests are named by symptom, and their docstrings describe the bug. Tests of file formats, data intake and predictor are
in their own folders.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from artifact.artifact import Artifact
from families.family import ModelFamily
from families.parts.placeholder_tokens import expand_triggers
from job.output_folder import OutputFolder
from job.run import run
from preprocess.dataset import PreparedDataset
from preprocess.prepare import BaseRequirements, prepare
from settings.preparation import DataConfig
from settings.record import ConfigError
from settings.training import build_config
from tests.conftest import EXAMPLE, png
from tests.trainer.losses.test_masked_loss import context
from tests.trainer.test_training import CONFIG, placed
from trainer.data.latent_cache import cache_examples
from trainer.losses.mean_squared_error import MeanSquaredError
from trainer.losses.weighting import TimestepWeighting
from trainer.resolution import base_requirements, resolve

MakeFolder = Callable[[Mapping[str, bytes]], Path]


def dataset_of(folder: Path, output: Path) -> PreparedDataset:
    config = DataConfig(resolution=64, captioner="none")
    return prepare([folder], config, output, BaseRequirements(16, lambda caption: len(caption.split())))


def test_the_stated_resolution_is_the_trained_one(base: ModelFamily, tmp_path: Path) -> None:
    """Images were trained at 512, while the size conditioning was 768 or 960."""
    config = resolve(CONFIG.model_copy(update={"resolution": 96}), base)
    dataset = prepare([EXAMPLE], config, tmp_path / "dataset", base_requirements(base, config, config.num_tokens))
    cached = list(cache_examples(dataset, base))
    assert len(cached) == len(dataset.examples) > 5
    for example in cached:
        height, width = example.views[0].load().moments.shape[-2:]
        assert (4 * height, 4 * width) == example.views[0].size.target
        assert 4 * height * 4 * width == pytest.approx(96 * 96, rel=0.3)


def memory_of(tensors: Iterable[torch.Tensor]) -> set[int]:
    """Returns the addresses of the tensors' memory. An optimizer may have all parameters in one tensor, whose memory
    they then share."""
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_the_optimizer_has_every_parameter_that_is_trained(adapter: str, base: ModelFamily, tmp_path: Path) -> None:
    """In full fine-tuning, the UNet's parameters were marked trainable, but the optimizer did not get them."""
    rate = {"learning_rate": 1e-5} if adapter == "full" else {}
    for training in placed(base, CONFIG.model_copy(update={"adapter": adapter, **rate}), tmp_path):
        optimized = [
            parameter
            for trainable in training.trainer.trainables
            for group in trainable.optimizer.param_groups
            for parameter in group["params"]
        ]
        modules = [base.denoiser, base.vae, *base.text_encoders]
        wanted = [each for module in modules for each in module.parameters() if each.requires_grad]
        assert memory_of(optimized) == memory_of(wanted) and len(wanted) > 2
        assert sum(each.numel() for each in optimized) == sum(each.numel() for each in wanted)
        before = {name: each.clone() for name, each in base.denoiser.named_parameters() if each.requires_grad}
        list(training.trainer.steps())
        after = dict(base.denoiser.named_parameters())
        still = [name for name, value in before.items() if torch.equal(after[name], value)]
        assert not still or (adapter == "full" and len(still) < len(before) / 10)  # a small step may be rounded to 0


def test_the_schedule_drives_the_optimizer_that_steps(base: ModelFamily, tmp_path: Path) -> None:
    """The schedule belonged to an optimizer that had been replaced, so the rate had no schedule after the pivot."""
    for training in placed(base, CONFIG.model_copy(update={"tokens_until": 0.5}), tmp_path):
        for step in training.trainer.steps():  # noqa: B007
            for trainable in training.trainer.trainables:
                assert trainable.schedule.optimizer is trainable.optimizer
                (rate,) = {group["lr"] for group in trainable.optimizer.param_groups}
                assert rate == trainable.learning_rate
        assert step.learning_rates["tokens"] == 0 < step.learning_rates["lora"]


@pytest.mark.slow
@pytest.mark.parametrize("steps", [3, 5, 7])
def test_exactly_the_asked_number_of_steps(steps: int, base: ModelFamily, tmp_path: Path) -> None:
    """Steps were rounded up to whole epochs (here of two batches), or counted in micro-batches, or one too many."""
    config = CONFIG.model_copy(update={"max_train_steps": steps, "gradient_accumulation_steps": 2})
    for training in placed(base, config, tmp_path):
        assert len(list(training.trainer.steps())) == steps == training.trainer.step
        assert all(trainable.schedule.last_epoch == steps for trainable in training.trainer.trainables)


def test_gradients_are_clipped(base: ModelFamily, tmp_path: Path) -> None:
    """max_grad_norm was a setting without effect."""
    for training in placed(base, CONFIG.model_copy(update={"max_grad_norm": 1e-3}), tmp_path):
        trainer = training.trainer
        trainer.backward(next(iter(trainer.batches)), 1.0)
        for trainable in trainer.trainables:
            assert trainable.clip() > 1e-3
            norms = [each.grad.norm() for each in trainable.parameters if each.grad is not None]
            assert torch.stack(norms).norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_the_file_holds_the_last_step_of_a_short_run(tmp_path: Path) -> None:
    """Runs of up to 101 steps returned the checkpoint of step 0; longer ones lost up to 101 steps."""
    config = CONFIG.model_copy(update={"max_train_steps": 3, "checkpointing_steps": 2, "evaluate": "false"})
    output = OutputFolder.create(tmp_path / "out")
    list(run(config, [EXAMPLE], output))
    artifact = Artifact.read(output.weights)
    assert artifact.description is not None and artifact.description.steps == 3
    with safe_open(output.weights, framework="pt") as file:
        ups = [file.get_tensor(name) for name in file.keys() if name.endswith("lora_up.weight")]  # noqa: SIM118
    assert ups and all(up.any() for up in ups)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 7])
def test_very_short_runs_do_not_divide_by_zero(steps: int, tmp_path: Path) -> None:
    """global_step % (max_steps // 20) raised an error with fewer than 20 steps."""
    config = CONFIG.model_copy(update={"max_train_steps": steps, "train_batch_size": 1})
    events = list(run(config, [EXAMPLE], OutputFolder.create(tmp_path / "out")))
    assert events[-1].fraction == 1.0


def test_a_rate_that_trains_nothing_with_prodigy_is_refused() -> None:
    """Prodigy's estimated rate was multiplied by a learning rate of 5e-5, so almost nothing was trained."""
    with pytest.raises(ConfigError, match="far from 1"):
        build_config({"optimizer": "prodigy", "learning_rate": 5e-5})
    assert build_config({"optimizer": "prodigy"}).resolved_learning_rate == 1.0


def test_no_rate_ever_passes_its_peak(base: ModelFamily, tmp_path: Path) -> None:
    """A warm-up was not clamped: the rate was 1.1e-2 at step 300 instead of 3e-4."""
    config = CONFIG.model_copy(update={"max_train_steps": 12, "lr_warmup_steps": 4, "train_batch_size": 1})
    for training in placed(base, config, tmp_path):
        rates = [step.learning_rates for step in training.trainer.steps()]
    for name, peak in (("lora", config.learning_rate), ("tokens", config.token_learning_rate)):
        assert peak is not None
        assert max(rate[name] for rate in rates) == pytest.approx(peak)


def test_only_the_new_rows_of_the_vocabulary_move(base: ModelFamily, tmp_path: Path) -> None:
    """Weight decay shrank all 49,408 rows, and tables had to be restored after every step."""
    tables = [encoder.get_input_embeddings().weight.clone() for encoder in base.text_encoders]
    for training in placed(base, CONFIG.model_copy(update={"token_weight_decay": 0.5}), tmp_path):
        list(training.trainer.steps())
        for encoder, table, ids in zip(base.text_encoders, tables, training.tokens.placeholders.ids, strict=True):
            everything = torch.arange(len(table))
            others = everything[[number not in ids for number in everything.tolist()]]
            embedding = encoder.get_input_embeddings()
            assert torch.allclose(embedding(others), table[others], atol=0)
    for encoder, table in zip(base.text_encoders, tables, strict=True):
        assert torch.equal(encoder.get_input_embeddings().weight, table)


def test_tokyo_is_no_trigger() -> None:
    """The trigger was replaced as a substring, in lower case: "Tokyo" became "<s0><s1>yo", "token" "<s0><s1>en"."""
    triggers = {"TOK": ["<s0>", "<s1>"]}
    assert expand_triggers("TOK in Tokyo, a token, TOKYO", triggers) == "<s0><s1> in Tokyo, a token, TOKYO"


@pytest.mark.parametrize("name", ["c++", "photo", "a.b", "(x)", "\\d"])
def test_any_trigger_is_plain_text(name: str) -> None:
    """The trigger was used as a regular expression ("c++" was an error), and replaced until nothing changed (an endless
    loop)."""
    assert expand_triggers(f"a photo of {name}", {name: [f"<{name}>"]}).endswith(f"of <{name}>")


def test_captions_belong_by_name_not_by_position(make_folder: MakeFolder, tmp_path: Path) -> None:
    """One file without a caption shifted all captions after it."""
    files = {f"{name}.png": png((64, 64), (40 * index, 200 - 40 * index, 9)) for index, name in enumerate("abcd")}
    table = "file,caption\nd.png,TOK the fourth\na.png,TOK the first\nc.png,TOK the third\n"
    dataset = dataset_of(make_folder({**files, "captions.csv": table.encode()}), tmp_path / "out")
    captions = {Path(example.source).name: example.caption for example in dataset.examples}
    assert captions["a.png"] == "TOK the first" and captions["c.png"] == "TOK the third"
    assert captions["d.png"] == "TOK the fourth" and "fourth" not in captions["b.png"]


def test_latents_keep_their_own_caption_and_size_in_any_order(base: ModelFamily, tmp_path: Path) -> None:
    """Latents were cached in one shuffled pass, and read by position in passes with another order."""
    config = CONFIG.model_copy(update={"train_batch_size": 3})
    for training in placed(base, config, tmp_path):
        own = {
            tuple(view.load().moments.flatten()[:8].tolist()): (example.caption, view.size)
            for example in cache_examples(training.dataset, base)
            for view in example.views
        }
        batches = iter(training.trainer.batches)
        for batch in (next(batches) for _ in range(9)):
            for moments, caption, size in zip(batch.moments, batch.captions, batch.sizes, strict=True):
                assert own[tuple(moments.flatten()[:8].tolist())] == (caption, size)


def test_no_image_is_ever_left_over(base: ModelFamily, tmp_path: Path) -> None:
    """Images that did not fill a batch were dropped. They were always the same, so they were never trained."""
    for training in placed(base, CONFIG.model_copy(update={"train_batch_size": 5}), tmp_path):
        seen: Counter[str] = Counter()
        batches = iter(training.trainer.batches)
        for _ in range(2):  # eight images, in batches of five
            seen.update(next(batches).captions)
        assert set(seen) == {example.caption for example in training.dataset.examples}


def test_a_small_mask_does_not_shrink_the_learning_rate() -> None:
    """The mask's mean was taken over all values, so the division had no effect."""
    losses = []
    for side in (1, 5):
        masks = torch.zeros(3, 1, 5, 6)
        masks[..., :side, :side] = 1
        step = context(masks=masks)
        wanted = step.noise_process.target(step.latents, step.draw)
        losses.append(MeanSquaredError("min_snr", mask_floor=0.0)(replace(step, prediction=wanted + 1)).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_min_snr_of_velocity_divides_by_snr_plus_one() -> None:
    """1 was added to the weight itself, or v was weighted like ε."""
    process = context(prediction_type="v_prediction").noise_process
    timesteps = torch.arange(50)
    snr = process.snr(timesteps)
    weights = TimestepWeighting("min_snr", 5.0)(process, timesteps)
    assert isinstance(weights, torch.Tensor)
    torch.testing.assert_close(weights, snr.clamp(max=5) / (snr + 1))
    assert weights.max() <= 5 / 6 + 1e-6


def test_a_dropped_caption_is_the_empty_prompt_that_guidance_uses(base: ModelFamily, tmp_path: Path) -> None:
    """Dropout replaced the caption by the token alone, so guidance's empty prompt was never trained."""
    for training in placed(base, CONFIG.model_copy(update={"caption_dropout": 1.0}), tmp_path):
        assert set(training.trainer.prompts.prompts(["a TOK"] * 4, ["TOK"] * 4)) == {""}


def test_latents_are_drawn_anew_each_time(base: ModelFamily, tmp_path: Path) -> None:
    """One sample of the VAE's posterior was cached, so its noise was memorised."""
    for training in placed(base, CONFIG, tmp_path):
        batch = next(iter(training.trainer.batches))
        first, second = (base.latents(batch.moments, training.trainer._normal("latents", batch)) for _ in range(2))
        assert not torch.equal(first, second)


def test_masters_and_moments_are_in_full_precision(base: ModelFamily, tmp_path: Path) -> None:
    """With fp16 parameters, Prodigy gave NaN or trained nothing."""
    for training in placed(base, CONFIG, tmp_path):
        list(training.trainer.steps())
        for trainable in training.trainer.trainables:
            for parameter in trainable.parameters:
                state = trainable.optimizer.state[parameter]
                tensors = [value for value in state.values() if isinstance(value, torch.Tensor)]
                assert {parameter.dtype, *(value.dtype for value in tensors)} == {torch.float32}


def test_the_rate_of_the_log_is_the_rate_in_use(base: ModelFamily, tmp_path: Path) -> None:
    """The log showed 0 for the LoRA's learning rate, or the rate after the step."""
    used: list[float] = []
    for training in placed(base, CONFIG.model_copy(update={"lr_warmup_steps": 2}), tmp_path):
        lora = training.trainer.trainables[0]
        lora.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
        logged = [step.learning_rates["lora"] for step in training.trainer.steps()]
        assert logged == pytest.approx(used) and not math.isclose(logged[0], logged[1])
