"""Tests that without a connection, loading a model of any kind from the hub immediately raises an error of one line."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from evaluation.encoders import DinoEncoder
from families.errors import BaseModelError
from families.loading.sources import find_base_model, read_index
from fetching.errors import DownloadError
from fetching.hub_connection import require_hub
from job.publishing.hub import require_publishable
from preprocess.captioners.captioner import CaptionerError
from preprocess.captioners.loading import load_processor
from preprocess.captions.token_counts import token_counter
from preprocess.crops.clipseg import SubjectSegmenter
from preprocess.crops.upscale import Upscaler
from preprocess.errors import DatasetError
from sampler.weights import read_one
from settings.record import ConfigError
from settings.training import TrainingConfig


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.mark.parametrize(
    ("load", "error"),
    [
        (lambda: read_index(find_base_model("someone/base")), BaseModelError),
        (lambda: load_processor("someone/captioner", False), CaptionerError),
        (lambda: SubjectSegmenter.load("someone/clipseg"), DatasetError),
        (lambda: token_counter("someone/base"), DatasetError),
        (lambda: Upscaler.load("someone/upscaler"), DatasetError),
        (lambda: DinoEncoder("someone/dino"), ConfigError),
    ],
)
def test_every_kind_of_model_says_so_in_one_line(load: Callable[[], object], error: type[Exception]) -> None:
    begun = time.monotonic()
    with pytest.raises(error, match="cannot be reached") as raised:
        load()
    assert "\n" not in str(raised.value)
    assert time.monotonic() - begun < 10  # retries of the libraries would take minutes


@pytest.mark.parametrize("local_files", [True, False])
def test_a_lora_on_the_hub_may_be_a_misspelt_path(local_files: bool) -> None:
    with pytest.raises(DownloadError, match="the hub cannot be reached: ConnectError. Check the network") as raised:
        read_one("outputs/photos/weights.safetensors", local_files=local_files)
    assert ("does not exist here" in str(raised.value)) == local_files


def test_publishing_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    with pytest.raises(ConfigError, match="push_to_hub: the hub cannot be reached"):
        require_publishable(TrainingConfig(push_to_hub="someone/lora").publishing)


def test_the_error_of_a_base_names_the_embedded_one() -> None:
    with pytest.raises(BaseModelError, match="mini-sdxl, which is embedded"):
        read_index(find_base_model("someone/base"))


def test_a_folder_needs_no_hub(tmp_path: Path) -> None:
    require_hub(str(tmp_path), "config.json")


def test_a_model_that_was_downloaded_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "models--someone--base"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (repository / "snapshots" / ("0" * 40) / "config.json").write_text("{}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    require_hub("someone/base", "config.json")
    with pytest.raises(DownloadError):
        require_hub("someone/other", "config.json")
