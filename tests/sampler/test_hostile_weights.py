"""Tests that malicious and invalid files are refused with a reason, and that the predictor still works afterwards."""

import io
import json
import pickle
import struct
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save, save_file

from artifact.artifact import Artifact
from artifact.errors import ArtifactError
from artifact.metadata import OWN_KEY, TOKENS_KEY
from artifact.names.kohya import kohya_name
from families.family import ModelFamily
from families.parts.placeholder_tokens import expand_triggers
from sampler import generation as generation_module
from sampler.generation import Generation
from sampler.sampler import Sampler
from service.prediction_inputs import PredictionInputs, predict
from tests.artifact.test_artifact import PATHS, make_artifact, write

MANY = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
FEW = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
GOOD = {
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight": torch.ones(2, 64),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight": torch.ones(64, 2),
}


def header_of(size: int, content: bytes) -> bytes:
    return struct.pack("<Q", size) + content


def pickled() -> bytes:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return (Path.touch, (Path("trapped"),))  # type: ignore[return-value]

    return pickle.dumps(Trap())


def zipped_checkpoint() -> bytes:
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled())
    return buffer.getvalue()


def pair(down: torch.Tensor, up: torch.Tensor, name: str = "a") -> bytes:
    return save({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up})


def tensors(**changed: torch.Tensor) -> bytes:
    return save({**GOOD, **changed})


NAN = {next(iter(GOOD)): torch.full((2, 64), torch.nan)}
BROKEN: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"<!doctype html><title>Sign in</title>",
    "pickle": pickled,
    "torch checkpoint": zipped_checkpoint,
    "header beyond the file": lambda: header_of(2**40, b"{}"),
    "header of all bits": lambda: header_of(2**64 - 1, b"{}"),
    "header that is no JSON": lambda: header_of(4, b"\xff\xfe{}"),
    "header nested deeply": lambda: header_of(200_000, b"[" * 100_000 + b"]" * 100_000),
    "header with a huge shape": lambda: header_of(
        72, json.dumps({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}}).encode().ljust(72)
    ),
    "cut off": lambda: tensors()[:-10],
    "not finite": lambda: save({**GOOD, **NAN}),
    "no layers": lambda: save({"a": torch.zeros(1)}),
    "shapes that do not meet": lambda: pair(torch.ones(2, 3), torch.ones(3, 4)),
    "scalars": lambda: pair(torch.ones(()), torch.ones(())),
    "nothing inside": lambda: pair(torch.ones(0, 3), torch.ones(3, 0)),
    "integers": lambda: pair(torch.ones(2, 3).int(), torch.ones(3, 2).int()),
    "alpha that is a matrix": lambda: tensors(
        **{next(iter(GOOD)).replace("lora_down.weight", "alpha"): torch.ones(3, 3)}
    ),
    "alpha that is not finite": lambda: tensors(
        **{next(iter(GOOD)).replace("lora_down.weight", "alpha"): torch.tensor(torch.inf)}
    ),
    "of another family": lambda: pair(torch.ones(2, 3), torch.ones(3, 2), "lora_transformer_x_attn_to_q"),
    "of a larger base": lambda: save({name: value.repeat(10, 10) for name, value in GOOD.items()}),
    "100 000 keys": lambda: save(
        {f"lora_unet_{key // 2}.lora_{('down', 'up')[key % 2]}.weight": torch.ones(1, 1) for key in range(100_000)}
    ),
}  # fmt: skip


@pytest.mark.slow
def test_every_file_is_refused_with_a_reason_and_the_service_goes_on(
    base: ModelFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(generation_module, "load_base_model", lambda *arguments, **options: base)
    generation = Generation(lambda line: None)
    good = write(make_artifact(base), tmp_path / "good.safetensors", base)

    def draw(weights: Path, folder: str) -> bytes:
        inputs = PredictionInputs(
            "TOK", lora=str(weights), base_model="mini-sdxl", num_inference_steps=1, seed=1, width=32, height=32
        )
        paths = predict(
            inputs, generation, tmp_path / folder, local_files=True, say=print, metric=lambda name, value: None
        ).paths
        return Image.open(paths[0]).tobytes()

    before = draw(good, "before")
    for name, make in BROKEN.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(make())
        with pytest.raises(ArtifactError) as error:
            draw(path, name)
        assert str(error.value), name
        assert not (tmp_path / name).exists()
        assert not any("lora" in module for module, _ in base.denoiser.named_modules()), name
    assert draw(good, "after") == before
    assert not (tmp_path / "trapped").exists()


def refused_or_read(path: Path) -> Artifact | None:
    try:
        return Artifact.read(path)
    except ArtifactError:
        return None


@MANY
@given(data=st.binary(max_size=200), honest_length=st.booleans())
def test_random_bytes(data: bytes, honest_length: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "random.safetensors"
    path.write_bytes(header_of(len(data), data) if honest_length else data)
    assert refused_or_read(path) is None


SUFFIXES = (
    "lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha", "dora_scale", "lora_A.weight", "lora_B.weight",
    "lora_magnitude_vector", "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "lokr_w1", "lokr_w2", "lokr_w2_a",
    "diff", "diff_b", "weight", "", "lora_down", "processor.to_q_lora.up.weight",
)  # fmt: skip
NAMES = st.sampled_from(
    [*(kohya_name(path, 2) for path in PATHS), "lora_te1_x", "unet." + PATHS[0], "bundle_emb.a", ""]
)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 32, 64]), max_size=5).filter(lambda shape: prod(shape) <= 2**18)
"""Shapes of at most a megabyte: five sides of 64 would take four gigabytes."""
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.float8_e4m3fn])


