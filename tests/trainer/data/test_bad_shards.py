"""Tests of bad input of `encode`, with both engines: the error names it and a remedy, finished shards are kept, and the
next run continues.

Ray's actors are called in this process; `test_ray_encoding` runs Ray itself.
"""

import errno
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import s3fs
import torch
from safetensors.torch import save_file

from families.family import ModelFamily
from families.registry import load_base_model
from preprocess.errors import DatasetError, SetupError
from preprocess.prepare import BaseRequirements
from settings.preparation import DataConfig
from settings.record import build_settings
from tests.preprocess.sources.local_s3 import Store, s3
from tests.preprocess.sources.test_tables import dataset_of
from tests.preprocess.uploads.ugly_uploads.making import picture, shard
from tests.tiny_models import write_sd15
from trainer.data import feature_encoding, ray_encoding
from trainer.data.encoding_rounds import Answer, ShardsMissing, Task, Tell
from trainer.data.feature_shards import read_features, record_of
from trainer.data.feature_sources import plan_features, settings_of_a_shard
from trainer.data.local_encoding import encode_features
from trainer.data.ray_encoding import ActorPool, ShardEncoder, encode_features_on_ray

__all__ = ["s3"]
SHARDS = 4
BAD = 2
OPTIONS = {"resolution": 64, "captioner": "none", "class_word": "robot", "num_workers": 1}
BASE = BaseRequirements(8)
S3 = f"s3://open/{{0..{SHARDS - 1}}}.tar"
Encode = Callable[..., None]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> ModelFamily:
    torch.set_num_threads(1)
    return load_base_model(str(write_sd15(tmp_path_factory.mktemp("base") / "base")), torch.float32)


