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
from preprocess.captioners.captioner import CaptionerError
from preprocess.captioners.loading import load_processor
from preprocess.crops.clipseg import SubjectSegmenter
from preprocess.crops.upscale import Upscaler
from preprocess.errors import DatasetError
from settings.record import ConfigError


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
