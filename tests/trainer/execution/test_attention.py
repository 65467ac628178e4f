"""Tests that training passes run the chosen implementation of attention, and that one that is not available is an
error."""

import importlib.util
import sys
from collections import Counter
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import diffusers.models.attention_processor as processors
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention import AttentionModuleMixin
from torch import Tensor
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from families.family import ModelFamily
from families.parts.compiled_blocks import CompiledBlocks
from families.registry import load_base_model
from service.train_command import main
from settings.record import ConfigError
from settings.sections.speed import AttentionName
from tests.conftest import EXAMPLE
from tests.families.golden_curves import curve_config, curve_training
from tests.tiny_models import TINY_MODELS, load_tiny, opened
from trainer.execution.attention import AttentionSteps, require_attention
from trainer.execution.compiled_steps import CompiledSteps
from trainer.loop import Step

KINDS = (processors.Attention, AttentionModuleMixin)
CPU = torch.device("cpu")
FLASH, MATH = "_scaled_dot_product_flash_attention_for_cpu", "_safe_softmax"


class Operators(TorchDispatchMode):
    """Counts the calls of torch's operators, including those of the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[function.__name__.partition(".")[0]] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture(params=["sd15", "sd3"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ModelFamily, str]:
    folder = TINY_MODELS[request.param](tmp_path / "base")
    return opened(folder), str(folder)


def steps_with(base: tuple[ModelFamily, str], **settings: Any) -> tuple[list[Step], Counter[str]]:
    """Returns two steps and the operators that they called. Asserts that the denoiser has its own processors after
    each."""
    family, folder = base
    usual = [layer.processor for layer in layers(family)]
    with (
        curve_training(
            family,
            curve_config(
                folder,
                max_train_steps=2,
                lr_warmup_steps=1,
                prior_matching_weight=0.5,
                prior_matching_interval=1,
                **settings,
            ),
        ) as training,
        Operators() as seen,
    ):
        steps = []
        for step in training.trainer.steps():
            steps.append(step)
            assert [layer.processor for layer in layers(family)] == usual
    return steps, seen.calls


def layers(family: ModelFamily) -> list[Any]:
    return [module for module in family.denoiser.modules() if isinstance(module, KINDS)]


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["never", "always"])
def test_the_implementation_is_the_one_asked_for(base: tuple[ModelFamily, str], checkpointing: str) -> None:
    settings = {"gradient_checkpointing": checkpointing}
    as_torch_chooses, chosen = steps_with(base, attention="auto", **settings)
    by_flash, flash = steps_with(base, attention="flash", **settings)
    by_math, math = steps_with(base, attention="math", **settings)
    assert by_flash == as_torch_chooses and flash == chosen  # flash is torch's choice on a CPU
    of_denoiser = math[MATH] - chosen[MATH]
    assert of_denoiser > 0 and of_denoiser % len(layers(base[0])) == 0
    assert chosen[FLASH] - math[FLASH] == of_denoiser  # all of the denoiser's, none of the text encoders'
    for ours, wanted in zip(by_math, as_torch_chooses, strict=True):
        assert ours.losses == pytest.approx(wanted.losses, rel=1e-4)
        assert ours.gradient_norms == pytest.approx(wanted.gradient_norms, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flux1", "flux2"])
def test_flux_has_attention_layers_of_its_own(kind: str, tmp_path: Path) -> None:
    family, folder = load_tiny(kind, tmp_path / "base"), str(tmp_path / "base")
    steps_with((family, folder), attention="auto")  # encodes the prompts
    as_torch_chooses, chosen = steps_with((family, folder), attention="auto")
    by_math, math = steps_with((family, folder), attention="math")
    assert chosen[FLASH] == math[MATH] - chosen[MATH] > 0 == math[FLASH]
    for ours, wanted in zip(by_math, as_torch_chooses, strict=True):
        assert ours.losses == pytest.approx(wanted.losses, rel=1e-4)
    with pytest.raises(ConfigError, match=r"xformers is not supported for Flux2?AttnProcessor"):
        AttentionSteps(cast(Any, None), family.denoiser, "xformers")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flash", "math"])
def test_it_compiles_without_graph_breaks(name: AttentionName, tmp_path: Path) -> None:
    folder = str(TINY_MODELS["sdxl"](tmp_path / "base"))
    family = load_base_model(folder, torch.float32)
    torch._dynamo.reset()
    counters.clear()
    with curve_training(family, curve_config(folder, attention=name)) as training:
        source = CompiledSteps(
            training.trainer.accumulation, lambda: CompiledBlocks(family.denoiser, "eager"), True, lambda: 1
        )
        source.run([next(training.batches)], training.trainer.backward)
    assert counters["stats"]["unique_graphs"] > 0 and not counters["graph_break"]


@pytest.mark.parametrize("name", ["efficient", "cudnn"])
def test_what_the_device_cannot_do_is_an_error_before_anything_starts(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    options = ["--base_model", "mini-sdxl", "--attention", name, "--mixed_precision", "no", "--output", str(output)]
    if torch.cuda.is_available():
        pytest.skip("a GPU may be able to do it")
    assert main([str(EXAMPLE), *options]) == 2
    told = capsys.readouterr()
    assert f"attention: {name} does not work on this cpu" in told.err and "Set attention: auto" in told.err
    assert "loading the base" not in told.out


@pytest.mark.skipif(importlib.util.find_spec("xformers") is not None, reason="xformers is installed")
def test_xformers_that_is_not_installed_is_an_error_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="xformers is not installed; pip install .* torch 2"):
        require_attention("xformers", CPU, torch.float32)


def test_a_head_that_the_implementation_cannot_do_is_found_with_the_base(
    base: tuple[ModelFamily, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On GPUs, flash attention supports heads of at most 256 channels, cuDNN's attention of at most 128."""
    attend = F.scaled_dot_product_attention
    largest = max(layer.inner_dim // layer.heads for layer in layers(base[0]))

    def limited(query: Tensor, *rest: Any) -> Tensor:
        if query.shape[-1] == largest:
            raise RuntimeError("No available kernel")
        return attend(query, *rest)

    require_attention("flash", CPU, torch.float32, base[0].denoiser)
    monkeypatch.setattr("trainer.execution.attention.F.scaled_dot_product_attention", limited)
    require_attention("flash", CPU, torch.float32)
    with pytest.raises(ConfigError, match=f"heads of {largest} channels .*No available kernel"):
        require_attention("flash", CPU, torch.float32, base[0].denoiser)


@pytest.fixture
def xformers_stand_in(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Replaces xformers, which needs a GPU, by the formula of its attention. Returns a counter of the calls."""
    calls: Counter[str] = Counter()

    def attention(query: Tensor, key: Tensor, value: Tensor, attn_bias: Tensor | None = None, **rest: Any) -> Tensor:
        """(B, N, heads, channels), or (B · heads, N, channels)."""
        assert attn_bias is None and query.is_contiguous()
        calls["attention"] += 1
        many = query.dim() == 4
        query, key, value = (each.transpose(1, 2) if many else each for each in (query, key, value))
        shares = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)
        return (shares @ value).transpose(1, 2) if many else shares @ value

    package, ops = ModuleType("xformers"), ModuleType("xformers.ops")
    package.__spec__ = ModuleSpec("xformers", None)
    vars(ops)["memory_efficient_attention"] = attention
    vars(package)["ops"] = ops
    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    monkeypatch.setattr(processors, "xformers", package)
    return calls


@pytest.mark.slow
def test_xformers_takes_the_place_of_torchs_attention(
    base: tuple[ModelFamily, str], xformers_stand_in: Counter[str]
) -> None:
    require_attention("xformers", CPU, torch.float32, base[0].denoiser)
    assert xformers_stand_in.total() > 0  # called by the check
    xformers_stand_in.clear()
    by_torch, chosen = steps_with(base, attention="auto")
    by_xformers, others = steps_with(base, attention="xformers")
    assert xformers_stand_in.total() == chosen[FLASH] - others[FLASH] > 0
    for ours, wanted in zip(by_xformers, by_torch, strict=True):
        assert ours.losses == pytest.approx(wanted.losses, rel=1e-4)


def test_xformers_is_refused_for_attention_of_another_kind(base: tuple[ModelFamily, str]) -> None:
    family, _ = base
    layers(family)[0].processor = processors.AttnProcessor()
    with pytest.raises(ConfigError, match="xformers is not supported for AttnProcessor"):
        AttentionSteps(None, family.denoiser, "xformers")  # type: ignore[arg-type]
