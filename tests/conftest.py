"""Fixtures and helpers that tests share: images, archives, and the embedded base model, which is loaded once."""

import gc
import io
import zipfile
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image

from families.family import ModelFamily
from families.registry import load_base_model

PROJECT = Path(__file__).resolve().parent.parent
EXAMPLE = PROJECT / "assets" / "examples" / "robot.zip"


def png(size: tuple[int, int] = (80, 64), colour: tuple[int, int, int] = (200, 40, 40)) -> bytes:
    """Returns an image of one colour as PNG."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Excludes objects of imported modules from garbage collection, during collection and in the tests: they are never
    freed."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs the longest tests first, so that no process is still running one of them when the others have ended."""
    items.sort(key=lambda item: "learning" not in item.path.parts)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Seeds torch's global generator, so that a test draws the same numbers whichever tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def make_zip(tmp_path: Path) -> Callable[[Mapping[str, bytes]], Path]:
    """Writes a zip with the given names and contents."""

    def make(files: Mapping[str, bytes]) -> Path:
        path = tmp_path / "upload.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path

    return make


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[[Mapping[str, bytes]], Path]:
    """Writes a folder with the given names and contents."""

    def make(files: Mapping[str, bytes]) -> Path:
        folder = tmp_path / "photos"
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder

    return make


@pytest.fixture(scope="session")
def _loaded_base() -> ModelFamily:
    return load_base_model("mini-sdxl", torch.float32)


@pytest.fixture
def base(_loaded_base: ModelFamily) -> ModelFamily:
    """The embedded base model without adapters. Fails if an earlier test has left one on it."""
    assert not any("lora" in name for name, _ in _loaded_base.denoiser.named_modules())
    return _loaded_base


@pytest.fixture(scope="session")
def tiny_captioner(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the folder of a tiny captioner of a kind, which is created at the first call."""
    from tests.preprocess.captioners.tiny_captioners import MAKERS  # transformers takes seconds to import

    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            torch.manual_seed(0)
            made[name] = MAKERS[name](tmp_path_factory.mktemp(name))
        return made[name]

    return folder
