"""Tests of the caption cache: an image that was captioned once is not captioned again."""

import json
import shutil
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from PIL import Image

from preprocess.captioners.cache import CaptionCache, pixel_digest
from preprocess.captioners.captioner import BATCH_SIZE, Captioner, CaptionerError
from preprocess.captioners.captioning import caption_batch, loaded_on_use
from preprocess.captioners.choice import CaptionerChoice, Kind
from preprocess.captioners.kinds import load_captioner
from preprocess.captioners.registry import choose_captioner
from tests.preprocess.captioners.tiny_captioners import CPU, EXPECTED, QUESTION, picture, pictures

CHOICE = CaptionerChoice("source", "tiny/model", Kind.CHAT, QUESTION, trust_remote_code=False)


@dataclass
class Onlooker:
    """A captioner that answers with the width of each image, and records its number of loads and its batch sizes."""

    model_id: str = CHOICE.model_id
    prompt: str = CHOICE.prompt
    loaded: int = 0
    batches: list[int] = field(default_factory=list)

    def load(self) -> "Onlooker":
        self.loaded += 1
        return self

    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        self.batches.append(len(images))
        return [f"{image.width} wide" for image in images]


def captioned(
    images: Iterable[tuple[str, Image.Image]],
    choice: CaptionerChoice,
    load: Callable[[], Captioner],
    cache: CaptionCache,
) -> dict[str, str]:
    named = iter(images)
    captions: dict[str, str] = {}
    with loaded_on_use(load) as captioner:
        while batch := list(islice(named, BATCH_SIZE)):
            texts = caption_batch([image for _, image in batch], choice, captioner, cache)
            captions |= dict(zip((name for name, _ in batch), texts, strict=True))
    return captions


def widths(*values: int) -> Iterator[tuple[str, Image.Image]]:
    return ((f"{value}.png", Image.new("RGB", (value, 20))) for value in values)


def test_a_second_run_takes_everything_from_the_cache_and_loads_nothing(
    tiny_captioner: Callable[[str], Path], tmp_path: Path
) -> None:
    choice = choose_captioner(str(tiny_captioner("blip")), prompt=None, trust_remote_code=False)
    named = [(f"{index}.png", image) for index, image in enumerate(pictures())]
    cache = CaptionCache(tmp_path / "captions")
    first = captioned(named, choice, lambda: load_captioner(choice, CPU), cache)
    assert list(first.items()) == [(name, text) for (name, _), text in zip(named, EXPECTED, strict=True)]
    renamed = [(f"other {name}", image) for name, image in named]
    again = captioned(renamed, choice, lambda: pytest.fail("the model is loaded again"), cache)
    assert list(again.values()) == EXPECTED


def test_only_the_unknown_pictures_are_shown_to_the_model(tmp_path: Path) -> None:
    onlooker, cache = Onlooker(), CaptionCache(tmp_path)
    captioned(widths(10, 30, 50), CHOICE, onlooker.load, cache)
    captions = captioned(widths(*range(10, 100, 10)), CHOICE, onlooker.load, cache)
    assert captions == {f"{width}.png": f"{width} wide" for width in range(10, 100, 10)}
    assert list(captions) == [f"{width}.png" for width in range(10, 100, 10)]
    assert onlooker.batches == [3, 2, 3, 1]
    assert onlooker.loaded == 2


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"prompt": "another question"}, {"model_id": "another/model"}])
def test_another_prompt_or_model_is_asked_anew(change: dict[str, Any], tmp_path: Path) -> None:
    onlooker, cache = Onlooker(), CaptionCache(tmp_path)
    captioned(widths(10), CHOICE, onlooker.load, cache)
    captioned(widths(10), replace(CHOICE, **change), onlooker.load, cache)
    assert onlooker.loaded == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [b"", b'{"caption": "half', b"\xff\xfe", b"[]", b'{"caption": "of something else"}', b'{"caption": 3}'],
)
def test_a_damaged_entry_is_made_again(damage: bytes, tmp_path: Path) -> None:
    onlooker, cache = Onlooker(), CaptionCache(tmp_path)
    captioned(widths(10), CHOICE, onlooker.load, cache)
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(damage)
    assert captioned(widths(10), CHOICE, onlooker.load, cache) == {"10.png": "10 wide"}
    assert onlooker.loaded == 2
    assert json.loads(entry.read_text())["caption"] == "10 wide"


def test_another_commit_of_a_hub_model_is_asked_anew(
    tiny_captioner: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository, cache = tmp_path / "hub" / "models--tiny--blip", CaptionCache(tmp_path / "captions")
    (repository / "refs").mkdir(parents=True)

    def choice_at(commit: str) -> CaptionerChoice:
        if not (repository / "snapshots" / commit).exists():
            shutil.copytree(tiny_captioner("blip"), repository / "snapshots" / commit)
        (repository / "refs" / "main").write_text(commit)
        return choose_captioner("tiny/blip", prompt=None, trust_remote_code=False)

    first = choice_at("a" * 40)
    newer = load_captioner(choice_at("b" * 40), CPU)  # the hub had another commit when the model was loaded
    assert newer.model_id == f"tiny/blip@{'b' * 12}"
    caption_batch([picture("red")], first, lambda: newer, cache)
    again = caption_batch([picture("red")], choice_at("b" * 40), lambda: pytest.fail("is loaded again"), cache)
    assert again == ["a red picture"]
    onlooker = Onlooker()
    caption_batch([picture("red")], choice_at("a" * 40), onlooker.load, cache)
    assert onlooker.loaded == 1


def test_an_empty_answer_is_remembered_too(tmp_path: Path) -> None:
    cache = CaptionCache(tmp_path)
    cache.write("pixels", "model", "prompt", "")
    assert cache.read("pixels", "model", "prompt") == ""
    assert cache.read("pixels", "model", "other prompt") is None


def test_what_was_captioned_before_an_error_stays_in_the_cache(tmp_path: Path) -> None:
    def until_damaged() -> Iterator[tuple[str, Image.Image]]:
        yield from widths(*range(10, 10 + BATCH_SIZE))
        raise CaptionerError("the fifth file is damaged")

    onlooker = Onlooker()
    with pytest.raises(CaptionerError, match="fifth"):
        captioned(until_damaged(), CHOICE, onlooker.load, CaptionCache(tmp_path))
    assert len(list(tmp_path.glob("*.json"))) == BATCH_SIZE
    assert not list(tmp_path.glob("*.partial"))


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CaptionerError, match="another cache folder.*CAPTION_CACHE"):
        captioned(widths(10), CHOICE, Onlooker().load, CaptionCache(tmp_path / "file"))


def test_the_model_is_let_go_when_all_is_captioned(tmp_path: Path) -> None:
    made: list[weakref.ref[Onlooker]] = []

    def load_onlooker() -> Onlooker:
        onlooker = Onlooker()
        made.append(weakref.ref(onlooker))
        return onlooker

    captioned(widths(10, 20), CHOICE, load_onlooker, CaptionCache(tmp_path))
    assert len(made) == 1
    assert made[0]() is None


def test_pixels_and_shape_make_the_digest() -> None:
    assert pixel_digest(picture("red")) == pixel_digest(picture("red"))
    assert pixel_digest(picture("red")) != pixel_digest(picture("blue"))
    assert pixel_digest(picture("red", (10, 20))) != pixel_digest(picture("red", (20, 10)))
