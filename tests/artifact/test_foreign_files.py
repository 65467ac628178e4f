"""Tests of cog-sdxl's tars, bundles and embeddings: all forms have the same effect, and invalid files are refused."""

import base64
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from artifact.artifact import Artifact
from artifact.command_line import main
from artifact.conversion.convert import convert
from artifact.errors import ArtifactError
from artifact.layers import LoraLayer
from artifact.names.kohya import kohya_name
from artifact.placement.placing import PlacedArtifacts
from families.family import ModelFamily
from families.parts.placeholder_tokens import expand_triggers
from sampler import generation as generation_module
from sampler.generation import Generation
from sampler.weights import read_weights
from service.prediction_inputs import PredictionInputs, predict
from tests.artifact.test_artifact import make_artifact, unet_inputs, write
from tests.sampler.test_hostile_weights import pickled, place_or_refuse, refused_or_read

ATTENTIONS = (
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1",
    "up_blocks.0.attentions.1.transformer_blocks.0.attn2",
)
FORMS = {"kohya": "safetensors", "diffusers": "safetensors", "bundle": "safetensors", "cog-sdxl": "tar"}
PROMPT = "a photo of TOK beside ANNA"


def make_attention_artifact(base: ModelFamily) -> Artifact:
    """Return a LoRA that every format can contain, with trigger words of two tokens and of one. Alpha / rank is 1/2."""
    generator, layers = torch.Generator().manual_seed(1), {}
    for attention in ATTENTIONS:
        for projection in ("to_q", "to_k", "to_v", "to_out.0"):
            out, inputs = base.denoiser.get_submodule(f"{attention}.{projection}").weight.shape
            layers[kohya_name(f"{attention}.{projection}", 2)] = LoraLayer(
                torch.randn(4, inputs, generator=generator), torch.randn(out, 4, generator=generator), 2.0
            )
    tokens = {
        name: torch.randn(3, encoder.get_input_embeddings().embedding_dim, generator=generator)
        for name, encoder in zip(base.encoder_names, base.text_encoders, strict=True)
    }
    description = make_artifact(base).description
    assert description is not None
    return Artifact(layers, tokens, replace(description, triggers={"TOK": ["<s0>", "<s1>"], "ANNA": ["<s2>"]}))


@pytest.fixture
def files(base: ModelFamily, tmp_path: Path) -> Mapping[str, Path]:
    """One LoRA in every form."""
    source = write(make_attention_artifact(base), tmp_path / "source.safetensors", base)
    made = {"source": source}
    for form, suffix in FORMS.items():
        made[form] = tmp_path / f"{form}.{suffix}"
        convert(source, made[form], form)
    return made


@torch.no_grad()
def effect(base: ModelFamily, artifacts: Sequence[Artifact]) -> list[Tensor]:
    """Return the base's outputs with each of the files loaded: for random latents, and for a prompt with their trigger
    words."""
    torch.manual_seed(0)
    inputs = unet_inputs(base)
    placed = PlacedArtifacts(base, artifacts)
    try:
        features = base.encode_prompts([expand_triggers(PROMPT, placed.triggers)])
        assert features.pooled_prompt_embeds is not None
        return [base.denoiser(**inputs).sample, features.prompt_embeds, features.pooled_prompt_embeds]
    finally:
        placed.remove()


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


def test_every_form_draws_the_same(base: ModelFamily, files: Mapping[str, Path]) -> None:
    bare, ours = effect(base, []), effect(base, [make_attention_artifact(base)])
    assert not any(torch.equal(left, right) for left, right in zip(bare, ours, strict=True))
    for form, path in files.items():
        assert same(effect(base, [Artifact.read(path)]), ours), form


def test_a_lora_and_its_embeddings_may_be_two_files(base: ModelFamily, tmp_path: Path) -> None:
    """Other tools read such files, in which the file's name is the trigger word."""
    artifact = make_attention_artifact(base)
    save_file(artifact.tensors(torch.float32), tmp_path / "lora.safetensors")
    rows = {"TOK": slice(0, 2), "ANNA": slice(2, 3)}
    for word, own in rows.items():
        save_file(
            {name: table[own].clone() for name, table in artifact.tokens.items()}, tmp_path / f"{word}.safetensors"
        )
    names = ", ".join(str(tmp_path / f"{name}.safetensors") for name in ("lora", "TOK", "ANNA"))
    several = [lora.artifact for lora in read_weights(names, "recommended", local_files=True)]
    assert same(effect(base, several), effect(base, [artifact]))
    artifact.write_embeddings(tmp_path / "ours.safetensors")
    assert dict(Artifact.read(tmp_path / "ours.safetensors").triggers) == {"TOK": ["<s0>", "<s1>"], "ANNA": ["<s2>"]}


