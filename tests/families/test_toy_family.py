"""Acceptance tests of the family interface: a family with a frozen language model, plain trigger words, packed
deterministic latents, and continuous time shifted by size is trained, saved, sampled and resumed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from artifact.artifact import Artifact
from families import registry
from families.conditioning import Conditioning
from families.family import ModelFamily, PromptFeatures
from families.registry import load_base_model
from job.output_folder import OutputFolder
from job.resume import resume, resumed_config
from job.run import run
from sampler.sampler import Sampler, SampleRequest
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from tests.conftest import EXAMPLE
from tests.families.toy_family import EVENTS, Toy, write_toy
from trainer.optimizers.settings import OptimizerSettings
from trainer.resolution import resolve
from trainer.trainables.schedules import ScheduleSettings
from trainer.trainables.trainable import Trainable


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(registry.FAMILIES, Toy.pipeline_class_name, Toy)
    EVENTS.clear()
    return write_toy(tmp_path / "base")


def config(folder: Path, **changes: object) -> TrainingConfig:
    settings = {
        "base_model": str(folder), "class_word": "robot", "max_train_steps": 4, "train_batch_size": 2, "rank": 2,
        "lr_warmup_steps": 0, "num_validation_images": 1, "checkpointing_steps": 2, "evaluate": "false",
        "validation_steps": 2, "prior_matching_weight": 0.1, "caption_dropout": 0.2, "conditioning_noise": 0.1,
    }  # fmt: skip
    return TrainingConfig(**(settings | changes))


@pytest.mark.slow
def test_it_is_trained_written_sampled_and_resumed(folder: Path, tmp_path: Path) -> None:
    whole, cut = (OutputFolder.create(tmp_path / name) for name in ("whole", "cut"))
    events = list(run(config(folder), [EXAMPLE], whole))
    assert any(event.message.startswith("verified") for event in events)
    assert EVENTS == ["text", "denoiser"]  # all prompts are encoded at once, before the denoiser is loaded
    assert (whole.samples / "00.png").is_file() and not whole.embeddings.exists()
    artifact = Artifact.read(whole.weights)
    assert artifact.triggers == {"TOK": []} and not artifact.tokens and len(artifact.layers) == 4

    progress = run(config(folder), [EXAMPLE], cut)
    next(event for event in progress if event.step == 2)
    progress.close()
    assert any(cut.prompts.iterdir()) and not whole.prompts.exists()
    EVENTS.clear()
    going_on = resume("latest", cut.path, TrainingConfig())
    steps = {event.step for event in run(going_on.config, [], going_on.output, going_on.state) if event.step}
    assert steps == {3, 4} and EVENTS == ["denoiser"]  # the prompts are read from disk
    first, second = load_file(whole.weights), load_file(cut.weights)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)

    sampler = Sampler(load_base_model(str(folder), torch.float32).to(torch.device("cpu")))
    request = SampleRequest("a photo of TOK", num_inference_steps=2, guidance_scale=2.0, num_outputs=2)
    bare = sampler.generate(request)
    sampler.load(artifact, 3.0)
    drawn = sampler.generate_several([request, replace(request, prompt="TOK by the sea, at night")])
    assert [len(images) for images in drawn] == [2, 2] and list(sampler.triggers) == ["TOK"]
    assert drawn[0][0].tobytes() != bare[0].tobytes() and drawn[0][0].tobytes() != drawn[0][1].tobytes()
    sampler.unload()
    assert sampler.generate(request)[0].tobytes() == bare[0].tobytes()


def test_its_defaults_fill_what_is_open(folder: Path) -> None:
    family = load_base_model(str(folder), torch.float32)
    found = resolve(config(folder), family)
    assert (found.num_tokens, found.learning_rate, found.token_learning_rate) == (0, 3e-3, 0)
    assert (found.guidance_scale, found.num_inference_steps, found.resolution) == (2.0, 3, 32)
    given = resolve(config(folder, guidance_scale=6.0, learning_rate=1e-4, resolution=64), family)
    assert (given.guidance_scale, given.learning_rate, given.resolution) == (6.0, 1e-4, 64)


SET = {"guidance_scale": 4.0, "num_inference_steps": 7, "timestep_bias": 0.5}


@pytest.mark.parametrize("changes", [{}, SET, {"guidance_scale": 6.0, "num_inference_steps": 30}])
def test_a_resumed_configuration_stays_what_it_was(changes: dict[str, object], folder: Path, base: ModelFamily) -> None:
    """This also holds for a given value that is the default of other families."""
    for family, own in ((load_base_model(str(folder), torch.float32), {}), (base, {"num_tokens": 3}), (base, {})):
        first = resolve(config(folder, **changes, **own), family)
        saved = build_config(first.model_dump(mode="json"))
        assert resolve(resumed_config(saved, TrainingConfig()), family).model_dump() == first.model_dump()


def test_uniform_timesteps_stay_uniform_for_a_family_with_a_bias(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "defaults", replace(Toy.defaults, timestep_bias=1.0))
    biased = load_base_model(str(folder), torch.float32)
    assert resolve(config(folder), biased).timestep_bias == 1.0
    uniform = resolve(config(folder, timestep_sampling="uniform"), biased)
    assert uniform.timestep_bias is None
    build_config(uniform.model_dump())  # the values in config.yaml can be read again


def test_a_checkpoint_of_other_shapes_is_refused() -> None:
    settings, schedule = OptimizerSettings("adamw", 1e-3, 0.0, 1.0), ScheduleSettings("constant", 0)
    small, large = (
        Trainable("tokens", [nn.Parameter(torch.ones(rows, 4))], optimizer=settings, schedule=schedule,
                  max_grad_norm=1.0, total_steps=2)
        for rows in (1, 2)
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"tokens: shape \(1, 4\) in the checkpoint, but \(2, 4\) with these settings"):
        large.load_state_dict(small.state_dict(), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_tokens": 2}, "num_tokens: 2: prompts of base models of the family toy are encoded by a frozen model"),
        ({"train_existing_tokens": True}, "train_existing_tokens: prompts of base models of the family toy"),
        ({"token_init": "random"}, "token_init has no effect with num_tokens: 0"),
        ({"token_norm_weight": 0.1}, "token_norm_weight has no effect with num_tokens: 0"),
        ({"tokens_until": 0.5}, "tokens_until has no effect with num_tokens: 0"),
        ({"train_text_encoder": True}, "train_text_encoder: base models of the family toy have no text encoder"),
        (
            {"validation_prompt": "a TOK " * 30},
            "validation_prompt: has 92 tokens; the limit of this base model .toy. is 40",
        ),
        (
            {"validation_prompt": "a (TOK:1.3)"},
            "toy encodes prompts with a language model, which does not support weights",
        ),
    ],
)
def test_settings_that_contradict_it_are_errors(changes: dict[str, object], message: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(config(folder, **changes), load_base_model(str(folder), torch.float32))


def test_without_tokens_and_adapter_nothing_is_left(folder: Path) -> None:
    with pytest.raises(ConfigError, match="adapter: none only trains tokens"):
        resolve(TrainingConfig(base_model=str(folder), adapter="none"), load_base_model(str(folder), torch.float32))


def test_other_families_learn_the_trigger(base: ModelFamily) -> None:
    with pytest.raises(
        ConfigError, match="num_tokens: 0: for base models of the family sdxl the trigger word is trained as new tokens"
    ):
        resolve(TrainingConfig(num_tokens=0), base)


def test_prompts_of_one_batch_differ_in_length_without_a_difference(folder: Path) -> None:
    family = load_base_model(str(folder), torch.float32).to(torch.device("cpu"))
    prompts = ["TOK", "a photo of TOK by the sea"]
    noised, times = torch.randn(2, 3, 8, 8), torch.tensor([200.0, 700.0])
    together = family.denoise(noised, times, family.encode_prompts(prompts), ())
    for row in range(2):
        alone = family.denoise(noised[row, None], times[row, None], family.encode_prompts([prompts[row]]), ())
        torch.testing.assert_close(together[row, None], alone)


def test_what_a_denoiser_does_not_read_is_refused(folder: Path, base: ModelFamily) -> None:
    toy = load_base_model(str(folder), torch.float32).to(torch.device("cpu"))
    noised, features = torch.zeros(1, 4, 8, 8), PromptFeatures(torch.zeros(1, 2, 16))
    conditioning = Conditioning((noised,), noised)
    for family, unread in ((toy, "residuals and image_latents"), (base, "image_latents")):
        with pytest.raises(ValueError, match=f"does not support {unread}$"):
            family.denoise(noised, torch.zeros(1), features, (), conditioning)
    assert Conditioning((noised,), None).rows(0, 1).parts == ["residuals"]
