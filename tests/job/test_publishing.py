"""Tests of publishing to a server that stands in for the hub: the artifact must be kept after an error, and the token
must not be disclosed."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from job.output_folder import OutputFolder
from job.publishing.errors import PublishingFailed
from job.publishing.hub import publish, require_publishable
from job.publishing.model_card import CardFacts, listed_settings, model_card
from service.train_command import main
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from tests.conftest import EXAMPLE
from tests.local_site import PublishingHub, use_hub

TOKEN = "hf_t0ken"
CONFIG = TrainingConfig(
    base_model="mini-sdxl", push_to_hub="me/robot", hub_license="mit", class_word="robot", rank=7,
    validation_prompt="a photo of `TOK` | ![x](http://evil.example)",
)  # fmt: skip


def facts(config: TrainingConfig) -> CardFacts:
    return CardFacts(config.base_model, ["TOK"], [str(config.validation_prompt)], listed_settings(config))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[PublishingHub]:
    started = PublishingHub(TOKEN)
    use_hub(started, monkeypatch)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield started
    started.server.shutdown()
    started.server.server_close()


@pytest.fixture
def output(tmp_path: Path) -> OutputFolder:
    made = OutputFolder.create(tmp_path / "out")
    made.weights.write_bytes(b"weights")
    made.embeddings.write_bytes(b"embeddings")
    made.samples.mkdir()
    Image.new("RGB", (8, 8)).save(made.samples / "00.png")
    return made


def test_the_embeddings_of_several_trigger_words_are_uploaded_too(hub: PublishingHub, output: OutputFolder) -> None:
    output.embeddings_apart.mkdir()
    (output.embeddings_apart / "TOK.safetensors").write_bytes(b"rows")
    publish(CONFIG.publishing, output, facts(CONFIG))
    assert hub.committed["me/robot"]["embeddings/TOK.safetensors"] == b"rows"


def test_one_commit_holds_everything(hub: PublishingHub, output: OutputFolder) -> None:
    assert publish(CONFIG.publishing, output, facts(CONFIG)) == f"{hub.url}/me/robot"
    assert hub.created["me/robot"]["visibility"] == "private"
    files = hub.committed["me/robot"]
    assert files.keys() == {"README.md", "weights.safetensors", "embeddings.safetensors", "samples/00.png"}
    assert files["weights.safetensors"] == b"weights"
    card = files["README.md"].decode()
    assert "license: mit" in card and "instance_prompt: TOK" in card and "pipeline_tag: text-to-image" in card
    assert "![sample 0](samples/00.png)" in card and "| rank | `7` |" in card and "`mini-sdxl`" in card
    assert "Prompt: `a photo of 'TOK' \\| ![x](http://evil.example)`" in card  # shown as text
    assert TOKEN not in str(files)


def test_a_public_repository_has_to_be_asked_for(hub: PublishingHub, output: OutputFolder) -> None:
    publish(CONFIG.model_copy(update={"hub_private": False}).publishing, output, facts(CONFIG))
    assert hub.created["me/robot"]["visibility"] == "public"


def test_no_path_of_this_machine_is_published() -> None:
    local = CONFIG.model_copy(update={"base_model": "/home/me/secret/base.safetensors"})
    card = model_card(facts(local), "mit", [])
    assert "/home" not in card and "`base.safetensors`" in card and "base_model:" not in card
    on_hub = CONFIG.model_copy(update={"base_model": "stabilityai/stable-diffusion-xl-base-1.0"})
    assert "base_model: stabilityai/stable-diffusion-xl-base-1.0" in model_card(facts(on_hub), None, [])
    assert "No licence is given." in model_card(facts(on_hub), None, [])


def test_the_card_has_the_bases_licence_and_the_tools_that_open_it() -> None:
    card = model_card(facts(CONFIG), "mit", [])
    assert "Licence of the base" not in card and "opens in ComfyUI, A1111, Forge, InvokeAI and diffusers;" in card
    limited = replace(facts(CONFIG), tools=("ComfyUI",), base_licence="non-commercial use only")
    card = model_card(limited, "mit", [])
    assert "Licence: mit." in card and "Licence of the base model: non-commercial use only." in card
    assert "A LoRA for" in card and "opens in ComfyUI;" in card
    card = model_card(replace(facts(CONFIG), tools=(), kind="ControlNet", triggers=()), None, [])
    assert "# ControlNet" in card and "opens in the trainer's own predictor only;" in card


def test_the_card_has_the_prompt_of_each_sample() -> None:
    samples = [Path(f"{number:02d}.png") for number in range(4)]
    card = model_card(replace(facts(CONFIG), prompts=["a TOK", "a TOK", "a blue star", "a blue star"]), None, samples)
    places = [card.index(text) for text in ("01.png", "Prompt: `a TOK`", "02.png", "03.png", "Prompt: `a blue star`")]
    assert places == sorted(places) and card.count("Prompt:") == 2
    assert "Prompt:" not in model_card(replace(facts(CONFIG), prompts=[]), None, samples)
    assert "- lora" in card and "- lora" not in model_card(replace(facts(CONFIG), kind="ControlNet"), None, [])


def test_a_push_that_fails_is_an_error_and_the_artifact_stays(hub: PublishingHub, output: OutputFolder) -> None:
    del hub.answers["/api/repos/create"]
    with pytest.raises(PublishingFailed, match=r"the hub answered 404.*The artifact is kept: .*weights\.safetensors"):
        publish(CONFIG.publishing, output, facts(CONFIG))
    assert output.weights.read_bytes() == b"weights"


def test_what_is_wrong_is_an_error_before_any_training(hub: PublishingHub, monkeypatch: pytest.MonkeyPatch) -> None:
    require_publishable(CONFIG)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ConfigError, match="push_to_hub: the hub answered 401: HF_TOKEN is not valid") as error:
        require_publishable(CONFIG)
    assert "hf_wrong" not in str(error.value)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("job.publishing.hub.get_token", lambda: None)
    with pytest.raises(ConfigError, match="push_to_hub: needs a token"):
        require_publishable(CONFIG)
    require_publishable(TrainingConfig())
    for values in ({"push_to_hub": "robot"}, {"hub_private": False}, {"hub_license": "mit"}, {"push_to_hub": "a/b/c"}):
        with pytest.raises(ConfigError, match="push_to_hub"):
            build_config(values)


@pytest.mark.slow
def test_the_whole_command(hub: PublishingHub, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quick = ["--base_model", "mini-sdxl", "--max_train_steps", "1", "--train_batch_size", "1", "--rank", "2",
             "--num_inference_steps", "1", "--num_validation_images", "1", "--push_to_hub", "me/robot"]  # fmt: skip
    assert main([str(EXAMPLE), "--output", str(tmp_path / "1"), *quick]) == 0
    published = hub.committed["me/robot"]
    assert published["weights.safetensors"] == (tmp_path / "1" / "weights.safetensors").read_bytes()
    assert published["samples/00.png"] == (tmp_path / "1" / "samples" / "00.png").read_bytes()
    assert [name for name in published if name.startswith("samples/")] == ["samples/00.png"]  # none of those before
    del hub.answers["/api/repos/create"]
    assert main([str(EXAMPLE), "--output", str(tmp_path / "2"), *quick]) == 1
    assert (tmp_path / "2" / "weights.safetensors").exists()
    told = "".join(capfd.readouterr())
    assert f"published: {hub.url}/me/robot" in told and "error: push_to_hub: me/robot: the hub answered 404" in told
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()
    assert TOKEN not in told
