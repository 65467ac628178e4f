"""Tests of every kind of adapter on convolutions: it computes what its file contains, is trained and read back, or is
refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from artifact.artifact import Artifact
from artifact.layers import TimedLoraLayer
from artifact.placement.placing import PlacedArtifacts
from families.family import ModelFamily
from job.verification.verify import Probe
from settings.record import ConfigError
from tests.families.golden_curves import curve_config, curve_training
from tests.tiny_models import load_tiny
from tests.trainer.adapters.test_adapters import EVERYTHING, config
from trainer.adapters.kinds import KINDS
from trainer.adapters.peft_adapter import PeftAdapter, Timed
from trainer.adapters.requirements import check_targets
from trainer.adapters.t_lora import component_times
from trainer.resolution import resolve

HOLD_CONVOLUTIONS = [name for name, kind in KINDS.items() if not kind.linear_only]
LINEAR_ONLY = [name for name, kind in KINDS.items() if kind.linear_only]
RANK, LEAST = 4, 2
PATHS = ("first", "smaller", "point")
PICTURES = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3))
NO_NOISE = torch.zeros(3)


class Denoiser(nn.Module):
    """Three convolutions: a plain one, one with a stride and without a bias, and one of size 1."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, padding=1)
        self.smaller = nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False)
        self.point = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        out: Tensor = self.point(self.smaller(self.first(x)))
        return out


def denoiser() -> Denoiser:
    """Returns a denoiser with the same values at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Denoiser().requires_grad_(False)


def put_on(component: Denoiser, kind: str) -> PeftAdapter:
    timed = Timed(component_times(RANK, LEAST), (0.0, 1.0)) if kind == "t-lora" else None
    return PeftAdapter(component, kind, RANK, 6.0, PATHS, torch.Generator().manual_seed(1), timed=timed)


@torch.no_grad()
def disturb(adapter: PeftAdapter) -> None:
    generator = torch.Generator().manual_seed(2)
    for parameter in adapter.parameters:
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def weight_of(component: Denoiser, path: str) -> Tensor:
    return component.get_parameter(f"{path}.weight")


@torch.no_grad()
def with_changes(changes: dict[str, Tensor]) -> Tensor:
    """Returns the denoiser's output with `changes` added to its weights."""
    component = denoiser()
    for path, change in changes.items():
        weight_of(component, path).add_(change)
    output: Tensor = component(PICTURES, NO_NOISE)
    return output


@pytest.mark.parametrize("kind", HOLD_CONVOLUTIONS)
def test_layers_mean_what_the_convolutions_compute(kind: str) -> None:
    """Another adapter that starts from these layers computes the same. Without noise, all components of a t-lora are
    used."""
    component, bare = denoiser(), denoiser()
    adapter = put_on(component, kind)
    torch.testing.assert_close(component(PICTURES, NO_NOISE), bare(PICTURES, NO_NOISE), rtol=1e-4, atol=1e-5)
    disturb(adapter)
    layers, found = adapter.layers(), component(PICTURES, NO_NOISE)
    plain = {path: layer.direction if isinstance(layer, TimedLoraLayer) else layer for path, layer in layers.items()}
    expected = with_changes({path: layer.delta(weight_of(bare, path)) for path, layer in plain.items()})
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert (expected - bare(PICTURES, NO_NOISE)).norm() > 0.03 * expected.norm()
    again = denoiser()
    second = put_on(again, kind)
    assert [second.start(path, layer) for path, layer in layers.items()] == [None] * len(PATHS)
    torch.testing.assert_close(again(PICTURES, NO_NOISE), found, rtol=1e-4, atol=1e-5)


