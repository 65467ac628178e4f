"""Tests that shards of features are completed byte for byte after kills, are checked by digests, and give the same
training as their images."""

import io
import json
import os
import shutil
import signal
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from families.family import ModelFamily
from families.registry import load_base_model
from job.output_folder import OutputFolder
from job.run import run
from job.stages.prepare import _with_class_images
from preprocess.dataset import PreparedDataset
from preprocess.errors import DatasetError
from preprocess.prepare import BaseRequirements, prepare
from preprocess.sources.stores import state_of
from service.features.command_line import main
from settings.preparation import DataConfig
from settings.record import ConfigError, build_settings
from settings.training import TrainingConfig
from tests.conftest import EXAMPLE
from tests.preprocess.sources.local_s3 import Store, s3
from tests.preprocess.uploads.ugly_uploads.making import picture, shard
from tests.tiny_models import write_sd15
from trainer.data import feature_encoding
from trainer.data.feature_encoding import begun
from trainer.data.feature_shards import read_features, record_of, tensors_of
from trainer.data.feature_sources import features_for, plan_features, settings_of_a_shard
from trainer.data.latent_cache import cache_examples
from trainer.data.local_encoding import encode_features
from trainer.data.ray_encoding import ShardEncoder

__all__ = ["s3"]
SHARDS = 3
CUT = "cannot be read (unexpected end of data). Create the archive again"
OPTIONS = {"resolution": 64, "captioner": "none", "class_word": "robot", "num_workers": 1}
BASE = BaseRequirements(8)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> ModelFamily:
    torch.set_num_threads(1)
    return load_base_model(str(write_sd15(tmp_path_factory.mktemp("base") / "base")), torch.float32)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(SHARDS):
        files = {}
        for index in range(2):
            files[f"{index}.png"] = picture(seed=2 * number + index)
            files[f"{index}.txt"] = f"a robot, number {number} {index}".encode()
        (folder / f"{number}.tar").write_bytes(shard(files))
    return folder