@pytest.mark.parametrize("form", ["bundle", "cog-sdxl", "diffusers"])
def test_there_and_back_every_bit_is_the_same(form: str, files: Mapping[str, Path], tmp_path: Path) -> None:
    convert(files[form], tmp_path / "back.safetensors", "kohya")
    before, after = Artifact.read(files["source"]), Artifact.read(tmp_path / "back.safetensors")
    assert after.layers.keys() == before.layers.keys() and after.triggers == before.triggers
    assert after.description == (None if form == "cog-sdxl" else before.description)  # the tar does not contain it
    for name, layer in before.layers.items():
        other = after.layers[name]
        assert isinstance(layer, LoraLayer) and isinstance(other, LoraLayer)
        assert torch.equal(layer.down, other.down) and torch.equal(layer.up * layer.scale, other.up * other.scale)
    assert after.tokens.keys() == before.tokens.keys()
    assert all(torch.equal(rows, after.tokens[name]) for name, rows in before.tokens.items())
    convert(tmp_path / "back.safetensors", tmp_path / "again", form)
    again, once = Artifact.read(tmp_path / "again"), Artifact.read(files[form])
    assert again.layers.keys() == once.layers.keys() and again.triggers == once.triggers
    for name, layer in once.layers.items():
        for key, tensor in layer.tensors().items():
            assert torch.equal(tensor, again.layers[name].tensors()[key])


def test_a_foreign_bundle_keeps_its_words_through_every_format(base: ModelFamily, tmp_path: Path) -> None:
    """The file is like OneTrainer's, without a header. Words may contain dots, and rows are in fp16."""
    artifact = make_attention_artifact(base)
    words = {"my.word": slice(0, 2), "<anna>": slice(2, 3)}
    bundled = {
        f"bundle_emb.{word}.{name}": table[rows].half()
        for word, rows in words.items()
        for name, table in artifact.tokens.items()
    }
    save_file({**artifact.tensors(torch.float32), **bundled}, tmp_path / "a.safetensors")
    first = Artifact.read(tmp_path / "a.safetensors")
    assert {word: len(names) for word, names in first.triggers.items()} == {"my.word": 2, "<anna>": 1}
    placed = PlacedArtifacts(base, [first])
    placed.remove()
    path = tmp_path / "a.safetensors"
    for number, form in enumerate(("cog-sdxl", "diffusers", "bundle", "kohya", "embeddings")):
        convert(path, tmp_path / f"{number}.safetensors", form)
        path = tmp_path / f"{number}.safetensors"
        found = Artifact.read(path)
        for word, rows in words.items():
            start = [name for names in found.triggers.values() for name in names].index(found.triggers[word][0])
            for name, table in found.tokens.items():
                assert torch.equal(
                    table[start : start + len(found.triggers[word])], artifact.tokens[name][rows].half().float()
                )


def test_sd15_and_sd2_embeddings(tmp_path: Path) -> None:
    for width, key, encoder in (
        (768, "emb_params", "clip_l"),
        (1024, "emp_params", "clip_h"),
        (1024, "clip_l", "clip_h"),
    ):
        path = tmp_path / "cat toy.safetensors"
        save_file({key: torch.ones(2, width)}, path)
        artifact = Artifact.read(path)
        assert list(artifact.tokens) == [encoder] and dict(artifact.triggers) == {"cat toy": ["<s0>", "<s1>"]}
        assert not artifact.layers and artifact.description is None


@pytest.mark.parametrize(
    "name",
    [
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.{}.weight",  # cog-sdxl
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.{}.weight",  # diffusers 0.17
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.lora.{}.weight",  # diffusers 0.22
    ],
)
def test_the_former_names_of_diffusers(name: str, tmp_path: Path) -> None:
    tensors = {name.format("down"): torch.ones(2, 64), name.format("up"): torch.ones(64, 2)}
    save_file(tensors, tmp_path / "a.safetensors")
    layers = Artifact.read(tmp_path / "a.safetensors").layers
    assert list(layers) == ["unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0"]


