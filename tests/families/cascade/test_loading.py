"""Tests of loading Stable Cascade from a folder or Stage C's single file, with other parts beside it or on the hub."""

import json
import shutil
from pathlib import Path

import pytest
import requests
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from families.cascade import decoder_parts
from families.cascade.decoder_parts import read_encoder
from families.cascade.efficient_net import EfficientNetEncoder
from families.errors import BaseModelError
from families.family import limited_licence
from families.loading.allowed import VARIABLE
from families.loading.fingerprint import fingerprint
from families.registry import load_base_model
from sampler.generation import Generation
from tests.families.test_family_files import predict
from tests.fast_part import slow_but
from tests.tiny_cascade import write_cascade
from tests.tiny_models import opened

WEIGHTS = "prior/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cascade(tmp_path_factory.mktemp("cascade") / "base")


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def original_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a stage's tensors by their original names, where queries, keys and values are one tensor."""
    found = {}
    for name, tensor in tensors.items():
        block, _, kind = name.rpartition(".")
        if block.endswith(".attention.to_q"):
            others = [tensors[f"{block.removesuffix('q')}{part}.{kind}"] for part in "qkv"]
            found[f"{block.removesuffix('to_q')}attn.in_proj_{kind}"] = torch.cat(others)
        elif not block.endswith((".attention.to_k", ".attention.to_v")):
            found[name.replace(".attention.to_out.0.", ".attention.attn.out_proj.")] = tensor
    return found


@pytest.mark.parametrize("prefix", slow_but([""], ["", "model.diffusion_model.", "diffusers"]))
def test_stage_c_alone_is_the_base_in_its_folder(prefix: str, copied: Path, folder: Path, tmp_path: Path) -> None:
    tensors = load_file(copied / WEIGHTS)
    (copied / WEIGHTS).unlink()
    if prefix != "diffusers":
        tensors = {prefix + name: tensor for name, tensor in original_tensors(tensors).items()}
        assert f"{prefix}down_blocks.0.2.attention.attn.in_proj_weight" in tensors
    file = tmp_path / "stage_c.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    again = load_base_model(str(file), torch.float32, base_config=str(copied)).to(torch.device("cpu"))
    family = opened(folder)
    assert fingerprint(again.denoiser) == fingerprint(family.denoiser)
    torch.testing.assert_close(predict(again), predict(family))
    with pytest.raises(
        BaseModelError, match="only contains the denoiser of a StableCascadePriorPipeline.*cascade-prior"
    ):
        load_base_model(str(file), torch.float32)


def test_the_published_encoder_has_torchvisions_names(tmp_path: Path) -> None:
    """`effnet_encoder.safetensors` has 780 tensors of EfficientNetV2-S and four of the mapper, in fp32."""
    encoder = EfficientNetEncoder()
    tensors = encoder.state_dict()
    assert len(tensors) == 784 and encoder.reduction == 32
    assert sum(each.numel() for each in encoder.backbone.parameters()) == 20_177_488
    for name, shape in {
        "backbone.0.0.weight": (24, 3, 3, 3), "backbone.1.1.block.0.1.running_var": (24,),
        "backbone.2.0.block.1.0.weight": (48, 96, 1, 1), "backbone.4.0.block.2.fc1.bias": (16,),
        "backbone.6.14.block.3.1.weight": (256,), "backbone.7.0.weight": (1280, 256, 1, 1),
        "mapper.0.weight": (16, 1280, 1, 1), "mapper.1.running_mean": (16,),
    }.items():  # fmt: skip
        assert tuple(tensors[name].shape) == shape, name
    path = tmp_path / "effnet_encoder.safetensors"
    save_file({name: torch.rand(each.shape).to(each.dtype) for name, each in tensors.items()}, path)
    again = read_encoder(path, torch.float32)
    assert torch.equal(again.state_dict()["mapper.0.weight"], load_file(path)["mapper.0.weight"]) and not again.training
    assert again(torch.rand(1, 3, 95, 64)).shape == (1, 16, 3, 2)


def test_the_encoder_may_be_the_published_file(copied: Path) -> None:
    save_file(EfficientNetEncoder().state_dict(), copied / "effnet_encoder.safetensors")
    shutil.rmtree(copied / "effnet_encoder")
    family = opened(copied)
    assert (family.native_resolution, family.size_multiple) == (1024, 128)
    assert family.encode_image(torch.zeros(1, 3, 128, 256)).shape == (1, 16, 3, 6)


def test_a_file_with_other_tensors_is_no_encoder(copied: Path) -> None:
    save_file({"backbone.0.0.weight": torch.zeros(2)}, copied / "effnet_encoder.safetensors")
    shutil.rmtree(copied / "effnet_encoder")
    with pytest.raises(BaseModelError, match="cannot load the .*effnet_encoder.safetensors.*RuntimeError"):
        load_base_model(str(copied), torch.float32)


@pytest.mark.parametrize("part", ["effnet_encoder", "decoder", "vqgan"])
def test_what_is_missing_comes_from_the_hub(part: str, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(copied / part)

    def no_connection(*arguments: object, **options: object) -> None:
        raise requests.ConnectionError("[Errno 111] Connection refused")

    monkeypatch.setattr(requests, "head", no_connection)
    with pytest.raises(BaseModelError, match=f"cannot load the {part} .*stabilityai/stable-cascade.*beside prior/"):
        load_base_model(str(copied), torch.float32)
    monkeypatch.setenv(VARIABLE, str(copied))
    with pytest.raises(BaseModelError, match=f"'{decoder_parts.OTHER_PARTS}' is not one of the base models"):
        load_base_model(str(copied), torch.float32)


def test_parts_of_another_family_are_refused(copied: Path) -> None:
    config = copied / "decoder" / "config.json"
    config.write_text(config.read_text().replace('"effnet_in_channels": 16', '"effnet_in_channels": 8'))
    weights = copied / "decoder" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["effnet_mapper.0.weight"] = tensors["effnet_mapper.0.weight"][:, :8].contiguous()
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(BaseModelError, match="Stage C's in_channels is 16, but Stage B's effnet_in_channels is 8"):
        load_base_model(str(copied), torch.float32)


def test_schedulers_that_bend_the_time_are_refused(copied: Path) -> None:
    path = copied / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scaler": 2.0}))
    with pytest.raises(BaseModelError, match=r"base_model: .* scaler 2\.0, but only 1 is supported"):
        load_base_model(str(copied), torch.float32)


def test_options_of_other_noise_are_refused(folder: Path) -> None:
    with pytest.raises(BaseModelError, match="prediction_type: .* predicts ε; leave it out"):
        load_base_model(str(folder), torch.float32, prediction_type="v_prediction")
    with pytest.raises(BaseModelError, match="zero_terminal_snr: .* leave it out"):
        load_base_model(str(folder), torch.float32, zero_terminal_snr=True)


def test_the_predictor_warns_of_its_licence_once(folder: Path) -> None:
    said: list[str] = []
    generation = Generation(say=said.append)
    families = [generation.prepare(None, str(folder)).family for _ in range(2)]
    assert families[0] is families[1] and limited_licence(families[0]) is not None
    assert [line for line in said if "Non-Commercial" in line] == [f"warning: {limited_licence(families[0])}"]
