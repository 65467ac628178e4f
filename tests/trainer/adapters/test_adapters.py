"""Tests of every kind of adapter: it has no effect at first, is trained, saved with the right scale and read back; and
of its target layers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer as PeftLoraLayer

from artifact.artifact import Artifact
from artifact.layers import DoraLayer, FullLayer, Layer, LokrLayer
from artifact.names.components import DENOISER, Place, components, place_names
from artifact.placement.placing import PlacedArtifacts
from families.family import ModelFamily, SizeConditioning
from families.registry import load_base_model
from job.output_folder import OutputFolder
from job.run import run
from job.verification.verify import Probe
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from tests.conftest import EXAMPLE
from tests.tiny_models import write_sd3, write_sd15
from tests.trainer.adapters.placing import WEIGHTS, place_adapter
from tests.trainer.test_training import placed
from trainer.adapters.adapter import new_adapter
from trainer.adapters.kinds import KINDS, MODULES
from trainer.adapters.requirements import check_targets
from trainer.adapters.targets import denoiser_targets
from trainer.base_model import autocast_precision
from trainer.monitoring.diagnostics import change_squared
from trainer.randomness import NamedGenerators
from trainer.trainables.part import Parts
from trainer.training import Training

EVERYTHING = "attention+feed-forward+convolutions"


def config(**settings: Any) -> TrainingConfig:
    return TrainingConfig(
        base_model="mini-sdxl",
        class_word="figure",
        num_validation_images=0,
        **{"max_train_steps": 2, "train_batch_size": 2, "learning_rate": 2e-3, "prior_matching_weight": 0.0} | settings,
    )


@contextmanager
def adapted(base: ModelFamily, settings: TrainingConfig) -> Iterator[Parts]:
    adapter = place_adapter(base, settings)
    try:
        yield adapter
    finally:
        adapter.remove()


@torch.no_grad()
def disturb(adapter: Parts) -> None:
    """Change every parameter, as training would."""
    generator = torch.Generator().manual_seed(1)
    for parameter in adapter.parameters(WEIGHTS):
        parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_every_kind_mean_what_peft_computes(kind: str, base: ModelFamily) -> None:
    """On linear and convolution layers, a new adapter has no effect; a changed one computes with W + delta."""
    parts, scale = ("attentions", {}) if KINDS[kind].linear_only else ("(attentions|resnets)", {"alpha": 2.0})
    settings = config(adapter=kind, rank=3, lora_target_regex=rf"down_blocks\.1\.{parts}\..*", **scale)
    probe = Probe.make(base, "a red star")
    bare = probe.predict(base, {})
    with adapted(base, settings) as adapter:
        assert {parameter.dtype for parameter in adapter["lora"].parameters} == {torch.float32}
        torch.testing.assert_close(probe.predict(base, {}), bare, rtol=1e-4, atol=1e-5)
        assert all(layer.changes_nothing for layer in adapter.layers().values())
        disturb(adapter)
        trained, layers = probe.predict(base, {}), adapter.layers()
        if kind not in ("dora", "t-lora"):  # the log ignores magnitudes, and the timesteps of components
            assert_the_log_has_their_change(base, layers)
        with adapter.off():
            torch.testing.assert_close(probe.predict(base, {}), bare, rtol=1e-6, atol=1e-6)
        assert torch.equal(probe.predict(base, {}), trained)
        assert all(parameter.requires_grad for parameter in adapter["lora"].parameters)
    assert torch.equal(probe.predict(base, {}), bare)
    placed_again = PlacedArtifacts(base, [Artifact(layers, {}, None)])
    try:
        assert (probe.predict(base, {}) - trained).norm() < 1e-3 * (trained - bare).norm()
    finally:
        placed_again.remove()


def assert_the_log_has_their_change(base: ModelFamily, layers: Mapping[str, Layer]) -> None:
    names = place_names(base)
    for path, module in base.denoiser.named_modules():
        if isinstance(module, MODULES):
            part: Any = module
            change = layers[names[Place(DENOISER, path)]].delta(part.get_base_layer().weight).square().sum()
            torch.testing.assert_close(change_squared(part).detach(), change, rtol=1e-3, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"adapter": "dora", "lora_targets": EVERYTHING},
        {"adapter": "loha"},
        {"adapter": "lokr", "lora_targets": EVERYTHING, "rank": 4},
        {"adapter": "oft", "train_text_encoder": True, "rank": 4},
        {"adapter": "t-lora", "lora_targets": EVERYTHING, "rank": 4},
        {"adapter": "full", "learning_rate": 1e-3},
        {"adapter": "none", "token_learning_rate": 2e-2},
        {"adapter": "rslora", "lora_init": "pissa", "adapter_dropout": 0.2, "train_text_encoder": True,
         "text_encoder_rank": 2, "text_encoder_learning_rate": 1e-3},
    ],
    ids=lambda settings: settings["adapter"],
)  # fmt: skip
def test_a_run_with_every_kind_ends_verified(settings: dict[str, Any], tmp_path: Path) -> None:
    output = OutputFolder.create(tmp_path / "out")
    events = list(run(config(**settings), [EXAMPLE], output))
    assert any("verified" in event.message for event in events)
    warned = any(event.warning and event.message.startswith(f"adapter {settings['adapter']}") for event in events)
    assert warned == (settings["adapter"] in ("dora", "loha", "lokr", "oft", "t-lora", "full"))
    artifact = Artifact.read(output.weights)
    kinds = {layer.kind for layer in artifact.layers.values()}
    assert kinds == {"none": set(), "rslora": {"lora"}, "t-lora": {"timed-lora"}}.get(
        settings["adapter"], {settings["adapter"]}
    )
    assert artifact.tokens


def test_a_text_encoder_adapter_is_trained_and_saved(base: ModelFamily, tmp_path: Path) -> None:
    """One of the trainers that this one is derived from trained this adapter, but did not save it."""
    settings = config(train_text_encoder=True, text_encoder_learning_rate=1e-3, rank=4, text_encoder_rank=2)
    for training in placed(base, settings, tmp_path):
        steps = list(training.trainer.steps())
        assert all(step.gradient_norms["text_encoders"] > 0 for step in steps)
        assert steps[0].learning_rates["text_encoders"] == pytest.approx(1e-3)
        in_memory = training.artifact().layers
        training.write(tmp_path / "weights.safetensors")
    saved = Artifact.read(tmp_path / "weights.safetensors").layers
    text = {name: layer for name, layer in saved.items() if name.startswith("lora_te")}
    assert {name.split("_text_model_")[0] for name in text} == {"lora_te1", "lora_te2"}
    assert saved.keys() == in_memory.keys() and not any(layer.changes_nothing for layer in text.values())
    assert {layer.rank for layer in text.values()} == {2}
    layers = base.text_encoders[0].config.num_hidden_layers
    assert not any(f"layers_{layers - 1}_" in name for name in text if "te1" in name)  # SDXL does not use its output
    assert not any("lora" in name for encoder in base.text_encoders for name, _ in encoder.named_modules())


@pytest.mark.parametrize(
    ("kind", "alpha", "saved"),
    [("lora", None, 8.0), ("lora", 2.0, 2.0), ("rslora", None, 4 * 8**0.5), ("rslora", 2.0, 2 * 8**0.5)],
)
def test_the_saved_alpha_gives_the_scale_of_the_rule(
    kind: str, alpha: float | None, saved: float, base: ModelFamily
) -> None:
    """Readers of kohya's format divide alpha by the rank; rsLoRA (Kalajdzievski 2023) divides it by the square root of
    the rank."""
    with adapted(base, config(adapter=kind, rank=8, alpha=alpha)) as adapter:
        assert {round(layer.alpha or 0, 5) for layer in adapter.layers().values()} == {round(saved, 5)}


@pytest.mark.parametrize(("kind", "scales"), [("lora", (1.0, 1.0)), ("rslora", (1.0, 0.5))])
def test_a_text_encoder_adapter_of_another_rank_has_the_scale_of_its_rule(
    kind: str, scales: tuple[float, float]
) -> None:
    """alpha / rank stays the same; rsLoRA divides the same alpha by the root of the rank."""
    settings = build_config({"adapter": kind, "rank": 16}).adapters
    for rank, scale in zip((16, 64), scales, strict=True):
        component = torch.nn.Sequential(torch.nn.Linear(80, 80))
        adapter = new_adapter(component, settings, rank, ["0"], NamedGenerators(0), "init")
        assert [module.scaling["default"] for module in adapter.modules()] == [scale]


def test_weight_decay_leaves_the_magnitudes_of_dora_alone(base: ModelFamily, tmp_path: Path) -> None:
    """Magnitudes start as the norms of the base weight's rows. Decay towards 0 would therefore also reduce the base
    weights."""
    settings = config(adapter="dora", rank=2, lora_targets="cross-attention-kv", weight_decay=1.0, learning_rate=0.1,
                      train_text_encoder=True)  # fmt: skip
    for training in placed(base, settings, tmp_path):
        spared = {id(each) for name in WEIGHTS if name in training.parts for each in training.parts[name].undecayed}
        for trainable in training.trainer.trainables:
            before = [parameter.detach().clone() for parameter in trainable.parameters]
            for parameter in trainable.parameters:
                parameter.grad = torch.zeros_like(parameter)
            trainable.update()
            alone = [torch.equal(*pair) for pair in zip(before, trainable.parameters, strict=True)]
            started = [bool(parameter.any()) for parameter in before]
            expected = [
                trainable.name == "tokens" or id(each) in spared or not some
                for each, some in zip(trainable.parameters, started, strict=True)
            ]
            assert alone == expected
        assert len(spared) > 10


def test_lokr_with_whole_factors_has_its_scale_inside(base: ModelFamily) -> None:
    """Other tools ignore alpha if both factors are whole matrices, and would apply the layer with another strength."""
    with adapted(base, config(adapter="lokr", rank=512, alpha=256.0)) as adapter:
        disturb(adapter)
        layer = next(iter(adapter.layers().values()))
        assert isinstance(layer, LokrLayer) and layer.rank is None and layer.scale == 1.0


def test_fp32_masters_on_a_half_precision_base(tmp_path: Path) -> None:
    half = load_base_model(str(write_sd15(tmp_path)), torch.bfloat16)
    for kind in KINDS:
        with adapted(half, config(adapter=kind, train_text_encoder=True)) as adapter:
            parameters = adapter.parameters(WEIGHTS)
            assert {parameter.dtype for parameter in parameters} == {torch.float32}
            for layer in adapter.layers().values():
                if isinstance(layer, DoraLayer):
                    assert not torch.equal(layer.dora_scale, layer.dora_scale.bfloat16().float())
    with pytest.raises(ValueError, match="fp32"):
        place_adapter(half, config(adapter="full"))


def test_full_fine_tuning_restores_the_base_bit_by_bit(base: ModelFamily) -> None:
    before = {name: value.clone() for name, value in base.denoiser.state_dict().items()}
    with adapted(base, config(adapter="full")) as adapter:
        assert len(adapter["lora"].parameters) == len(before)
        disturb(adapter)
        layers = adapter.layers()
        with adapter.off():
            assert all(torch.equal(before[name], value) for name, value in base.denoiser.state_dict().items())
        assert all(isinstance(layer, FullLayer) and not layer.changes_nothing for layer in layers.values())
    assert all(torch.equal(before[name], value) for name, value in base.denoiser.state_dict().items())
    assert not any(parameter.requires_grad for parameter in base.denoiser.parameters())


def test_dropout_draws_from_its_generator_and_not_outside_of_training(base: ModelFamily) -> None:
    settings, probe = config(adapter_dropout=0.5), Probe.make(base, "a red star")

    def predictions() -> tuple[torch.Tensor, torch.Tensor]:
        with adapted(base, settings) as adapter:
            disturb(adapter)
            prompts = base.encode_prompts([probe.prompt] * 3)
            return base.denoise(probe.noised, probe.timesteps, prompts, probe.sizes), probe.predict(base, {})

    first, without = predictions()
    torch.manual_seed(99)  # torch's global generator must have no influence
    second, again = predictions()
    assert torch.equal(first, second) and torch.equal(without, again)
    assert (first - without).norm() > 1e-3 * without.norm()


EVERY_KIND = "attention+feed-forward"
PRESETS = {
    "cross-attention-kv": ("attn2.to_k", "attn2.to_v"),
    "b-lora": ("up_blocks.0.attentions.0.", "up_blocks.0.attentions.1."),
    "b-lora-content": ("up_blocks.0.attentions.0.",),
    "b-lora-style": ("up_blocks.0.attentions.1.",),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_mean_their_layers(preset: str, base: ModelFamily) -> None:
    paths = denoiser_targets(base, config(lora_targets=preset))
    assert all(any(part in path for path in paths) for part in PRESETS[preset])
    assert all(any(part in path for part in PRESETS[preset]) for path in paths)
    attention = denoiser_targets(base, config(lora_targets="attention"))
    assert set(paths) < set(attention)


def test_all_linear_layers_are_those_of_the_blocks(base: ModelFamily) -> None:
    paths, fewer = (denoiser_targets(base, config(lora_targets=preset)) for preset in ("all-linear", EVERY_KIND))
    linear = {path for path, module in base.denoiser.named_modules() if isinstance(module, torch.nn.Linear)}
    assert set(paths) == {path for path in linear if "transformer_blocks" in path} < linear
    assert set(paths) == {path for path in fewer if "transformer_blocks" in path}


def test_a_regular_expression_chooses_layers(base: ModelFamily) -> None:
    paths = denoiser_targets(base, config(lora_target_regex=r".*attn2\.to_[kv]"))
    assert paths == denoiser_targets(base, config(lora_targets="cross-attention-kv"))
    with adapted(base, config(lora_target_regex=r"mid_block\..*\.to_q")) as adapter:
        assert all("middle_block" in name and name.endswith("to_q") for name in adapter.layers())


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("to_q", r"matches none of the \d+ layers; it must match whole paths such as conv_in, "),
        ("(", "is not a valid regular expression"),
        (r"(\w|[a-z]|\.|.)*\d[a-z]", "takes too long"),
    ],
)
def test_wrong_regular_expressions_are_errors_with_a_remedy(pattern: str, message: str, base: ModelFamily) -> None:
    with pytest.raises(ConfigError, match=message):
        denoiser_targets(base, config(lora_target_regex=pattern))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("b-lora-style", "B-LoRA's blocks are only known for SDXL"),
        ("cross-attention-kv", "have no layers"),
        (EVERYTHING, "have no conv"),
    ],
)
def test_targets_that_a_base_lacks_are_errors(targets: str, message: str, tmp_path: Path) -> None:
    family = load_base_model(str(write_sd3(tmp_path, t5=False)), torch.float32)
    with pytest.raises(ConfigError, match=message):
        denoiser_targets(family, config(lora_targets=targets))


def test_first_values_of_linear_layers_are_refused_for_convolutions(base: ModelFamily) -> None:
    for init in ("pissa", "olora", "eva"):
        with pytest.raises(ConfigError, match=f"lora_init: {init} only supports linear layers, not convolutions"):
            check_targets(base, config(lora_init=init, lora_targets=EVERYTHING))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapter": "none", "rank": 8}, "rank has no effect with adapter: none"),
        ({"adapter": "none", "train_text_encoder": True}, "train_text_encoder has no effect"),
        ({"adapter": "full", "train_text_encoder": True, "text_encoder_rank": 4}, "text_encoder_rank has no effect"),
        ({"adapter": "full"}, "usually 1e-5"),
        ({"adapter": "full", "learning_rate": 1e-5, "mixed_precision": "fp16"}, "mixed_precision: bf16, or no"),
        ({"adapter": "none", "token_learning_rate": 0}, "trains nothing"),
        ({"adapter": "none", "prior_matching_weight": 1.0}, "prior_matching_weight has no effect"),
        ({"adapter": "loha", "adapter_dropout": 0.1}, "not with loha"),
        ({"adapter": "oft", "adapter_dropout": 0.1}, "not with oft"),
        ({"adapter": "oft", "alpha": 4.0}, "alpha has no effect with adapter: oft"),
        ({"adapter": "oft", "rank": 1}, "rank: adapter: oft .* at least 2"),
        ({"text_encoder_rank": 4}, "without train_text_encoder"),
        ({"text_encoder_learning_rate": 1e-4}, "without train_text_encoder"),
        ({"lora_target_regex": ".*", "lora_targets": "b-lora"}, "lora_target_regex replaces lora_targets"),
        ({"optimizer": "prodigy", "train_text_encoder": True, "text_encoder_learning_rate": 5e-5}, "far from 1"),
    ],
)
def test_settings_without_effect_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(settings)


def test_the_prior_is_the_base_without_any_adapter(base: ModelFamily, tmp_path: Path) -> None:
    """Includes text-encoder adapters: new adapters do not change the base model, so the loss is 0; trained ones do."""
    settings = config(prior_matching_weight=1.0, prior_matching_interval=1, prior_matching_on="everything",
                      train_text_encoder=True, text_encoder_learning_rate=1e-2)  # fmt: skip
    for training in placed(base, settings, tmp_path):
        assert isinstance(training, Training)
        steps = list(training.trainer.steps())
        assert steps[0].losses["prior_matching"] == pytest.approx(0, abs=1e-10)
        assert steps[1].losses["prior_matching"] > 0


def test_the_components_that_a_file_may_change(base: ModelFamily) -> None:
    assert list(components(base)) == ["denoiser", "text_encoder", "text_encoder_2"]


@pytest.mark.parametrize("kind", ["lora", "rslora"])
@pytest.mark.parametrize("write", [write_sd15, write_sd3])
def test_a_lora_computes_in_the_bases_precision_and_learns_in_fp32(kind: str, write: Any, tmp_path: Path) -> None:
    """There is no autocast, because under it every norm would compute in fp32. The text encoders have LoRAs too."""
    folder = str(write(tmp_path / "base"))
    settings = TrainingConfig(base_model=folder, adapter=kind, rank=3, train_text_encoder=True)
    assert autocast_precision(settings.adapter, "bf16") == "no"
    predictions, gradients = [], []
    for dtype in (torch.float32, torch.bfloat16):
        family = load_base_model(folder, dtype)
        with adapted(family, settings) as adapter:
            disturb(adapter)
            prediction, precisions = watched_prediction(family)
            prediction.square().mean().backward()
            assert precisions == {dtype}
            parameters = adapter.parameters(WEIGHTS)
            found = [each.grad for each in parameters if each.grad is not None]
            assert len(found) == len(parameters) and {each.dtype for each in found} == {torch.float32}
        predictions.append(prediction.detach())
        gradients.append(torch.cat([each.flatten() for each in found]))
    exact, rounded = predictions
    assert (rounded - exact).norm() < 0.03 * exact.norm()
    assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.98


def watched_prediction(family: ModelFamily) -> tuple[torch.Tensor, set[torch.dtype]]:
    """Returns a prediction with gradients, and the dtypes of inputs and outputs of the denoiser's adapted layers."""
    precisions: set[torch.dtype] = set()

    def watch(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        precisions.update((inputs[0].dtype, output.dtype))

    for module in family.denoiser.modules():
        if isinstance(module, PeftLoraLayer):
            module.register_forward_hook(watch)
    noised = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    size = SizeConditioning((64, 64), (0, 0), (64, 64))
    features = family.encode_prompts(["a red star"])
    return family.denoise(noised, torch.tensor([500]), features, [size]), precisions


def test_other_kinds_compute_under_autocast() -> None:
    assert autocast_precision("dora", "bf16") == "bf16"
    assert autocast_precision("dora", "no") == "no"
