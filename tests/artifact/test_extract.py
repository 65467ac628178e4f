"""Tests of extracting a LoRA from a full fine-tune: it is exact if the rank is sufficient, otherwise the best of its
rank, and changes that it cannot represent are reported."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from artifact.artifact import Artifact
from artifact.command_line import main
from artifact.errors import ArtifactError
from artifact.merging.extract import extract
from artifact.merging.low_rank import nearest_lora, relative_error
from artifact.names.components import components
from artifact.names.kohya import has_weight
from artifact.placement.placing import PlacedArtifacts
from families.family import ModelFamily
from families.registry import load_base_model
from tests.families.loading.single_files import write_single_file
from tests.families.test_family_files import predict
from tests.tiny_models import TINY_MODELS, write_sd2_v, write_sd15, write_sdxl

RANK = 3


def matrices(family: ModelFamily) -> list[Any]:
    """Return the modules whose weight a LoRA can change."""
    modules: list[Any] = [module for component in components(family).values() for module in component.modules()]
    return [module for module in modules if has_weight(module) and module.weight.ndim > 1]


def fine_tune(base: Path, target: Path, rank: int = RANK) -> Path:
    """Save the base with a random change of this rank in all weights of two or more axes, including text encoders."""
    family = load_base_model(str(base), torch.float32)
    generator = torch.Generator().manual_seed(0)
    for module in matrices(family):
        weight = module.weight.data
        out, inputs = weight.shape[0], weight.flatten(1).shape[1]
        factors = torch.randn(out, rank, generator=generator), torch.randn(rank, inputs, generator=generator)
        weight += 0.3 * weight.std() * (factors[0] @ factors[1]).reshape(weight.shape)
    family.pipeline().save_pretrained(target)
    return target


@pytest.mark.parametrize(
    "kind", ["sdxl", pytest.param("sd15", marks=pytest.mark.slow), pytest.param("sd3", marks=pytest.mark.slow)]
)
def test_what_has_the_rank_is_found_whole(kind: str, tmp_path: Path) -> None:
    base = TINY_MODELS[kind](tmp_path / "base")
    tuned = fine_tune(base, tmp_path / "tuned")
    result = extract(str(tuned), str(base), tmp_path / "lora.safetensors", RANK, precision="fp32")
    assert relative_error(result.fits) < 1e-5 and all(fit.explained > 0.9999 for fit in result.fits)
    assert not result.left_out
    family = load_base_model(str(base), torch.float32)
    bare, wanted = predict(family), predict(load_base_model(str(tuned), torch.float32))
    placed = PlacedArtifacts(family, [Artifact.read(tmp_path / "lora.safetensors")])
    assert (predict(family) - wanted).norm() < 1e-4 * (wanted - bare).norm()
    placed.remove()
    assert len(result.fits) == len(matrices(family))


def test_single_files_and_a_smaller_rank_with_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = write_sd15(tmp_path / "base")
    tuned = fine_tune(base, tmp_path / "tuned")
    files = [
        write_single_file(load_base_model(str(folder), torch.float32), tmp_path / f"{folder.name}.safetensors")
        for folder in (tuned, base)
    ]
    target = tmp_path / "lora.safetensors"
    arguments = ["extract", *map(str, files), str(target), "--rank", "1", "--base_config", str(base)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in printed if line.endswith("down_blocks_1_attentions_0_proj_in")]
    assert printed[-1] == str(target) and len(rows) == 1
    layer = Artifact.read(target).layers["lora_unet_down_blocks_1_attentions_0_proj_in"]
    path = "down_blocks.1.attentions.0.proj_in"
    one, other = (load_base_model(str(folder), torch.float32).denoiser.get_submodule(path) for folder in (tuned, base))
    values = torch.linalg.svdvals((one.weight - other.weight).detach().flatten(1))
    best = float(values[0] ** 2 / values.square().sum())
    assert rows[0][1] == f"{best:.2%}" and layer.rank == 1
    change = (one.weight - other.weight).detach()
    held = 1 - float((layer.delta(change) - change).square().sum() / change.square().sum())
    assert held == pytest.approx(best, abs=1e-3)  # written in fp16
    assert main(arguments) == 2 and "existing files are not overwritten" in capsys.readouterr().err


def test_what_no_lora_can_hold_is_named(tmp_path: Path) -> None:
    base = write_sdxl(tmp_path / "base")
    family = load_base_model(str(base), torch.float32)
    family.denoiser.conv_in.bias.data += 1
    family.denoiser.conv_norm_out.weight.data += 1
    family.text_encoders[0].get_input_embeddings().weight.data[5] += 1
    family.denoiser.conv_in.weight.data += 1
    family.pipeline().save_pretrained(tmp_path / "tuned")
    result = extract(str(tmp_path / "tuned"), str(base), tmp_path / "lora.safetensors", 1)
    assert [fit.name for fit in result.fits] == ["lora_unet_input_blocks_0_0"]
    assert sorted(result.left_out)[:2] == ["denoiser.conv_in.bias", "denoiser.conv_norm_out.weight"]
    assert len(result.left_out) == 3 and "3 parameters that differ" in str(result)


@pytest.mark.slow
def test_mismatches_are_refused(tmp_path: Path) -> None:
    sd15, sd2, sdxl = (
        str(write(tmp_path / name)) for name, write in (("1", write_sd15), ("2", write_sd2_v), ("x", write_sdxl))
    )
    v = str(write_sdxl(tmp_path / "v", prediction_type="v_prediction"))
    family = load_base_model(sdxl, torch.float32)
    family.denoiser.conv_in.weight.data[0, 0, 0, 0] = torch.nan
    family.pipeline().save_pretrained(tmp_path / "nan")
    target = tmp_path / "lora.safetensors"
    for tuned, base, reason in (
        (sd15, sdxl, "is sd15 and .* is sdxl"),
        (sd15, sd2, "is stable-diffusion-v1 and .* is stable-diffusion-v2-768-v"),
        (v, sdxl, "predicts v_prediction and"),
        ("mini-sdxl", sdxl, "differ in size|only one of the two models has"),
        (sdxl, sdxl, "do not differ"),
        (str(tmp_path / "nan"), sdxl, "not finite"),
    ):
        with pytest.raises(ArtifactError, match=reason):
            extract(tuned, base, target, 2)
    with pytest.raises(ArtifactError, match="at least 1"):
        extract(sd15, sd15, target, 0)
    assert not target.exists()


@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from([(6, 4), (4, 6), (5, 5), (3, 4, 3, 3), (12, 2, 1, 1)]),
    true_rank=st.integers(0, 4), rank=st.integers(1, 7), size=st.sampled_from([1e-4, 1.0, 1e3]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_the_nearest_lora_is_the_best_of_its_rank(
    shape: tuple[int, ...], true_rank: int, rank: int, size: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    out, inputs = shape[0], torch.Size(shape[1:]).numel()
    factors = torch.randn(out, true_rank, generator=generator), torch.randn(true_rank, inputs, generator=generator)
    change = size * factors[0] @ factors[1]
    layer, fit = nearest_lora("a", change.reshape(shape), rank)
    assert layer.fits(torch.Size(shape)) and layer.scale == 1 and layer.rank == min(rank, out, inputs)
    best = float(torch.linalg.svdvals(change.double())[rank:].square().sum())
    lost = float((layer.delta(change.reshape(shape)).double() - change.reshape(shape).double()).square().sum())
    whole = float(change.double().square().sum())
    assert lost <= best + 1e-6 * whole and fit.lost == pytest.approx(lost, abs=1e-6 * whole)
    assert fit.change == pytest.approx(whole)
    assert all(tensor.half().isfinite().all() for tensor in layer.parameters)
