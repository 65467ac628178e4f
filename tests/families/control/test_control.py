"""Tests of ControlNets of SD1.5 and SDXL on tiny bases: no effect before training, an effect after one step, files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import load_file, save_file

from artifact.controlnet.files import read_controlnet, write_controlnet, write_controlnet_folder
from artifact.controlnet.names import PREFIX, stability_names
from artifact.errors import ArtifactError
from artifact.metadata import ArtifactDescription
from families.controls.control import Controllable, control_pixels, controllable
from families.family import ModelFamily, SizeConditioning
from families.registry import load_base_model
from tests.tiny_models import write_sd3, write_sd15, write_sdxl

SIZE = SizeConditioning((64, 64), (0, 0), (64, 64))
DESCRIPTION = ArtifactDescription("sdxl", "tiny", "", "epsilon", {}, 1, {"control": "canny", "resolution": 64})


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelFamily:
    write = {"sd15": write_sd15, "sdxl": write_sdxl}[request.param]
    return load_base_model(str(write(tmp_path_factory.mktemp("tiny") / request.param)), torch.float32)


def _predict(family: ModelFamily, controlnet: Any, pictures: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noised = torch.randn((2, 4, 16, 16), generator=generator)
    timesteps = family.noise_process.timesteps_at(torch.tensor([0.3, 0.8]), noised.shape)
    prompts = family.encode_prompts(["a red star", ""])
    if controlnet is None:
        return family.denoise(noised, timesteps, prompts, [SIZE] * 2)
    maker = _maker(family)
    conditioning = maker.control_residuals(controlnet, pictures, noised, timesteps, prompts, [SIZE] * 2)
    return family.denoise(noised, timesteps, prompts, [SIZE] * 2, conditioning)


def _maker(family: ModelFamily) -> Controllable:
    maker = controllable(family)
    assert maker is not None
    return maker


def _pictures() -> torch.Tensor:
    return torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(1))


def _trained(family: ModelFamily) -> Any:
    torch.manual_seed(0)
    return _moved(_maker(family).new_controlnet())


def _moved(controlnet: Any) -> Any:
    """Change all parameters by random values, including those of the zero convolutions."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in controlnet.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return controlnet.eval()


def test_a_new_controlnet_changes_no_bit(family: ModelFamily) -> None:
    with torch.no_grad():
        bare = _predict(family, None, _pictures())
        controlled = _predict(family, _maker(family).new_controlnet().eval(), _pictures())
    assert torch.equal(bare, controlled)


def test_one_step_moves_it_and_the_base_stays(family: ModelFamily) -> None:
    base = {name: value.clone() for name, value in family.denoiser.state_dict().items()}
    controlnet = _maker(family).new_controlnet()
    bare = _predict(family, None, _pictures())
    (_predict(family, controlnet, _pictures()) - 1).square().mean().backward()
    moved = [
        name for name, each in controlnet.named_parameters() if each.grad is not None and each.grad.abs().sum() > 0
    ]
    assert moved and all("controlnet_down_blocks" in name or "controlnet_mid_block" in name for name in moved)
    torch.optim.SGD(controlnet.parameters(), lr=1.0).step()
    with torch.no_grad():
        assert not torch.equal(_predict(family, controlnet, _pictures()), bare)
        other = 1 - _pictures()
        controlnet.zero_grad()
    _predict(family, controlnet, other).square().mean().backward()
    assert sum(bool(each.grad is not None and each.grad.abs().sum() > 0) for each in controlnet.parameters()) > len(
        moved
    )
    assert all(torch.equal(value, base[name]) for name, value in family.denoiser.state_dict().items())


def test_transparent_pixels_are_erased() -> None:
    pictures = torch.full((1, 4, 2, 2), 255, dtype=torch.uint8)
    pictures[0, :3, 0, 0] = 51
    pictures[0, 3, 1, 1] = 0
    pixels = control_pixels(pictures)
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([0.2] * 3) and pixels[0, :, 1, 1].tolist() == [-1.0] * 3
    assert torch.equal(control_pixels(pictures[:, :3])[0, 0], torch.tensor([[0.2, 1.0], [1.0, 1.0]]))


