"""Tests of training ControlNets on Stage C: resuming, the mode large, compiled blocks, default settings, crops."""

from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch._dynamo.utils import counters

from artifact.controlnet.files import write_controlnet
from artifact.metadata import ArtifactDescription
from families.cascade.family import Cascade
from families.controls.control import ControlForm
from families.family import ModelFamily, SizeConditioning
from families.parts.compiled_blocks import CompiledBlocks
from preprocess.dataset import PreparedDataset
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from tests.tiny_cascade import write_cascade
from tests.tiny_models import opened
from trainer.building import build_training
from trainer.checkpoints.folders import Checkpoints, read_checkpoint
from trainer.checkpoints.training_state import restore
from trainer.data.latent_cache import CachedExample, CachedView
from trainer.execution.compiled_steps import CompiledSteps
from trainer.resolution import resolve
from trainer.trainables.initial_controlnet import InitialControlNet, read_initial_controlnet
from trainer.training import Training
from trainer.validation.split import split

STEPS, SIDE = 3, 64


def settings(base: Path) -> TrainingConfig:
    return build_config({
        "base_model": str(base), "adapter": "controlnet", "control": "inpainting", "max_train_steps": STEPS,
        "train_batch_size": 2, "resolution": SIDE, "learning_rate": 1e-2, "lr_warmup_steps": 0, "control_dropout": 0.3,
        "controlnet_blocks": [1, 2], "ema_decay": 0.5,
    })  # fmt: skip