def encode(sources: Sequence[str | Path], output: Path, family: ModelFamily, **options: object) -> list[int]:
    config = build_settings(DataConfig, OPTIONS | options)
    plan = plan_features([str(source) for source in sources], config, family)
    return [number for number, _ in encode_features(plan, settings_of_a_shard(config), BASE, family, output)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def killed_at(moment: int, work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Does the work in a forked process, which gets SIGKILL before its call number `moment`, from 0, of one of the
    functions below. Returns whether it was killed."""
    child = os.fork()
    if child == 0:
        count = 0

        def dying(function: Callable[..., object]) -> Callable[..., object]:
            def call(*arguments: object, **options: object) -> object:
                nonlocal count
                if count == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                return function(*arguments, **options)

            return call

        monkeypatch.setattr(os, "replace", dying(os.replace))
        monkeypatch.setattr(os, "fsync", dying(os.fsync))
        for name in ("prepare", "save_file", "encode_view"):
            monkeypatch.setattr(feature_encoding, name, dying(getattr(feature_encoding, name)))
        monkeypatch.setattr(shutil, "copytree", dying(shutil.copytree))
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.slow
def test_warnings_of_many_shards_are_one_line_with_their_names(family: ModelFamily, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.tar").write_bytes(shard({f"{number}.png": picture(seed=number)}))
    encode([folder], tmp_path / "out", family)
    told = read_features(tmp_path / "out").warnings
    alike = [line for line in told if "have no caption" in line]
    assert len(alike) == 1 and alike[0].endswith("0.png; the same for 4 others: 1.tar, 2.tar, 3.tar, 4.tar")


@pytest.mark.slow
def test_after_ten_kills_the_features_are_those_of_an_undisturbed_run(
    family: ModelFamily, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert encode([shards], tmp_path / "whole", family) == [0, 1, 2]
    expected = contents(tmp_path / "whole")
    for moment in range(0, 30, 3):
        output = tmp_path / f"killed{moment}"
        assert killed_at(moment, lambda: encode([shards], output, family), monkeypatch), moment  # noqa: B023
        assert set(contents(output)) != set(expected)
        encode([shards], output, family)
        assert contents(output) == expected
    again = tmp_path / "again and again"
    kills = 0  # a shard takes 9 calls: each killed run finishes one
    while killed_at(12, lambda: encode([shards], again, family), monkeypatch):
        kills += 1
    assert kills >= 2 and contents(again) == expected


@pytest.mark.slow
def test_after_ten_kills_of_rays_actors_the_features_are_those_of_an_undisturbed_run(
    family: ModelFamily, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray restarts a killed actor while the others continue, so its unfinished files remain until all shards are
    encoded."""
    encode([shards], tmp_path / "whole", family)
    expected = contents(tmp_path / "whole")
    config = build_settings(DataConfig, OPTIONS)
    plan, alone = plan_features([str(shards)], config, family), settings_of_a_shard(config)
    for moment in (*range(0, 27, 3), 26):  # a shard takes 9 calls
        output = tmp_path / f"killed{moment}"
        encoder = ShardEncoder(lambda: (family, BASE), alone, plan.vae, output, Path.cwd())

        def work() -> None:
            for number, source in enumerate(plan.sources):
                if not record_of(output, number).is_file():  # noqa: B023
                    answer = encoder({"number": number, "source": source, "state": state_of(source)})  # noqa: B023
                    assert not answer["problem"] and not answer["trace"], answer

        with begun(plan, output):
            assert killed_at(moment, work, monkeypatch), moment
            work()
        assert contents(output) == expected, moment


def test_features_are_what_the_pictures_of_one_dataset_give(family: ModelFamily, shards: Path, tmp_path: Path) -> None:
    encode([shards], tmp_path / "features", family)
    features = read_features(tmp_path / "features").cached(torch.device("cpu"))
    prepared = []
    for number in range(SHARDS):
        config = settings_of_a_shard(build_settings(DataConfig, OPTIONS))
        output = tmp_path / f"prepared{number}"
        dataset = prepare([shards / f"{number}.tar"], config, output, BASE)
        prepared += list(cache_examples(dataset, family))
    for one, other in zip(features, prepared, strict=True):
        assert (one.caption, one.bucket, one.repeats) == (other.caption, other.bucket, other.repeats)
        (mine,), (its,) = ([view.load() for view in each.views] for each in (one, other))
        assert torch.equal(mine.moments, its.moments) and mine.size == its.size


def test_what_is_done_is_not_done_again(
    family: ModelFamily, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    whole = (shards / "1.tar").read_bytes()
    (shards / "1.tar").write_bytes(whole[:700])
    with pytest.raises(DatasetError, match=r"1.tar: [^\n]*Create the archive again"):
        encode([shards], output, family)
    assert [record_of(output, number).is_file() for number in range(SHARDS)] == [True, False, True]
    with pytest.raises(DatasetError, match=r"out: 1 of 3 shards are not encoded yet, the first is .*1.tar"):
        read_features(output)
    (shards / "1.tar").write_bytes(whole)
    done: list[str] = []

    def seen(sources: Sequence[str], *rest: Any) -> PreparedDataset:
        done.append(Path(sources[0]).name)
        return prepare(sources, *rest)

    monkeypatch.setattr(feature_encoding, "prepare", seen)
    assert encode([shards], output, family) == [0, 2, 1]
    assert done == ["1.tar"]


def test_an_outage_keeps_the_shards_before_it(s3: Store, family: ModelFamily, shards: Path, tmp_path: Path) -> None:
    s3.put("open", {path.name: path.read_bytes() for path in shards.iterdir()})
    s3.failing.add("/open/2.tar")
    with pytest.raises(
        DatasetError, match="^1 of 3 shards .*: s3://open/2.tar: cannot be read completely.*start again"
    ):
        encode(["s3://open/{0..2}.tar"], tmp_path / "out", family)
    assert record_of(tmp_path / "out", 1).is_file()
    s3.failing.clear()
    assert encode(["s3://open/{0..2}.tar"], tmp_path / "out", family) == [0, 1, 2]
    assert len(read_features(tmp_path / "out").examples) == 2 * SHARDS


def test_a_shard_without_usable_images_is_one_of_many(family: ModelFamily, shards: Path, tmp_path: Path) -> None:
    (shards / "1.tar").write_bytes(shard({"a.png": b"no picture", "b.txt": b"alone"}))
    encode([shards], tmp_path / "out", family)
    dataset = read_features(tmp_path / "out")
    assert len(dataset.examples) == 4 and {item.source for item in dataset.rejected} == {"a.png", "b.txt"}


def test_damaged_tensors_and_another_base_are_named(family: ModelFamily, shards: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    encode([shards], output, family)
    with pytest.raises(DatasetError, match="was encoded for the trigger word TOK; set trigger_word to it"):
        features_for(output, family, build_settings(DataConfig, {"trigger_word": "other"}))
    assert "resolution has no effect" in features_for(output, family, build_settings(DataConfig, OPTIONS)).warnings[-1]
    path = tensors_of(output, 1)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    for read in (lambda: read_features(output), lambda: encode([shards], output, family)):
        with pytest.raises(DatasetError, match=r"00001.safetensors: the file is damaged or missing. Delete 00001.json"):
            read()
    record_of(output, 1).unlink()
    encode([shards], output, family)
    plan = json.loads((output / "features.json").read_text())
    (output / "features.json").write_text(json.dumps({**plan, "vae": "0" * 16}))
    with pytest.raises(DatasetError, match="was encoded with another VAE"):
        features_for(output, family, build_settings(DataConfig, {}))


def test_a_folder_that_was_begun_otherwise_is_refused(family: ModelFamily, shards: Path, tmp_path: Path) -> None:
    encode([shards], tmp_path / "out", family)
    others: dict[str, object] = {"resolution": 128, "crop": "centre"}
    for name, value in others.items():
        with pytest.raises(DatasetError, match=f"was started with other settings: {name} differs"):
            encode([shards], tmp_path / "out", family, **{name: value})
    with pytest.raises(DatasetError, match="was started with other settings: sources differ"):
        encode([shards / "0.tar"], tmp_path / "out", family)
    with pytest.raises(ConfigError, match="^concepts: needs all images together"):
        encode([shards], tmp_path / "2", family, class_word=None, concepts=[{"trigger_word": "ANN"}])


def test_what_features_cannot_have_is_refused(
    family: ModelFamily, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="^max_train_samples: needs all images together"):
        encode([shards], tmp_path / "1", family, max_train_samples=2)
    with pytest.raises(ConfigError, match="^control: canny: features contain no conditioning images"):
        encode([shards], tmp_path / "1", family, control="canny")
    options = ["--class_word", "robot", "--num_class_images", "4", "--captioner", "none"]
    assert main([str(shards), "--output", str(tmp_path / "1"), *options]) == 2
    assert "num_class_images: the preservation set needs all images together" in capsys.readouterr().err
    assert not (tmp_path / "1").exists()


def test_no_usable_image_is_an_error_with_the_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "0.tar").write_bytes(shard({"broken.png": b"no image", "broken.txt": b"a robot"}))
    options = ["--base_model", "mini-sdxl", "--class_word", "robot", "--captioner", "none", "--resolution", "64"]
    assert main([str(tmp_path / "0.tar"), "--output", str(tmp_path / "out"), *options]) == 1
    said = capsys.readouterr()
    assert "0 images, 2 files not used: " in said.out and "broken.png" in said.out
    assert "0.tar can be used" in said.err


def test_features_are_trained_with_the_settings_that_they_have(
    family: ModelFamily, shards: Path, tmp_path: Path
) -> None:
    encode([shards / "0.tar"], tmp_path / "out", family, trigger_word="", class_word=None)

    def opened(**options: object) -> list[str]:
        dataset = features_for(tmp_path / "out", family, build_settings(DataConfig, options))
        return [line for line in dataset.warnings if "has no effect" in line]

    with pytest.raises(DatasetError, match='was encoded for the trigger word "";'):
        opened(trigger_word="TOK")
    with pytest.raises(DatasetError, match=r"without conditioning images \(control: canny\)"):
        opened(trigger_word="", control="canny")
    assert opened(trigger_word="", mask="none") == []
    assert opened(trigger_word="", mask="alpha")[0].startswith("mask has no effect: out is already encoded")


def test_no_class_images_are_drawn_for_features(tmp_path: Path) -> None:
    (tmp_path / "features.json").touch()
    config = TrainingConfig(class_word="robot", num_class_images=4, captioner="none")
    job: Any = SimpleNamespace(config=config, state=None, sources=[tmp_path], progress=lambda line, warning: line)
    (line,) = _with_class_images(job)
    assert "num_class_images has no effect" in str(line)


@pytest.mark.slow
def test_the_command_encodes_and_training_from_it_is_that_of_the_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_sd15(tmp_path / "base")
    common = {"base_model": str(base), "class_word": "robot", "captioner": "none"}
    options = [text for name, value in common.items() for text in (f"--{name}", value)]
    archive = tmp_path / "robots.tar"
    broken = tmp_path / "broken.tar"
    _as_tar(EXAMPLE, archive)
    broken.write_bytes(archive.read_bytes()[:700])
    both = [str(broken), str(archive), "--output", str(tmp_path / "features"), *options]
    assert main(both) == 1
    told, last = capsys.readouterr().err.splitlines()
    assert told == f"not encoded: {broken}: {CUT}"
    assert last == f"error: 1 of 2 shards are not encoded; the same command continues with them: {broken}: {CUT}"
    broken.write_bytes(shard({"a.txt": b"no picture"}))
    assert main(both) == 0
    losses = []
    for name, source, crop in (("a", archive, 0.0), ("b", tmp_path / "features", None)):
        config = TrainingConfig(
            **common,
            max_train_steps=3,
            train_batch_size=2,
            rank=2,
            num_tokens=1,
            num_validation_images=0,
            max_extra_crop=crop,
        )
        output = OutputFolder.create(tmp_path / name)
        list(run(config, [source], output))
        losses.append([json.loads(line)["losses"] for line in output.metrics.read_text().splitlines()])
        assert output.page.is_file()
    assert losses[0] == losses[1]


def _as_tar(archive: Path, target: Path) -> None:
    import zipfile

    with zipfile.ZipFile(archive) as source, tarfile.open(target, "w") as sink:
        for name in source.namelist():
            data = source.read(name)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            sink.addfile(info, io.BytesIO(data))