def test_single_file_and_folder_open_in_diffusers(family: ModelFamily, tmp_path: Path) -> None:
    """diffusers converts the original names in SD1.5's file by its own code.

    It expects that the ControlNet halves images three times, as for real bases. Those of the tiny base halve them
    twice, so the ControlNet is created by `from_unet` here.
    """
    controlnet = _moved(ControlNetModel.from_unet(family.denoiser))
    write_controlnet_folder(controlnet, tmp_path / "folder", "fp32")
    file = tmp_path / "file.safetensors"
    write_controlnet(controlnet, file, DESCRIPTION, "fp32", architecture=family.architecture)
    from_folder = ControlNetModel.from_pretrained(tmp_path / "folder", local_files_only=True)
    from_file = ControlNetModel.from_single_file(str(file), config=str(tmp_path / "folder"), local_files_only=True)
    for opened in (from_folder, from_file):
        state = opened.state_dict()
        assert state.keys() == controlnet.state_dict().keys()
        assert all(torch.equal(state[name], value) for name, value in controlnet.state_dict().items())


@pytest.mark.parametrize("form", ["file", "folder", "original", "prefixed"])
def test_every_form_is_read_back_to_the_bit(form: str, family: ModelFamily, tmp_path: Path) -> None:
    controlnet, path = _trained(family), tmp_path / "control.safetensors"
    write_controlnet(controlnet, path, DESCRIPTION, "fp32", architecture=family.architecture)
    if form == "folder":
        path = tmp_path / "folder"
        write_controlnet_folder(controlnet, path, "fp32")
    elif form in ("original", "prefixed"):  # also for SDXL, as the original code would write it
        names = stability_names(controlnet.state_dict(), controlnet.config.layers_per_block)
        prefix = PREFIX if form == "prefixed" else ""
        save_file({prefix + names[name]: value for name, value in controlnet.state_dict().items()}, path)
    read = read_controlnet(path, family)
    with torch.no_grad():
        expected = _predict(family, controlnet, _pictures())
        assert torch.equal(_predict(family, read, _pictures()), expected)
        assert not torch.equal(_predict(family, None, _pictures()), expected)


def _zero_bias(tensors: dict[str, torch.Tensor]) -> str:
    return next(name for name in ("zero_convs.0.0.bias", "controlnet_down_blocks.0.bias") if name in tensors)


def _without_one(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(list(tensors.items())[1:])


def _with_nan(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = _zero_bias(tensors)
    return {**tensors, name: tensors[name] * float("nan")}


def _of_another_shape(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**tensors, _zero_bias(tensors): torch.zeros(7)}


def _a_lora(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"lora_unet_x.lora_down.weight": torch.zeros(2, 2)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without_one, "lacks 1 tensors"),
        (_with_nan, "not finite"),
        (_of_another_shape, "a different shape, such as controlnet_down_blocks.0.bias"),
        (_a_lora, "is not a ControlNet; set LoRAs"),
        (lambda tensors: {**tensors, "more": torch.zeros(1)}, "unknown tensors, such as more"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(change: Any, said: str, family: ModelFamily, tmp_path: Path) -> None:
    path = tmp_path / "control.safetensors"
    write_controlnet(_trained(family), path, DESCRIPTION, "fp32", architecture=family.architecture)
    save_file(change(load_file(path)), path)
    with pytest.raises(ArtifactError, match=said):
        read_controlnet(path, family)


def test_values_that_are_not_finite_are_never_written(family: ModelFamily, tmp_path: Path) -> None:
    controlnet = _trained(family)
    with torch.no_grad():
        controlnet.controlnet_mid_block.bias[0] = 1e6  # too large for fp16
    with pytest.raises(ArtifactError, match="controlnet_mid_block.bias contains values that are not finite"):
        write_controlnet(controlnet, tmp_path / "file.safetensors", DESCRIPTION, "fp16", architecture="a")
    assert not (tmp_path / "file.safetensors").exists()


def test_a_family_without_controlnets_says_so(tmp_path: Path) -> None:
    family = load_base_model(str(write_sd3(tmp_path / "sd3")), torch.float32)
    with pytest.raises(ArtifactError, match="not supported for base models of the family sd3"):
        read_controlnet(tmp_path / "x.safetensors", family)
