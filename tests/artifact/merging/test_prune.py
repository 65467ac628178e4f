"""Tests of pruning a whole model to its weights, by default in fp16: diffusers loads the result."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from artifact.command_line import main
from tests.tiny_models import write_sd15

UNET = "unet/diffusion_pytorch_model"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sd15(tmp_path_factory.mktemp("model") / "base")


def test_a_folder_opens_with_half_of_its_bytes(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = load_file(model / f"{UNET}.safetensors")
    extra = (model / f"{UNET}.non_ema.safetensors", model / "unet/optimizer.bin")
    save_file(whole, extra[0])
    extra[1].write_bytes(b"x")
    try:
        assert main(["prune", str(model), str(tmp_path / "small")]) == 0
    finally:
        for path in extra:
            path.unlink()
    said = capsys.readouterr().out
    assert f"left out: {UNET}.non_ema.safetensors" in said and "left out: unet/optimizer.bin" in said
    assert not list(tmp_path.rglob("*.bin")) and len(list(tmp_path.rglob("unet/*.safetensors"))) == 1
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "small", torch_dtype=torch.float32)
    found = pipe.unet.state_dict()
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name].half().float()) for name in whole)
    size = sum(path.stat().st_size for path in (tmp_path / "small").rglob("*.safetensors"))
    assert size < 0.6 * sum(path.stat().st_size for path in model.rglob("*.safetensors"))


def test_a_single_file_loses_averages_and_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {"model.diffusion_model.x": torch.randn(3), "alphas_cumprod": torch.rand(2), "n": torch.arange(2)}
    state = {"model_ema.x": torch.randn(3), "optimizer_states.0": torch.randn(3)}
    save_file(weights | state, tmp_path / "big.safetensors", {"modelspec.title": "t"})
    assert (
        main(["prune", str(tmp_path / "big.safetensors"), str(tmp_path / "b.safetensors"), "--precision", "bf16"]) == 0
    )
    assert "left out: model_ema." in capsys.readouterr().out
    found = load_file(tmp_path / "b.safetensors")
    assert found.keys() == weights.keys() and found["n"].dtype == torch.int64
    assert torch.equal(found["model.diffusion_model.x"], weights["model.diffusion_model.x"].bfloat16())


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.ckpt").write_bytes(b"\x80\x04.")
    (tmp_path / "cut.safetensors").write_bytes(b"\x80\x04.")
    (tmp_path / "folder").mkdir()
    save_file({"x": torch.tensor([1e6])}, tmp_path / "large.safetensors")
    save_file({"model_ema.x": torch.ones(1)}, tmp_path / "state.safetensors")
    save_file({"lora_unet_x.lora_up.weight": torch.ones(1)}, tmp_path / "lora.safetensors")
    for name, message in (
        ("gone.safetensors", "gone.safetensors does not exist\n"),
        ("a.ckpt", "from_single_file and save_pretrained"),
        ("cut.safetensors", "not a readable .safetensors file"),
        ("folder", "does not contain model_index.json"),
        ("large.safetensors", "x would not be finite in torch.float16"),
        ("lora.safetensors", "is a LoRA, not a whole model"),
        ("state.safetensors", "does not contain the weights of a model"),
    ):
        assert main(["prune", str(tmp_path / name), str(tmp_path / "new.safetensors")]) == 2
        assert message in capsys.readouterr().err
        assert not list(tmp_path.glob("new*"))
    assert main(["prune", str(tmp_path / "large.safetensors"), str(tmp_path / "folder")]) == 2
    assert "existing files are not overwritten" in capsys.readouterr().err
