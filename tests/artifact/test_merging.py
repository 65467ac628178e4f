"""Tests of merging LoRAs of every kind into one LoRA or a base: exact if possible, otherwise with a stated error."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from artifact.artifact import Artifact
from artifact.command_line import main
from artifact.conversion.convert import convert
from artifact.errors import ArtifactError
from artifact.layers import FullLayer, LoraLayer
from artifact.merging.merge import Mode, merge
from artifact.merging.onto import merge_onto
from artifact.merging.resize import resize
from artifact.placement.placing import PlacedArtifacts
from families.family import ModelFamily
from families.registry import load_base_model
from tests.artifact.test_artifact import make_artifact
from tests.artifact.test_artifact import write as write_ours
from tests.artifact.test_formats import deltas
from tests.artifact.test_other_tools import write
from tests.families.loading.flux_files import write_flux_file
from tests.families.loading.single_files import write_single_file
from tests.families.test_family_files import predict
from tests.tiny_models import TINY_MODELS, opened, write_sd15


def effect(family: ModelFamily, files: Sequence[Path], weights: Sequence[float]) -> Tensor:
    return effect_of(family, [Artifact.read(path) for path in files], weights)


def effect_of(family: ModelFamily, artifacts: Sequence[Artifact], weights: Sequence[float]) -> Tensor:
    placed = PlacedArtifacts(family, artifacts, weights)
    try:
        return predict(family)
    finally:
        placed.remove()


def without_biases(artifact: Artifact) -> Artifact:
    """Return the differences that a plain LoRA can contain: without the biases of layers with a weight matrix."""
    layers = {
        name: FullLayer(layer.diff) if isinstance(layer, FullLayer) and layer.diff.ndim > 1 else layer
        for name, layer in artifact.layers.items()
    }
    return Artifact(layers, artifact.tokens, artifact.description)


def near(one: Tensor, other: Tensor, bare: Tensor, tolerance: float = 1e-3) -> bool:
    return bool((one - other).norm() < tolerance * (other - bare).norm())


@pytest.fixture
def two(base: ModelFamily, tmp_path: Path) -> list[Path]:
    """Two plain LoRAs with equal ranks and different alphas."""
    one, other = make_artifact(base), make_artifact(base, alpha=8.0, size=0.3)
    torch.manual_seed(7)
    shuffled = {}
    for name, layer in other.layers.items():
        assert isinstance(layer, LoraLayer)
        shuffled[name] = LoraLayer(torch.randn_like(layer.down), torch.randn_like(layer.up), layer.alpha)
    files = [tmp_path / "one.safetensors", tmp_path / "other.safetensors"]
    write_ours(one, files[0], base)
    write_ours(Artifact(shuffled, other.tokens, other.description), files[1], base)
    return files


@pytest.mark.parametrize("mode", ["concat", "linear", "svd"])
def test_the_outcome_is_the_true_distance_from_the_sum(mode: Mode, two: Sequence[Path], tmp_path: Path) -> None:
    weights = [0.7, -1.5]
    outcome = merge(two, weights, tmp_path / "sum.safetensors", mode, 3 if mode == "svd" else None)
    first, second, total = (deltas(path) for path in (*two, tmp_path / "sum.safetensors"))
    wanted = {module: 0.7 * first[module] - 1.5 * second[module] for module in first}
    lost = sum(float((total[module] - change).square().sum()) for module, change in wanted.items())
    whole = sum(float(change.square().sum()) for change in wanted.values())
    assert outcome.error == pytest.approx((lost / whole) ** 0.5, rel=1e-3, abs=1e-5)
    if mode == "svd":
        best = sum(float(torch.linalg.svdvals(change)[3:].square().sum()) for change in wanted.values())
        assert outcome.error == pytest.approx((best / whole) ** 0.5, rel=1e-4)
    assert (outcome.error < 1e-6) == (mode == "concat")
    assert {layer.rank for layer in Artifact.read(tmp_path / "sum.safetensors").layers.values()} == {
        {"concat": 8, "linear": 4, "svd": 3}[mode]
    }


def test_linear_is_exact_for_one_file_and_not_for_factors_that_add_up(two: Sequence[Path], tmp_path: Path) -> None:
    assert merge(two[:1], [-0.4], tmp_path / "a.safetensors", "linear").error < 1e-6
    assert merge([two[0], two[0]], [0.5, 0.5], tmp_path / "b.safetensors", "linear").error > 0.1  # (2a)(2b)·½ ≠ ab
    one, again = deltas(two[0]), deltas(tmp_path / "a.safetensors")
    for module, change in one.items():
        torch.testing.assert_close(again[module], -0.4 * change, rtol=1e-4, atol=1e-5)


def test_the_words_of_all_files_come_along(two: Sequence[Path], base: ModelFamily, tmp_path: Path) -> None:
    outcome = merge(two, [1.0, 1.0], tmp_path / "sum.safetensors")
    merged, one, other = (Artifact.read(path) for path in (tmp_path / "sum.safetensors", *two))
    assert dict(merged.triggers) == {"TOK": ["<s0>", "<s1>"], "TOK2": ["<s2>", "<s3>"]}
    assert outcome.left_out == ["two files have the trigger word TOK: that of the later one is now TOK2"]
    for name, rows in merged.tokens.items():
        assert torch.equal(rows, torch.cat([one.tokens[name], other.tokens[name]]))
    PlacedArtifacts(base, [merged]).remove()


SLOW = pytest.mark.slow
KINDS: Mapping[str, Mapping[str, Any]] = {
    "loha": {"adapter": "loha"},
    "lokr": {"adapter": "lokr"},
    "dora": {"adapter": "dora"},
    "full": {"adapter": "full", "learning_rate": 1e-5},
    "lora": {"adapter": "lora", "train_text_encoder": True, "lora_targets": "attention+feed-forward+convolutions"},
}


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelFamily, Mapping[str, Path]]:
    """A tiny base, and a file of every kind for it."""
    folder = write_sd15(tmp_path_factory.mktemp("sd15") / "base")
    family = load_base_model(str(folder), torch.float32)
    files = {}
    for kind, settings in KINDS.items():
        write(family, settings, folder.parent / kind)
        files[kind] = folder.parent / kind / "weights.safetensors"
    return folder, family, files


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["loha", *(pytest.param(kind, marks=SLOW) for kind in ("lokr", "dora", "full"))])
def test_any_kind_becomes_a_plain_lora_that_diffusers_opens(
    kind: str, sd15: tuple[Path, ModelFamily, Mapping[str, Path]], tmp_path: Path
) -> None:
    """This is the remedy that the error of `convert` names. At full rank nothing is lost; at rank 1, resize reports an
    error between 0.01 and 1."""
    folder, family, files = sd15
    bare, wanted = predict(family), effect_of(family, [without_biases(Artifact.read(files[kind]))], [1.0])
    if kind in ("loha", "lokr"):
        with pytest.raises(ArtifactError, match="resize FILE OUT --rank R --base BASE"):
            convert(files[kind], tmp_path / "no.safetensors", "diffusers")
    plain = tmp_path / "plain.safetensors"
    outcome = resize(files[kind], plain, 64, str(folder))
    assert outcome.error < 1e-5 and near(effect(family, [plain], [1.0]), wanted, bare)
    assert bool(outcome.left_out) == (kind == "full")
    if kind != "full":  # its norms remain differences
        convert(plain, tmp_path / "diffusers.safetensors", "diffusers")
        again = load_base_model(str(folder), torch.float32)
        again.pipeline().load_lora_weights(str(tmp_path), weight_name="diffusers.safetensors")
        assert near(predict(again), wanted, bare)
    small = resize(files[kind], tmp_path / "small.safetensors", 1, str(folder))
    assert 0.01 < small.error < 1


def test_kinds_merge_with_each_other_through_the_base(
    sd15: tuple[Path, ModelFamily, Mapping[str, Path]], tmp_path: Path
) -> None:
    folder, family, files = sd15
    sources, weights = [files["loha"], files["dora"], files["lora"]], [0.5, 0.8, -1.0]
    outcome = merge(sources, weights, tmp_path / "sum.safetensors", "svd", 64, str(folder))
    assert outcome.error < 1e-5
    wanted = effect(family, sources, weights)
    assert near(effect(family, [tmp_path / "sum.safetensors"], [1.0]), wanted, predict(family))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3"])
def test_onto_a_folder_and_onto_a_file(kind: str, tmp_path: Path) -> None:
    """Layers of denoiser and text encoders are changed. The VAE of the file is the same bit by bit."""
    folder = TINY_MODELS[kind](tmp_path / "base")
    family = load_base_model(str(folder), torch.float32)
    file = write_single_file(family, tmp_path / "base.safetensors")
    targets = "attention+feed-forward" + ("" if kind == "sd3" else "+convolutions")
    settings = {"train_text_encoder": True, "lora_targets": targets}
    files = [tmp_path / name / "weights.safetensors" for name in ("lora", "loha")]
    for path, adapter in zip(files, ("lora", "loha"), strict=True):
        write(family, {"adapter": adapter, **settings}, path.parent)
    bare, wanted = predict(family), effect(family, files, [0.5, -0.7])
    (folder / "unet_pickle.bin").write_bytes(b"pickle")
    assert merge_onto(files, [0.5, -0.7], str(folder), tmp_path / "merged").error < 1e-5
    assert near(predict(load_base_model(str(tmp_path / "merged"), torch.float32)), wanted, bare)
    assert not list((tmp_path / "merged").rglob("*.bin"))
    merge_onto(files, [0.5, -0.7], str(file), tmp_path / "merged.safetensors", str(folder))
    merged = load_base_model(str(tmp_path / "merged.safetensors"), torch.float32, base_config=str(folder))
    assert near(predict(merged), wanted, bare)
    before, after = load_file(file), load_file(tmp_path / "merged.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith("first_stage_model."))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flux1", pytest.param("flux2", marks=SLOW)])
def test_onto_a_transformer_alone(kind: str, tmp_path: Path) -> None:
    """In joined tensors, the rows of the LoRA's layers are changed."""
    folder = TINY_MODELS[kind](tmp_path / "base")
    family = opened(folder)
    file = write_flux_file(family.denoiser, tmp_path / "base.safetensors")
    write(family, {"adapter": "lora", "lora_targets": "attention+feed-forward"}, tmp_path / "lora")
    lora = tmp_path / "lora" / "weights.safetensors"
    bare, wanted = predict(family), effect(family, [lora], [0.5])
    merge_onto([lora], [0.5], str(file), tmp_path / "merged.safetensors", str(folder))
    merged = load_base_model(str(tmp_path / "merged.safetensors"), torch.float32, base_config=str(folder))
    assert near(predict(merged.to(torch.device("cpu"))), wanted, bare)
    merge_onto([lora], [0.5], str(folder), tmp_path / "merged")
    assert near(predict(opened(tmp_path / "merged")), wanted, bare)