def test_a_t_lora_masks_channels_of_the_down_projections_by_timestep() -> None:
    """T-LoRA masks components of the rank. Each image has the mask of its own timestep."""
    component = denoiser()
    adapter = put_on(component, "t-lora")
    disturb(adapter)
    found = component(PICTURES, torch.tensor([0.0, 0.5, 0.99]))
    for row, acting in enumerate((4, 3, 2)):  # ⌈(1 - τ) · 3⌉ + 1
        changes = {}
        for path, layer in adapter.layers().items():
            assert isinstance(layer, TimedLoraLayer)
            down, up = layer.direction.down[:acting], layer.direction.up[:, :acting, 0, 0]
            changes[path] = layer.direction.scale * torch.einsum("or,rikl->oikl", up, down)
        torch.testing.assert_close(found[row], with_changes(changes)[row], rtol=1e-3, atol=1e-4)
    component(PICTURES, torch.full((3,), 0.99)).square().mean().backward()
    for layer_of in (component.get_submodule(path) for path in PATHS):
        part: Any = layer_of
        gradient = part.lora_A["default"].weight.grad
        assert gradient[:LEAST].any() and not gradient[LEAST:].any()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelFamily:
    return load_tiny("sd15", tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("kind", HOLD_CONVOLUTIONS)
def test_convolutions_are_trained_saved_and_read(kind: str, tiny: ModelFamily, tmp_path: Path) -> None:
    chosen = {"lora_targets": "attention", "lora_target_regex": r"down_blocks\..*\.(conv1|conv|conv_shortcut)"}
    settings = curve_config("tiny", adapter=kind, max_train_steps=1, lr_warmup_steps=0, train_batch_size=1,
                            gradient_accumulation_steps=1, **chosen)  # fmt: skip
    probe = Probe.make(tiny, "a red star")
    with torch.no_grad(), curve_training(tiny, settings) as training:
        with torch.enable_grad():
            list(training.trainer.steps())
        training.write(tmp_path / "weights.safetensors")
        trained = probe.predict(tiny, {})
    read = Artifact.read(tmp_path / "weights.safetensors")
    assert len(read.layers) > 5 and not any(layer.changes_nothing for layer in read.layers.values())
    bare = probe.predict(tiny, {})
    placed = PlacedArtifacts(tiny, [read])
    try:
        difference = (probe.predict(tiny, {}) - trained).norm()
    finally:
        placed.remove()
    assert difference < 0.02 * (trained - bare).norm()


@pytest.mark.parametrize("kind", LINEAR_ONLY)
def test_kinds_for_linear_layers_refuse_convolutions(kind: str, base: ModelFamily) -> None:
    """With peft's OFT, a new adapter on convolutions would already change the base model."""
    with pytest.raises(ConfigError, match=f"adapter: {kind} does not support convolutions such as "):
        check_targets(base, config(adapter=kind, lora_targets=EVERYTHING))
    check_targets(base, config(adapter=kind))


@pytest.mark.parametrize("kind", HOLD_CONVOLUTIONS)
def test_convolutions_in_groups_are_refused_where_peft_cannot_hold_them(kind: str, base: ModelFamily) -> None:
    """Grouped convolutions, such as Stable Cascade's depthwise ones, can only be chosen by a regular expression."""
    inner = base.denoiser.down_blocks[0].resnets[0]
    whole, inner.conv1 = inner.conv1, nn.Conv2d(8, 8, 3, groups=8)
    try:
        settings = config(adapter=kind, lora_target_regex=r"down_blocks\.0\.resnets\.0\.conv1").adapters
        if kind in ("loha", "lokr"):
            check_targets(base, settings)
        else:
            with pytest.raises(
                ConfigError, match=rf"adapter: {kind} does not support grouped convolutions such as .*conv1; .*lokr"
            ):
                check_targets(base, settings)
    finally:
        inner.conv1 = whole


@pytest.mark.parametrize("kind", KINDS)
def test_a_narrow_base_has_them_on_convolutions_where_they_can_be(kind: str, base: ModelFamily) -> None:
    resolved = resolve(config(adapter=kind), base)
    assert resolved.lora_targets == ("attention" if KINDS[kind].linear_only else EVERYTHING)
    check_targets(base, resolved.adapters)
