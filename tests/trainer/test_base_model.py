"""Tests of precisions (from the launcher, from the device, and TF32), and of the warning about B-LoRA's blocks."""

import argparse

import pytest
import torch

from families.family import ModelFamily
from service.train_command import build_parser, resolve_config
from settings.record import ConfigError
from settings.training import build_config
from trainer.adapters.requirements import b_lora_warning
from trainer.base_model import allow_tf32, compute_precision, precision


def arguments(*given: str) -> argparse.Namespace:
    return build_parser().parse_args(["data", *given])


@pytest.mark.parametrize(
    ("launched", "given", "found"),
    [
        (None, [], "auto"),
        ("no", [], "auto"),
        ("no", ["--mixed_precision", "bf16"], "bf16"),
        ("bf16", [], "bf16"),
        ("bf16", ["--mixed_precision", "bf16"], "bf16"),
        ("bf16", ["--mixed_precision", "auto"], "bf16"),
        ("fp16", [], "fp16"),
        ("FP16", ["--mixed_precision", "fp16"], "fp16"),
    ],
)
def test_the_launchers_precision_is_obeyed(
    launched: str | None, given: list[str], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launched is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    assert resolve_config(arguments(*given)).mixed_precision == found


@pytest.mark.parametrize(
    ("launched", "given", "message"),
    [
        ("fp8", [], "accelerate launch --mixed_precision fp8: .*use --mixed_precision bf16, fp16 or no"),
        ("FP16", ["--mixed_precision", "bf16"], "mixed_precision: bf16 contradicts accelerate launch, which has fp16"),
        ("bf16", ["--mixed_precision", "no"], "mixed_precision: no contradicts accelerate launch, which has bf16"),
    ],
)
def test_another_precision_is_refused_by_name(
    launched: str, given: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    with pytest.raises(ConfigError, match=message):
        resolve_config(arguments(*given))


@pytest.mark.parametrize(("there", "has", "dtype"), [
    (True, True, torch.bfloat16), (True, False, torch.float32), (False, False, torch.float32)])  # fmt: skip
def test_auto_is_what_the_card_has(there: bool, has: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has or including_emulation)
    assert precision("lora", "auto") == dtype
    assert precision("full", "auto") == torch.float32 and precision("lora", "bf16") == torch.bfloat16
    assert compute_precision("auto") == dtype


def test_tf32_is_a_setting() -> None:
    assert build_config({}).allow_tf32 and not build_config({"allow_tf32": False}).allow_tf32
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        for allowed in (True, False):
            allow_tf32(allowed)
            assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (allowed, allowed)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("targets", ["b-lora", "b-lora-content", "b-lora-style", "attention"])
def test_b_lora_on_other_blocks_than_sdxls_is_reported(targets: str, base: ModelFamily) -> None:
    warning = b_lora_warning(build_config({"lora_targets": targets}).adapters, base)
    if targets == "attention":
        assert warning is None
        return
    assert warning is not None and f"lora_targets: {targets}: B-LoRA's blocks for content and style" in warning