def test_the_base_keeps_its_precision_and_the_loss_is_reported(
    base: ModelFamily, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_sd15(tmp_path / "base")
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
        save_file({name: value.to(torch.bfloat16) for name, value in load_file(path).items()}, path, header)
    family = load_base_model(str(folder), torch.float32)
    write(family, {"adapter": "lora"}, tmp_path / "lora")
    lora = tmp_path / "lora" / "weights.safetensors"
    target = tmp_path / "merged"
    assert main(["merge", str(lora), "--weights", "0.01", "--onto", str(folder), "--output", str(target)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(target) and 0.05 < float(lines[0].removeprefix("relative error ")) < 1.5
    unet = load_file(target / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in unet.values()} == {torch.bfloat16}
    ours = write_ours(make_artifact(base), tmp_path / "ours.safetensors", base)
    assert main(["merge", str(ours), "--weights", "1", "--onto", "mini-sdxl", "--output", str(tmp_path / "m")]) == 0
    assert "TOK is in the model as <s0><s1>" in capsys.readouterr().out


def test_wrong_ways_to_merge_are_refused_with_the_way_that_works(
    sd15: tuple[Path, ModelFamily, Mapping[str, Path]], two: Sequence[Path], base: ModelFamily, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder, _, files = sd15
    higher = write_ours(make_artifact(base, rank=5), tmp_path / "5.safetensors", base)
    save_file({"clip_l": torch.ones(1, 64), "clip_g": torch.ones(1, 96)}, tmp_path / "words.safetensors")
    target = tmp_path / "target.safetensors"
    loha, plain = str(files["loha"]), str(files["lora"])
    for arguments, message in (
        (["merge", loha, "--weights", "1"], "--mode svd --rank R --base BASE"),
        (["merge", loha, "--weights", "1", "--mode", "svd", "--rank", "2"], "--mode svd --rank R --base BASE"),
        (["merge", plain, "--weights", "1", "--mode", "svd"], "give --rank"),
        (["merge", plain, "--weights", "1", "--rank", "2"], "is only supported with --mode svd"),
        (["merge", plain, "--weights", "1", "--mode", "svd", "--rank", "2", "--base", str(folder)], "not needed"),
        (
            ["merge", loha, "--weights", "1", "--mode", "svd", "--rank", "2", "--base", "mini-sdxl"],
            "on which",
        ),
        (["merge", str(two[0]), str(higher), "--weights", "1", "1", "--mode", "linear"], "Use --mode svd or concat"),
        (["merge", plain, str(two[0]), "--weights", "1", "1"], "for different families"),
        (["merge", str(tmp_path / "words.safetensors"), "--weights", "1"], "does not contain layers"),
        (["merge", plain, "--weights", "1", "--onto", str(folder), "--rank", "2"], "Remove --mode"),
        (["merge", plain, "--weights", "1", "--onto", "owner/name"], "hf download owner/name"),
        (["merge", plain, "--weights", "1", "--onto", "mini-sdxl"], "on which"),
        (["merge", plain, "--weights", "1e9", "--onto", str(folder)], None),
    ):
        status = main([*arguments, "--output", str(target)])
        assert (status, message is None or message in capsys.readouterr().err) == (2 if message else 0, True), message
        assert target.exists() == (message is None)
    for arguments, message in (
        (["resize", loha, str(tmp_path / "x.safetensors"), "--rank", "2"], "Add --base BASE"),
        (["resize", plain, str(tmp_path / "x.safetensors"), "--rank", "2", "--base", str(folder)], "not needed"),
    ):
        assert main(arguments) == 2 and message in capsys.readouterr().err