def training_on(family: ModelFamily, config: TrainingConfig, initial: InitialControlNet | None) -> Training:
    """Build a training on two random images in batches of two. Their conditions are other images with holes."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand((2, 3, SIDE, SIDE), generator=generator) * 2 - 1
    controls = torch.randint(0, 256, (2, 4, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    size = SizeConditioning((SIDE, SIDE), (0, 0), (SIDE, SIDE))
    views = [
        CachedView(one, None, size, control)
        for one, control in zip(family.encode_image(pictures), controls, strict=True)
    ]
    examples = [CachedExample((view,), "a star", "", (SIDE, SIDE), 1, 1.0) for view in views]
    dataset = PreparedDataset(Path(), (), (), ())
    return build_training(config, family, dataset, examples, Accelerator(cpu=True), initial)


def state_of(training: Training) -> dict[str, torch.Tensor]:
    assert training.controlnet is not None
    with training.averaged():
        return {name: each.clone() for name, each in training.controlnet.module.state_dict().items()}


def test_it_resumes_bit_for_bit_from_a_finished_one(tmp_path: Path) -> None:
    """This includes the norms' statistics of the file from which it started, which differ from those of the base."""
    base = write_cascade(tmp_path / "base")
    family = opened(base)
    assert isinstance(family, Cascade)
    config = resolve(settings(base), family)
    finished, form = family.new_controlnet(ControlForm(4, (1, 2))), ControlForm.of(config.control, (1, 2))
    finished.get_buffer("backbone.0.1.running_mean").add_(0.25)
    trained_on = {"control": "canny", "controlnet_blocks": [1, 2]}
    said = ArtifactDescription("cascade", "tiny", "", "epsilon", {}, 1, trained_on)
    write_controlnet(finished, tmp_path / "start.safetensors", said, "fp32", architecture="a")
    initial = read_initial_controlnet(tmp_path / "start.safetensors", family, form)
    training, checkpoints = training_on(family, config, initial), Checkpoints(tmp_path)
    assert any("trained with control: canny" in note for note in training.notes)
    start, expected = state_of(training), []
    assert all(torch.equal(each, start[name]) for name, each in finished.state_dict().items())
    for step in training.trainer.steps():
        expected.append(step.losses)
        if step.number < STEPS:
            checkpoints.write(training)
    ended = state_of(training)
    assert any(not torch.equal(each, start[name]) for name, each in ended.items())
    training.remove()
    for kill in (1, 2):
        training = training_on(family, config, None)
        restore(training, read_checkpoint(checkpoints.path(kill)))
        assert [step.losses for step in training.trainer.steps()] == expected[kill:]
        assert all(torch.equal(each, ended[name]) for name, each in state_of(training).items())
        training.remove()
    for other, asked in ((ControlForm(4, (0, 3)), r"set controlnet_blocks: \[1, 2\]"), (ControlForm(1), "4 channels")):
        with pytest.raises(ConfigError, match=f"^init_weights: .*{asked}"):
            read_initial_controlnet(tmp_path / "start.safetensors", family, other)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"control": "canny"}, "controlnet_bottleneck: large needs control: .*, not canny"),
        (
            {"control": "super_resolution", "adapter": "lora"},
            "control has no effect with adapter: lora",
        ),
    ],
)
def test_the_large_one_is_for_pictures_in_colour(given: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_config({"adapter": "controlnet", "controlnet_bottleneck": "large", **given})


def test_the_large_one_is_trained(tmp_path: Path) -> None:
    """The image encoder is on the CPU, where it is moved after the latents are cached."""
    base = write_cascade(tmp_path / "base")
    family = opened(base)
    given = {"control": "super_resolution", "controlnet_bottleneck": "large"}
    config = resolve(build_config(settings(base).given | given), family)
    training = training_on(family, config, None)
    family.offload_picture_parts()
    start = state_of(training)
    assert start["backbone.0.weight"].shape[1] == 16
    losses = [step.losses for step in training.trainer.steps()]
    ended = state_of(training)
    assert len(losses) == STEPS and all(not torch.equal(each, start[name]) for name, each in ended.items())
    training.remove()
    finished = ControlForm.of("super_resolution", (1, 2), "large")
    path = tmp_path / "large.safetensors"
    assert training.controlnet is not None
    said = ArtifactDescription("cascade", "tiny", "", "epsilon", {}, 1, {"controlnet_blocks": [1, 2]})
    write_controlnet(training.controlnet.module, path, said, "fp32", architecture="a")
    assert read_initial_controlnet(path, family, finished).path == path
    with pytest.raises(ConfigError, match="set controlnet_bottleneck: large"):
        read_initial_controlnet(path, family, ControlForm.of("super_resolution", (1, 2)))


@pytest.mark.slow
def test_compiled_blocks_train_alike(tmp_path: Path) -> None:
    """The ControlNet's residuals are added outside of the compiled blocks. The backend runs the traced graphs
    uncompiled, because compilation for a CPU takes minutes."""
    base = write_cascade(tmp_path / "base")
    config = build_config(settings(base).given | {"controlnet_blocks": [0, 3]})
    losses = []
    for backend in (None, "eager"):
        torch._dynamo.reset()
        counters.clear()
        family = opened(base)
        training = training_on(family, resolve(config, family), None)
        trainer, compiled = training.trainer, partial(CompiledBlocks, family.denoiser, backend or "")
        if backend is not None:
            trainer.accumulation = CompiledSteps(trainer.accumulation, compiled, True, lambda: 1)
        losses.append([step.losses["mse"] for step in trainer.steps()])
        assert bool(counters["stats"]["unique_graphs"]) == (backend is not None) and not counters["graph_break"]
        training.remove()
    torch._dynamo.reset()
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and len(losses[0]) == STEPS


def test_settings_of_the_base_are_filled_in(tmp_path: Path) -> None:
    base = write_cascade(tmp_path / "base")
    config = resolve(build_config({"base_model": str(base), "adapter": "controlnet", "control": "canny"}), opened(base))
    assert config.controlnet_blocks == (0, 3) and config.loss_weighting == "p2"
    assert resolve(config, opened(base)).controlnet_blocks == (0, 3)


def test_a_held_out_crop_takes_its_condition_along(tmp_path: Path) -> None:
    """A latent covers 2 2/3 pixels here, and 42 2/3 in the published model."""
    family = opened(write_cascade(tmp_path / "base"))
    control = torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    latents = family.encode_image(control[None].float() / 127.5 - 1)[0]
    whole = CachedView(latents, None, SizeConditioning((SIDE, SIDE), (0, 0), (SIDE, SIDE)), control)
    example = CachedExample((whole,), "a star", "", (SIDE, SIDE), 1, 1.0)
    (crop,) = split([example], 0.1, family.size_multiple, torch.Generator().manual_seed(3)).held_out
    view = crop.views[0].load()
    top, left = view.size.crop
    assert view.moments.shape[-2:] == (18, 18) and view.size.target == (48, 48) and top + left > 0
    assert view.control is not None
    assert torch.equal(view.control, control[:, top : top + 48, left : left + 48])
