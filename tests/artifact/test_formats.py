"""Tests of files in other tools' formats: names in both directions, lossless conversion, merging and resizing."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from artifact.artifact import Artifact
from artifact.command_line import main
from artifact.conversion.convert import convert
from artifact.conversion.files import LoraFile
from artifact.conversion.module_names import ModuleName, parse, written
from artifact.errors import ArtifactError
from artifact.layers import LoraLayer
from artifact.merging.merge import merge
from artifact.merging.resize import resize
from artifact.names.kohya import has_weight, kohya_name
from artifact.placement.placing import PlacedArtifacts
from families.family import ModelFamily
from families.loading.sources import EMBEDDED_BASE_FOLDER
from families.lora_files import family_of_modules
from tests.artifact.test_artifact import make_artifact, unet_inputs, write

SDXL: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD15: dict[str, Any] = {"cross_attention_dim": 768}


@pytest.mark.parametrize(("family", "config"), [("sdxl", SDXL), ("sd15", SD15)])
def test_every_module_of_the_full_size_unets_is_named_and_read_back(family: str, config: dict[str, Any]) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    modules = [ModuleName("unet", path) for path, module in unet.named_modules() if has_weight(module)]
    assert len(modules) > 200 and family_of_modules(modules) == family
    for naming in ("kohya", "diffusers"):
        names = [written(module, naming, family) for module in modules]
        assert len(set(names)) == len(names)
        assert [parse(name) for name in names] == modules


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k",
         "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"),  # sd-scripts, SDXL
        ("lora_unet_output_blocks_3_0_skip_connection", "unet.up_blocks.1.resnets.0.conv_shortcut"),
        ("lora_unet_output_blocks_5_2_conv", "unet.up_blocks.1.upsamplers.0.conv"),
        ("lora_unet_middle_block_2_emb_layers_1", "unet.mid_block.resnets.1.time_emb_proj"),
        ("lora_unet_down_blocks_0_attentions_1_proj_in", "unet.down_blocks.0.attentions.1.proj_in"),  # OneTrainer
        ("lora_unet_mid_block_attentions_0_transformer_blocks_9_ff_net_0_proj",
         "unet.mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj"),
        ("lora_te_text_model_encoder_layers_11_self_attn_out_proj",
         "text_encoder.text_model.encoder.layers.11.self_attn.out_proj"),
        ("lora_te2_text_model_encoder_layers_31_mlp_fc1", "text_encoder_2.text_model.encoder.layers.31.mlp.fc1"),
        ("text_encoder.encoder.layers.0.self_attn.q_proj",
         "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"),  # peft on transformers 5's flat CLIP
        ("lora_transformer_transformer_blocks_3_attn_add_k_proj", "transformer.transformer_blocks.3.attn.add_k_proj"),
    ],
)  # fmt: skip
def test_names_of_other_tools(name: str, expected: str) -> None:
    assert ".".join(parse(name)) == expected


def tensors_of(path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def header_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        header: dict[str, str] = file.metadata()
    return header


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_kohya_to_diffusers_and_back_keeps_every_change_bit_for_bit(
    base: ModelFamily, tmp_path: Path, precision: str
) -> None:
    """alpha / rank is 1/2, which can be folded into the weights without rounding."""
    first = write(make_artifact(base), tmp_path / "a.safetensors", base, precision)
    convert(first, tmp_path / "b.safetensors", "diffusers")
    convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", "kohya")
    convert(tmp_path / "c.safetensors", tmp_path / "d.safetensors", "diffusers")
    before, after = Artifact.read(first), Artifact.read(tmp_path / "c.safetensors")
    assert after.layers.keys() == before.layers.keys() and after.description == before.description
    for name, layer in before.layers.items():
        other = after.layers[name]
        assert isinstance(layer, LoraLayer) and isinstance(other, LoraLayer)
        assert torch.equal(layer.down, other.down) and torch.equal(layer.up * layer.scale, other.up * other.scale)
        assert other.up.dtype == layer.up.dtype
    once, again = tensors_of(tmp_path / "b.safetensors"), tensors_of(tmp_path / "d.safetensors")
    assert once.keys() == again.keys() and all(torch.equal(once[key], again[key]) for key in once)
    assert header_of(tmp_path / "c.safetensors") == header_of(first) | {"ss_network_alpha": "4.0"}
    assert set(tensors_of(tmp_path / "c.safetensors")) == set(tensors_of(first))


@settings(max_examples=25, deadline=None)
@given(rank=st.integers(1, 9), alpha=st.floats(0.01, 200), half=st.booleans(), seed=st.integers(0, 99))
def test_any_alpha_folds_without_a_loss_of_precision(
    tmp_path_factory: pytest.TempPathFactory, rank: int, alpha: float, half: bool, seed: int
) -> None:
    folder, generator = tmp_path_factory.mktemp("fold"), torch.Generator().manual_seed(seed)
    name = "lora_unet_middle_block_1_proj_in"
    dtype = torch.float16 if half else torch.float32
    down, up = (torch.randn(shape, generator=generator).to(dtype) for shape in ((rank, 6), (5, rank)))
    save_file(
        {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(alpha)},
        folder / "a.safetensors",
    )
    convert(folder / "a.safetensors", folder / "b.safetensors", "diffusers")
    tensors = tensors_of(folder / "b.safetensors")
    assert set(tensors) == {f"unet.mid_block.attentions.0.proj_in.lora_{part}.weight" for part in "AB"}
    expected = up.double() @ down.double() * (float(torch.tensor(alpha)) / rank)
    actual = tensors["unet.mid_block.attentions.0.proj_in.lora_B.weight"].double() @ down.double()
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * alpha)


@torch.no_grad()
def test_diffusers_opens_the_converted_file_with_the_same_output(base: ModelFamily, tmp_path: Path) -> None:
    path = write(make_artifact(base, size=1.0), tmp_path / "a.safetensors", base)
    convert(path, tmp_path / "b.safetensors", "diffusers")
    inputs = unet_inputs(base)
    placed = PlacedArtifacts(base, [Artifact.read(path)])
    ours = base.denoiser(**inputs).sample
    placed.remove()
    pipeline = StableDiffusionXLPipeline.from_pretrained(EMBEDDED_BASE_FOLDER, dtype=torch.float32)
    plain = pipeline.unet(**inputs).sample
    pipeline.load_lora_weights(tmp_path / "b.safetensors")
    torch.testing.assert_close(pipeline.unet(**inputs).sample, ours, rtol=1e-4, atol=1e-5)
    assert (ours - plain).abs().max() > 1e-2


def test_bundles_and_embeddings_hold_the_tokens(base: ModelFamily, tmp_path: Path) -> None:
    artifact = make_artifact(base)
    path = write(artifact, tmp_path / "a.safetensors", base)
    convert(path, tmp_path / "bundle.safetensors", "bundle")
    convert(path, tmp_path / "embeddings.safetensors", "embeddings")
    bundle, embeddings = tensors_of(tmp_path / "bundle.safetensors"), tensors_of(tmp_path / "embeddings.safetensors")
    assert set(tensors_of(path)) | {"bundle_emb.TOK.clip_l", "bundle_emb.TOK.clip_g"} == set(bundle)
    for encoder, rows in artifact.tokens.items():
        assert torch.equal(bundle[f"bundle_emb.TOK.{encoder}"], rows) and torch.equal(embeddings[encoder], rows)


def deltas(path: Path) -> dict[ModuleName, Tensor]:
    """Return the change of every weight as a matrix."""
    changes: dict[ModuleName, Tensor] = {}
    for name, layer in LoraFile.read(path).artifact.layers.items():
        assert isinstance(layer, LoraLayer)
        changes[parse(name)] = layer.scale * layer.up.flatten(1).double() @ layer.down.flatten(1).double()
    return changes


def test_a_merge_is_the_weighted_sum(base: ModelFamily, tmp_path: Path) -> None:
    """The files have different ranks and names, and one has fewer layers."""
    one = write(make_artifact(base), tmp_path / "1.safetensors", base)
    other = make_artifact(base, rank=3, alpha=5.0, size=0.4)
    fewer = Artifact(dict(list(other.layers.items())[1:]), other.tokens, other.description)
    convert(write(fewer, tmp_path / "x.safetensors", base), tmp_path / "2.safetensors", "diffusers")
    merge([one, tmp_path / "2.safetensors"], [0.7, -1.5], tmp_path / "sum.safetensors")
    first, second, total = deltas(one), deltas(tmp_path / "2.safetensors"), deltas(tmp_path / "sum.safetensors")
    assert total.keys() == first.keys() and len(second) == len(first) - 1
    for module, change in total.items():
        expected = 0.7 * first[module] - 1.5 * second.get(module, torch.zeros_like(change))
        torch.testing.assert_close(change, expected, rtol=1e-5, atol=1e-6)
    header = header_of(tmp_path / "sum.safetensors")
    assert header["ss_network_dim"] == "7" and header["modelspec.merged_from"] == "1.safetensors, 2.safetensors"
    described = json.loads(header["lora_trainer"])  # of the base model, and of neither training
    assert described["base_model"] and (described["steps"], described["dataset_digest"]) == (0, "")


def test_resize_is_the_best_approximation_and_says_its_error(base: ModelFamily, tmp_path: Path) -> None:
    path = write(make_artifact(base, rank=6), tmp_path / "a.safetensors", base)
    error = resize(path, tmp_path / "b.safetensors", 2).error
    before, after = deltas(path), deltas(tmp_path / "b.safetensors")
    lost = sum(float(torch.linalg.svdvals(change)[2:].square().sum()) for change in before.values())
    apart = sum(float((before[module] - after[module]).square().sum()) for module in before)
    whole = sum(float(change.square().sum()) for change in before.values())
    assert apart == pytest.approx(lost, rel=1e-4) and error == pytest.approx((apart / whole) ** 0.5, rel=1e-4)
    assert {layer.rank for layer in Artifact.read(tmp_path / "b.safetensors").layers.values()} == {2}
    small, large = Artifact.read(tmp_path / "b.safetensors"), Artifact.read(path)
    assert small.triggers == large.triggers and torch.equal(small.tokens["clip_g"], large.tokens["clip_g"])
    assert resize(path, tmp_path / "c.safetensors", 6).error < 1e-6
    for module, change in deltas(tmp_path / "c.safetensors").items():
        torch.testing.assert_close(change, before[module], rtol=1e-4, atol=1e-5)


def test_inspect_shows_what_is_in_a_file(base: ModelFamily, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(make_artifact(base), tmp_path / "a.safetensors", base)
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    for text in ("sdxl", "mini-sdxl (epsilon", "TOK → <s0> <s1>", "7 lora, rank 4, alpha 2", "unet.down_blocks.1",
                 "clip_g: 2 of width", "ss_seed = 3", "convert to embeddings"):  # fmt: skip
        assert text in shown


def test_wrong_input_is_exit_status_2_with_the_remedy(
    base: ModelFamily, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(make_artifact(base), tmp_path / "a.safetensors", base)
    before = path.read_bytes()
    unet = "lora_unet_middle_block_1_proj_in"
    loha = {f"{unet}.hada_w{part}": torch.ones(2, 2) for part in ("1_a", "1_b", "2_a", "2_b")}
    save_file(loha, tmp_path / "loha.safetensors")
    lora = {f"{unet}.lora_down.weight": torch.full((2, 64), torch.nan), f"{unet}.lora_up.weight": torch.ones(64, 2)}
    save_file(lora, tmp_path / "nan.safetensors")
    new = str(tmp_path / "new.safetensors")
    for arguments, message in (
        (["convert", str(path), str(path), "--format", "diffusers"], "existing files are not overwritten"),
        (["convert", str(tmp_path / "no"), new, "--format", "kohya"], "does not exist"),
        (["convert", str(tmp_path / "loha.safetensors"), new, "--format", "diffusers"], "diffusers cannot load"),
        (["convert", str(tmp_path / "loha.safetensors"), new, "--format", "bundle"], "no token embeddings to bundle"),
        (["merge", str(path), str(path), "--weights", "1", "--output", new], "one for each"),
        (["merge", str(path), "--weights", "nan", "--mode", "svd", "--rank", "2", "--output", new], "finite numbers"),
        (["merge", str(path), "--output", str(tmp_path / "both")], "must end in .safetensors"),
        (["convert", str(path), str(tmp_path / "new.ckpt"), "--format", "diffusers"], "must end in .safetensors"),
        (["resize", str(tmp_path / "nan.safetensors"), new, "--rank", "1"], "values that are not finite"),
        (["resize", str(path), new, "--rank", "0"], "must be at least 1"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    assert path.read_bytes() == before and not Path(new).exists()


def test_cog_sdxl_holds_what_its_predictor_reads(base: ModelFamily, tmp_path: Path) -> None:
    """Keys are those of replicate/cog-sdxl's predict.py, products of factors are the changes, and the JSON file has the
    trigger word."""
    attention = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"
    layers = {}
    for projection in ("to_q", "to_k", "to_v", "to_out.0"):
        out, inputs = base.denoiser.get_submodule(f"{attention}.{projection}").weight.shape
        layers[kohya_name(f"{attention}.{projection}", 2)] = LoraLayer(torch.randn(3, inputs), torch.randn(out, 3), 7.0)
    artifact = make_artifact(base)
    source = write(Artifact(layers, artifact.tokens, artifact.description), tmp_path / "a.safetensors", base)
    convert(source, tmp_path / "a.tar", "cog-sdxl")
    with tarfile.open(tmp_path / "a.tar", "r:") as tar:
        tar.extractall(tmp_path / "out", filter="data")
        assert sorted(tar.getnames()) == ["embeddings.pti", "lora.safetensors", "special_params.json"]
    assert json.loads((tmp_path / "out" / "special_params.json").read_text()) == {"TOK": "<s0><s1>"}
    rows = tensors_of(tmp_path / "out" / "embeddings.pti")
    assert torch.equal(rows["text_encoders_0"], artifact.tokens["clip_l"])
    assert torch.equal(rows["text_encoders_1"], artifact.tokens["clip_g"])
    tensors = tensors_of(tmp_path / "out" / "lora.safetensors")
    assert len(tensors) == 8
    for module, change in deltas(source).items():
        key = f"{attention}.processor.{module.path.removeprefix(attention + '.').removesuffix('.0')}_lora"
        product = tensors[f"{key}.up.weight"].double() @ tensors[f"{key}.down.weight"].double()
        torch.testing.assert_close(product, change, rtol=1e-5, atol=1e-5)


def test_cog_sdxl_refuses_what_its_predictor_would_not_load(base: ModelFamily, tmp_path: Path) -> None:
    path = write(make_artifact(base), tmp_path / "a.safetensors", base)
    with pytest.raises(ArtifactError, match="only supports plain LoRA on the UNet's attention"):
        convert(path, tmp_path / "a.tar", "cog-sdxl")
    assert not (tmp_path / "a.tar").exists()
