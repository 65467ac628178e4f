"""Tests of several resolutions in one run: every image is trained at each resolution that it is large enough for, in
batches of one shape."""

from collections import Counter
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from families.family import ModelFamily
from preprocess.dataset import PreparedDataset
from preprocess.prepare import prepare
from preprocess.reopen import reopen
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from tests.conftest import png
from tests.tiny_models import load_tiny
from trainer.building import build_training
from trainer.checkpoints.folders import Checkpoints, read_checkpoint
from trainer.checkpoints.training_state import restore
from trainer.data.latent_cache import CachedExample, cache_examples
from trainer.duration import plan_duration
from trainer.resolution import base_requirements, resolve
from trainer.validation.split import split

MakeFiles = Callable[[Mapping[str, bytes]], Path]
SIDES, STEPS = (32, 48, 64), 4
PICTURES = {f"{name}.png": png((200, 130), (40 * index, 90, 10)) for index, name in enumerate("abcde")}
SMALL = {"small.png": png((34, 34), (0, 0, 200))}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelFamily:
    return load_tiny("z-image", tmp_path_factory.mktemp("base"))


@pytest.fixture
def config(tiny: ModelFamily) -> TrainingConfig:
    values = {"resolution": SIDES, "captioner": "none", "max_train_steps": STEPS, "num_tokens": 0, "rank": 2}
    return resolve(build_config(values), tiny)


@pytest.fixture
def dataset(tiny: ModelFamily, config: TrainingConfig, make_zip: MakeFiles, tmp_path: Path) -> PreparedDataset:
    base = base_requirements(tiny, config.preparation, 0)
    return prepare([make_zip(PICTURES | SMALL)], config.preparation, tmp_path / "dataset", base)


@pytest.mark.parametrize(
    ("given", "sides"),
    [(512, 512), ("512", 512), ([512], 512), ([1024, 512, 512], (512, 1024)), ("768,512", (512, 768)),
     ("[512, 768]", (512, 768)), (None, None)],
)  # fmt: skip
def test_one_side_or_several(given: object, sides: object) -> None:
    config = build_config({"resolution": given})
    assert config.resolution == sides
    assert build_config({"resolution": config.model_dump(mode="json")["resolution"]}).resolution == sides


@pytest.mark.parametrize(
    "given", ["large", [512, 31], [512, 4097], [], [512.5, 1024], {"side": 512}, list(range(32, 64))]
)
def test_what_is_no_list_of_sides_is_one_clear_line(given: object) -> None:
    with pytest.raises(ConfigError) as error:
        build_config({"resolution": given})
    assert str(error.value).startswith("resolution: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sides", "message"), [([32, 36], "36 is not a multiple of 8"), ([32, 4096], "4096 is more than 512")]
)
def test_each_side_must_suit_the_base(
    sides: list[int], message: str, tiny: ModelFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(tiny), "largest_side", 512)
    with pytest.raises(ConfigError, match=message):
        resolve(build_config({"resolution": sides, "num_tokens": 0}), tiny)


def test_every_image_has_a_bucket_at_each_resolution_that_it_reaches(
    dataset: PreparedDataset, config: TrainingConfig, tiny: ModelFamily
) -> None:
    areas: dict[str, list[int]] = {}
    for example in dataset.examples:
        areas.setdefault(example.source, []).append(example.bucket[0] * example.bucket[1])
    for name in PICTURES:
        assert [area <= side**2 for area, side in zip(areas[name], SIDES, strict=True)] == [True] * 3
        assert areas[name] == sorted(set(areas[name]))  # one for each resolution, and all different
    assert len(areas["small.png"]) == 2  # 34 pixels are enlarged to 51 at the most
    assert "resolution 64: 1 of 6 images are too small for it, and are only trained at lower ones" in dataset.warnings
    assert len(dataset.largest) == 6
    assert [each.bucket for each in dataset.largest] == [
        max((other.bucket for other in dataset.examples if other.source == each.source), key=prod)
        for each in dataset.largest
    ]
    read = PreparedDataset.read(dataset.folder)
    assert read.examples == dataset.examples and read.digest() == dataset.digest()
    assert len(reopen(dataset.folder, config.preparation, base_requirements(tiny, config.preparation, 0)).largest) == 6


def test_warnings_of_an_image_are_said_once(dataset: PreparedDataset) -> None:
    lines = Counter(dataset.all_warnings)
    assert all(count == 1 for count in lines.values())


def test_steps_count_images_and_held_out_images_are_trained_at_no_size(
    dataset: PreparedDataset, tiny: ModelFamily
) -> None:
    examples = list(cache_examples(dataset, tiny))
    open_duration = build_config({"train_batch_size": 1}).duration
    assert plan_duration(open_duration, examples).max_train_steps == 600  # six images about 100 times
    for seed in range(4):
        parts = split(examples, 0.34, tiny.size_multiple, torch.Generator().manual_seed(seed))
        held, trained = ({each.picture for each in part} for part in (parts.held_out, parts.trained))
        assert len(held) == 2 and not held & trained and len(held | trained) == 6
        assert parts.description.startswith("2 images that are not trained, in all ")


def test_batches_have_one_shape_and_resume_bit_for_bit(
    dataset: PreparedDataset, config: TrainingConfig, tiny: ModelFamily, tmp_path: Path
) -> None:
    examples = list(cache_examples(dataset, tiny))
    checkpoints = Checkpoints(tmp_path)

    def losses(after: int | None) -> list[dict[str, float]]:
        training = build_training(config, tiny, dataset, examples, Accelerator(cpu=True))
        try:
            if after is not None:
                restore(training, read_checkpoint(checkpoints.path(after)))
            found = []
            for step in training.trainer.steps():
                found.append(step.losses)
                if after is None and step.number < STEPS:
                    checkpoints.write(training)
            return found
        finally:
            training.remove()

    whole = losses(None)
    assert [losses(1), losses(3)] == [whole[1:], whole[3:]]


def test_latents_are_those_of_each_resolution(dataset: PreparedDataset, tiny: ModelFamily) -> None:
    for example, cached in zip(dataset.examples, cache_examples(dataset, tiny), strict=True):
        _check_shape(example.bucket, cached, tiny)


def _check_shape(bucket: tuple[int, int], cached: CachedExample, tiny: ModelFamily) -> None:
    height, width = cached.views[0].load().moments.shape[-2:]
    scale = bucket[0] // width
    assert (width * scale, height * scale) == bucket and tiny.size_multiple % scale == 0