@pytest.fixture(params=["local", "ray"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def encode(engine: str, family: ModelFamily, monkeypatch: pytest.MonkeyPatch) -> Encode:
    """Encodes sources to a folder."""
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)

    def answers(ray: object, tasks: Sequence[Task], arguments: Any, pool: ActorPool) -> Iterator[Answer]:
        encoder = ShardEncoder(*arguments)
        yield from (encoder(task) for task in tasks)

    monkeypatch.setattr(ray_encoding, "_answers", answers)
    monkeypatch.setattr(ray_encoding, "_running_ray", lambda: nullcontext())

    def run(sources: Sequence[str], output: Path, tell: Tell = str, **options: object) -> None:
        config = build_settings(DataConfig, OPTIONS | options)
        plan, alone = plan_features(sources, config, family), settings_of_a_shard(config)
        if engine == "local":
            list(encode_features(plan, alone, BASE, family, output, tell))
        else:
            list(encode_features_on_ray(plan, alone, lambda: (family, BASE), output, ActorPool(gpus=0), tell))

    return run


def tar(number: int) -> bytes:
    return shard({"a.png": picture(seed=number), "a.txt": f"a robot, number {number}".encode()})


def put(store: Store, bucket: str = "open") -> None:
    store.put(bucket, {f"{number}.tar": tar(number) for number in range(SHARDS)})


def done_of(output: Path) -> list[int]:
    return [number for number in range(SHARDS) if record_of(output, number).is_file()]


ALL_BUT_THE_BAD_ONE = [number for number in range(SHARDS) if number != BAD]


def goes_on(encode: Encode, sources: Sequence[str], output: Path) -> None:
    """Encodes again, and asserts that finished shards are unchanged and the others are added."""
    before = {path: path.stat().st_mtime_ns for number in done_of(output) for path in output.glob(f"{number:05d}.*")}
    encode(sources, output)
    assert len(read_features(output).examples) == SHARDS
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


@pytest.mark.parametrize("fault", ["cut", "outage", "outage in the middle", "missing"])
def test_a_shard_of_a_store_that_fails_costs_itself_alone(
    fault: str, encode: Encode, s3: Store, tmp_path: Path
) -> None:
    put(s3)
    output, key = tmp_path / "out", f"{BAD}.tar"
    messages = {
        "cut": "truncated|cannot be read[^\n]*again",
        "outage": r"cannot be read completely \(\w+\). Check that the store is available",
        "outage in the middle": r"cannot be read completely \(\w+\). Check that the store is available",
        "missing": "does not exist. Check bucket, name and range",
    }
    faults: dict[str, Callable[[], object]] = {
        "cut": lambda: s3.client.put_object(Bucket="open", Key=key, Body=tar(BAD)[:700]),
        "outage": lambda: s3.failing.add(f"/open/{key}"),
        "outage in the middle": lambda: s3.halved.add(f"/open/{key}"),
        "missing": lambda: s3.client.delete_object(Bucket="open", Key=key),
    }
    faults[fault]()
    told: list[str] = []
    with pytest.raises(ShardsMissing, match=rf"^1 of {SHARDS} [^\n]*s3://open/{key}: [^\n]*({messages[fault]})"):
        encode([S3], output, told.append)
    assert done_of(output) == ALL_BUT_THE_BAD_ONE
    (line,) = told
    assert re.search(rf"^s3://open/{key}: [^\n]*({messages[fault]})[^.]*; it is tried again after the others$", line)
    with pytest.raises(DatasetError, match=rf"shards are not encoded yet, the first is s3://open/{key}"):
        read_features(output)
    s3.failing.clear()
    s3.halved.clear()
    s3.client.put_object(Bucket="open", Key=key, Body=tar(BAD))
    goes_on(encode, [S3], output)


def test_a_bucket_that_denies_access_is_named(encode: Encode, s3: Store, tmp_path: Path) -> None:
    put(s3)
    put(s3, "closed")
    sources = ["s3://open/{0..1}.tar", "s3://closed/{2..3}.tar"]
    s3.denied.add("closed")
    with pytest.raises(DatasetError, match=r"s3://closed/2.tar: access is denied. Set cred[^\n]*AWS_ACCESS_KEY_ID"):
        encode(sources, tmp_path / "out")
    assert done_of(tmp_path / "out") == [0, 1]
    s3.denied.clear()
    goes_on(encode, sources, tmp_path / "out")


def test_a_column_that_does_not_exist_and_a_table_without_rows_are_named(encode: Encode, tmp_path: Path) -> None:
    def table(number: int, column: str = "picture", rows: int = 1) -> bytes:
        buffer = io.BytesIO()
        pictures = [picture(seed=number)][:rows]
        texts = [f"a robot, number {number}"][:rows]
        dataset_of({column: pictures, "text": texts}, image=column).to_parquet(buffer)
        return buffer.getvalue()

    sources = [str(tmp_path / f"{number}.parquet") for number in range(SHARDS)]
    for number, source in enumerate(sources):
        Path(source).write_bytes(table(number))
    output, named = tmp_path / "out", {"image_column": "picture"}
    faults = {
        r"2.parquet: [^\n]*no column '?picture'?[^\n]*photo": table(BAD, "photo"),
        r"2.parquet: has no rows, so no images. Select another": table(BAD, rows=0),
    }
    for message, content in faults.items():
        Path(sources[BAD]).write_bytes(content)
        with pytest.raises(ShardsMissing, match=message):
            encode(sources, output, **named)
        assert done_of(output) == ALL_BUT_THE_BAD_ONE
    Path(sources[BAD]).write_bytes(table(BAD))
    goes_on(lambda data, folder: encode(data, folder, **named), sources, output)


def test_a_full_disk_is_named_and_what_is_done_stays(
    encode: Encode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [str(tmp_path / f"{number}.tar") for number in range(SHARDS)]
    for number, source in enumerate(sources):
        Path(source).write_bytes(tar(number))

    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if f"{BAD:05d}" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(feature_encoding, "save_file", full)
        with pytest.raises(SetupError, match=f"^[^ ]*{BAD}.tar: the disk of .*out is full. Free some space"):
            encode(sources, tmp_path / "out")
    assert done_of(tmp_path / "out") == list(range(BAD))
    goes_on(encode, sources, tmp_path / "out")


def test_a_disk_that_fills_while_a_store_is_read_is_no_fault_of_the_store(
    encode: Encode, s3: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3)
    told: list[str] = []
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("preprocess.uploads.archive._extract", Mock(side_effect=full))
    with pytest.raises(SetupError, match=r"^s3://open/0.tar: the disk of .*out is full. Free some space"):
        encode([S3], tmp_path / "out", told.append)
    assert not told and done_of(tmp_path / "out") == []


def test_a_model_of_preparation_that_is_missing_ends_at_once(encode: Encode, tmp_path: Path) -> None:
    sources = [str(tmp_path / f"{number}.tar") for number in range(SHARDS)]
    for number, source in enumerate(sources):
        Path(source).write_bytes(shard({"a.png": picture(seed=number)}))
    told: list[str] = []
    with pytest.raises(SetupError, match="none.onnx: the model file of the face detector does not exist"):
        encode(sources, tmp_path / "out", told.append, crop="face", face_detector_model=tmp_path / "none.onnx")
    assert not told and done_of(tmp_path / "out") == []


def test_shards_without_a_usable_image_are_an_error_of_the_training(encode: Encode, tmp_path: Path) -> None:
    for number in range(SHARDS):
        (tmp_path / f"{number}.tar").write_bytes(shard({"a.txt": b"a robot", "b.png": b"no picture"}))
    encode([str(tmp_path / f"{number}.tar") for number in range(SHARDS)], tmp_path / "out")
    with pytest.raises(DatasetError, match=f"out: none of the images in {SHARDS} shards was usable"):
        read_features(tmp_path / "out")


def test_a_shard_whose_tar_has_changed_is_encoded_again(encode: Encode, tmp_path: Path) -> None:
    sources, output, told = [str(tmp_path / f"{number}.tar") for number in range(SHARDS)], tmp_path / "out", list[str]()
    for number, source in enumerate(sources):
        Path(source).write_bytes(tar(number))
    encode(sources, output)
    Path(sources[0]).touch()  # the same content
    Path(sources[1]).unlink()
    other = tar(8)
    Path(sources[BAD]).write_bytes(other)
    before = {number: record_of(output, number).read_bytes() for number in range(SHARDS)}
    encode(sources, output, told.append)
    assert told == [f"{sources[BAD]}: has changed since it was encoded; it is encoded again"]
    assert [number for number in before if record_of(output, number).read_bytes() != before[number]] == [BAD]
    assert [example.caption for example in read_features(output).examples][BAD] == "a TOK robot, number 8"
    Path(sources[BAD]).write_bytes(other[:700])
    with pytest.raises(ShardsMissing, match="^1 of 4 shards"):
        encode(sources, output)
    assert done_of(output) == ALL_BUT_THE_BAD_ONE


def test_a_shard_whose_file_in_a_store_has_changed_is_encoded_again(encode: Encode, s3: Store, tmp_path: Path) -> None:
    put(s3)
    encode([S3], tmp_path / "out")
    told = list[str]()
    s3.client.put_object(Bucket="open", Key=f"{BAD}.tar", Body=tar(8))
    s3fs.S3FileSystem.clear_instance_cache()
    encode([S3], tmp_path / "out", told.append)
    assert told == [f"s3://open/{BAD}.tar: has changed since it was encoded; it is encoded again"]
    assert [example.caption for example in read_features(tmp_path / "out").examples][BAD] == "a TOK robot, number 8"