def test_the_entry_points_take_a_tar_and_a_bundle(
    base: ModelFamily, files: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command reads files, and Cog reads uploads. The strength of the trigger words can be set."""
    monkeypatch.setattr(generation_module, "load_base_model", lambda *arguments, **options: base)
    generation, said = Generation(lambda line: said.append(line)), list[str]()

    def draw(weights: str, folder: str, **inputs: Any) -> bytes:
        request = PredictionInputs(
            PROMPT, lora=weights, base_model="mini-sdxl", num_inference_steps=1, seed=1, width=32, height=32, **inputs
        )
        made = predict(
            request, generation, tmp_path / folder, local_files=not weights.startswith("data:"), say=said.append,
            metric=lambda name, value: None,
        )  # fmt: skip
        assert made.triggers == ("TOK", "ANNA")
        with Image.open(made.paths[0]) as image:
            return image.tobytes()

    ours = draw(str(files["source"]), "0")
    upload = "data:application/x-tar;base64," + base64.b64encode(files["cog-sdxl"].read_bytes()).decode()
    assert ours == draw(str(files["cog-sdxl"]), "1") == draw(upload, "2") == draw(str(files["bundle"]), "3")
    assert ours != draw(str(files["cog-sdxl"]), "4", token_strength="TOK=0.5")
    assert "trigger words: TOK, ANNA" in said


def test_inspect_says_what_form_a_file_has(files: Mapping[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for form, shown in (
        ("cog-sdxl", "no other tool opens the tar"),
        ("bundle", "diffusers ignores the whole file"),
    ):
        assert main(["inspect", str(files[form])]) == 0
        printed = capsys.readouterr().out
        assert shown in printed and "ANNA → <s2>" in printed and "sdxl" in printed


# Hostile files


def tar_of(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def tar_with_link() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("lora.safetensors")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    return buffer.getvalue()


PROCESSOR = "mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora"
LORA = save({f"{PROCESSOR}.down.weight": torch.ones(2, 64), f"{PROCESSOR}.up.weight": torch.ones(64, 2)})
ROWS = {"text_encoders_0": torch.ones(2, 64), "text_encoders_1": torch.ones(2, 96)}
PARAMS = json.dumps({"TOK": "<s0><s1>"}).encode()
GOOD = {"lora.safetensors": LORA, "embeddings.pti": save(ROWS), "special_params.json": PARAMS}
REFUSED: Mapping[str, tuple[bytes, str]] = {
    "nothing": (tar_of({"read me": b""}), "the tar does not contain lora.safetensors"),
    "a full fine-tune": (tar_of({"unet.safetensors": b"x"}), "full fine-tune"),
    "a link": (tar_with_link(), "not a regular file"),
    "twice": (tar_of({**GOOD, "x/lora.safetensors": LORA}), "occurs twice"),
    "a pickle": (tar_of({**GOOD, "embeddings.pti": pickled()}), "embeddings.pti: not a readable .safetensors"),
    "no rows": (tar_of({name: data for name, data in GOOD.items() if name != "embeddings.pti"}), "contains only one of "
    "embeddings.pti"),
    "cut off": (tar_of(GOOD)[: 512 + len(LORA) // 2], "is truncated"),
    "no JSON": (tar_of({**GOOD, "special_params.json": b"{"}), "special_params.json"),
    "nested JSON": (tar_of({**GOOD, "special_params.json": b"[" * 10**5}), "special_params.json"),
    "other placeholders": (tar_of({**GOOD, "special_params.json": b'{"TOK": "$(rm)"}'}), "expected <s0><s1>"),
    "a row too many": (tar_of({**GOOD, "special_params.json": b'{"TOK": "<s0><s1><s2>"}'}), "do not match"),
    "a far row": (tar_of({**GOOD, "special_params.json": b'{"TOK": "<s0><s99999999999>"}'}), "do not match"),
    "an empty word": (tar_of({**GOOD, "special_params.json": b'{" ": "<s0><s1>"}'}), "not a valid trigger word"),
    "not finite": (tar_of({**GOOD, "embeddings.pti": save({**ROWS, "text_encoders_0": torch.ones(2, 64) / 0})}),
                   "not finite"),
    "one encoder": (tar_of({**GOOD, "embeddings.pti": save({"text_encoders_0": torch.ones(2, 64)})}), "expected "
    "text_encoders_0"),
    "unlike rows": (tar_of({**GOOD, "embeddings.pti": save({**ROWS, "text_encoders_1": torch.ones(1, 96)})}),
                    "do not match"),
    "output embeddings": (save({"clip_l": torch.ones(1, 64), "clip_g_out": torch.ones(1, 96)}), "_out"),
    "integers": (save({"clip_l": torch.ones(1, 64).int()}), "type"),
    "no row": (save({"clip_l": torch.ones(0, 64)}), "rows"),
    "a bundle without an encoder": (save({"bundle_emb.TOK": torch.ones(1, 64)}), "does not name a text encoder"),
    "a bundle of unlike words": (
        save({"bundle_emb.A.clip_l": torch.ones(1, 64), "bundle_emb.B.clip_g": torch.ones(1, 96)}), "different numbers"
    ),
    "a bundle of unlike widths": (
        save({"bundle_emb.A.clip_l": torch.ones(1, 64), "bundle_emb.B.clip_l": torch.ones(1, 32)}), "different widths"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_hostile_and_broken_files_are_refused_with_a_reason(case: str, tmp_path: Path) -> None:
    data, reason = REFUSED[case]
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ArtifactError, match=reason):
        Artifact.read(tmp_path / "file")
    (tmp_path / "file").write_bytes(tar_of(GOOD))
    assert dict(Artifact.read(tmp_path / "file").triggers) == {"TOK": ["<s0>", "<s1>"]}


def test_embeddings_of_another_base_are_refused(base: ModelFamily, tmp_path: Path) -> None:
    save_file({name: torch.ones(1, 64) for name in ("clip_l", "clip_g", "t5")}, tmp_path / "a.safetensors")
    with pytest.raises(ArtifactError, match="token embeddings for t5"):
        PlacedArtifacts(base, [Artifact.read(tmp_path / "a.safetensors")])


MANY = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
JSON_TEXT = st.text(alphabet='{}[]":,<>s01TOK \\', max_size=30).map(str.encode)


@MANY
@given(
    cut=st.integers(0, 12_000),
    flips=st.lists(st.tuples(st.integers(0, 11_000), st.integers(0, 255)), max_size=6),
    params=st.one_of(st.none(), JSON_TEXT, st.binary(max_size=20)),
    rows=st.dictionaries(
        st.sampled_from(["text_encoders_0", "text_encoders_1", "clip_l"]),
        st.tuples(st.lists(st.sampled_from([0, 1, 2, 64, 96]), max_size=3), st.booleans()), max_size=3,
    ),
)  # fmt: skip
def test_any_damage_to_a_tar(
    cut: int,
    flips: Sequence[tuple[int, int]],
    params: bytes | None,
    rows: Mapping[str, tuple[list[int], bool]],
    base: ModelFamily,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The tar is read and loaded, or refused with an ArtifactError. There are no other errors."""
    members = dict(GOOD)
    if params is not None:
        members["special_params.json"] = params
    if rows:
        made = {name: torch.full(shape, torch.nan if nan else 1.0) for name, (shape, nan) in rows.items()}
        members["embeddings.pti"] = save(made)
    data = bytearray(tar_of(members))
    for place, value in flips:
        data[place % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "damaged.tar"
    path.write_bytes(bytes(data[: len(data) - cut] if cut < 6_000 else data))
    artifact = refused_or_read(path)
    if artifact is not None:
        place_or_refuse(base, artifact)


@MANY
@given(
    made=st.dictionaries(
        st.tuples(
            st.sampled_from(["bundle_emb.", "bundle_emb.A.", "bundle_emb.A.b.", "bundle_emb..", ""]),
            st.sampled_from(["clip_l", "clip_g", "clip_l_out", "t5", "emb_params", "string_to_param.*", "x", ""]),
        ),
        st.tuples(st.lists(st.sampled_from([0, 1, 2, 64, 96, 1024]), max_size=3), st.booleans()), max_size=4,
    ),
    counts=st.one_of(st.none(), st.dictionaries(st.text(max_size=3), st.integers(-2, 10**7), max_size=3)),
)  # fmt: skip
def test_any_embeddings(
    made: Mapping[tuple[str, str], tuple[list[int], bool]],
    counts: Mapping[str, int] | None,
    base: ModelFamily,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / "embeddings.safetensors"
    content = {
        f"{start}{end}": torch.full(shape, torch.inf if infinite else 1.0)
        for (start, end), (shape, infinite) in made.items()
    }
    save_file(content, path, None if counts is None else {"lora_trainer.triggers": json.dumps(counts)})
    artifact = refused_or_read(path)
    if artifact is not None:
        assert load_file(path)
        place_or_refuse(base, artifact)