@MANY
@given(
    made=st.dictionaries(
        st.tuples(NAMES, st.sampled_from(SUFFIXES)), st.tuples(SHAPES, DTYPES, st.booleans()), max_size=6
    )
)
def test_random_tensors_under_known_names(
    made: Mapping[tuple[str, str], tuple[list[int], torch.dtype, bool]],
    base: ModelFamily,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / "tensors.safetensors"
    content = {
        f"{name}.{suffix}": torch.full(shape, torch.inf if infinite and dtype.is_floating_point else 1).to(dtype)
        for (name, suffix), (shape, dtype, infinite) in made.items()
    }
    save_file(content, path)
    artifact = refused_or_read(path)
    if artifact is not None:
        place_or_refuse(base, artifact)


def place_or_refuse(base: ModelFamily, artifact: Artifact) -> None:
    sampler = Sampler(base)
    weights = {id(parameter) for parameter in base.denoiser.parameters()}
    try:
        sampler.load(artifact)
        base.encode_prompts([expand_triggers("a TOK", sampler.triggers)])
    except ArtifactError:
        pass
    finally:
        sampler.unload()
    assert {id(parameter) for parameter in base.denoiser.parameters()} == weights


VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = (
    "family", "base_model", "base_fingerprint", "prediction_type", "triggers", "steps", "config", "dataset_digest",
    "recommended_scale", "sample_prompts", "format_version", "another",
)  # fmt: skip


@FEW
@given(field=st.sampled_from(FIELDS), value=VALUES)
def test_any_value_in_the_description(
    field: str, value: Any, base: ModelFamily, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The file is read and loaded, or refused with an ArtifactError. There are no other errors."""
    path = write(make_artifact(base), tmp_path_factory.getbasetemp() / "described.safetensors", base)

    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    described = json.loads(header[OWN_KEY]) | {field: value}
    save_file(content, path, {**header, OWN_KEY: json.dumps(described)})
    changed = refused_or_read(path)
    if changed is not None:
        place_or_refuse(base, changed)


@FEW
@given(value=VALUES)
def test_any_value_in_place_of_the_token_rows(
    value: Any, base: ModelFamily, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.safetensors"
    described = {
        "family": "sdxl", "base_model": "mini-sdxl", "base_fingerprint": "", "prediction_type": "epsilon",
        "triggers": {"TOK": ["<s0>"]}, "steps": 1, "format_version": "1",
    }  # fmt: skip
    for rows in (value, {"clip_l": value, "clip_g": value}, {"clip_l": {"shape": value, "data": "AAAAAA=="}}):
        save_file(GOOD, path, {OWN_KEY: json.dumps(described), TOKENS_KEY: json.dumps(rows)})
        artifact = refused_or_read(path)
        if artifact is not None:
            place_or_refuse(base, artifact)


@FEW
@given(values=st.dictionaries(st.sampled_from(["lora_alpha", "r", "use_rslora", "alpha_pattern", "x"]), VALUES))
def test_any_value_in_the_header_of_diffusers(
    values: Mapping[str, Any], base: ModelFamily, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "peft.safetensors"
    module = f"unet.{PATHS[0]}"
    content = {f"{module}.lora_A.weight": torch.ones(2, 64), f"{module}.lora_B.weight": torch.ones(64, 2)}
    described = {f"unet.{name}": value for name, value in values.items()}
    save_file(content, path, {"lora_adapter_metadata": json.dumps(described)})
    artifact = refused_or_read(path)
    if artifact is not None:
        place_or_refuse(base, artifact)


PAIR: Mapping[str, list[int]] = {"lora_down.weight": [2, 64], "lora_up.weight": [192, 2]}
JOINED = ("0_x_block_attn_qkv", "1_x_block_mlp_fc1", "9_context_block_adaLN_modulation_1", "x", "")


@MANY
@given(
    made=st.dictionaries(
        st.sampled_from(JOINED),
        st.just(PAIR) | st.dictionaries(st.sampled_from(SUFFIXES[:9]), SHAPES, min_size=1, max_size=3),
        max_size=3,
    ),
    last=st.booleans(),
)
@example(made=dict.fromkeys(JOINED, PAIR), last=False)
def test_any_tensors_under_sd3s_joined_names(
    made: Mapping[str, Mapping[str, list[int]]], last: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An artifact that is read has all layers of the file: three for a joined layer, one for each other layer. Valid
    pairs are read, but not together with a full layer, which cannot be split."""
    path = tmp_path_factory.getbasetemp() / "joined.safetensors"
    content = {
        f"lora_unet_joint_blocks_{name}.{suffix}": torch.ones(shape)
        for name, shapes in made.items()
        for suffix, shape in shapes.items()
    }
    if last:
        content["lora_unet_final_layer_adaLN_modulation_1.diff"] = torch.ones(2)
    save_file(content, path)
    artifact = refused_or_read(path)
    if made and all(shapes == PAIR for shapes in made.values()):
        assert (artifact is None) == last
    if artifact is not None:
        assert len(artifact.layers) == sum(3 if name.endswith("qkv") else 1 for name in made) + last
