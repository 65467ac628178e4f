"""Tests that Ray on two nodes encodes the same shards of features as one process, byte for byte, also when workers are
killed; and of the engine's options and errors."""

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from families.family import ModelFamily
from families.registry import load_base_model
from preprocess.errors import DatasetError
from preprocess.prepare import BaseRequirements
from service.features.command_line import main
from settings.preparation import DataConfig
from settings.record import build_settings
from tests.preprocess.uploads.ugly_uploads.making import picture, shard
from tests.tiny_models import write_sd15
from trainer.data import encoding_rounds, ray_encoding
from trainer.data.encoding_rounds import Answer, answer
from trainer.data.feature_encoding import SCRATCH
from trainer.data.feature_shards import FeaturePlan, record_of
from trainer.data.feature_sources import plan_features, settings_of_a_shard
from trainer.data.local_encoding import encode_features
from trainer.data.ray_encoding import ActorPool, ShardEncoder, encode_features_on_ray

SHARDS = 6
KILLS = 1
NODES = 2
LONGEST_WAIT = 60
"""Seconds in which Ray must have started a worker on each node."""
OPTIONS = {"resolution": 64, "captioner": "none", "class_word": "robot", "num_workers": 1}
BASE = BaseRequirements(8)


def write_shards(folder: Path) -> Path:
    folder.mkdir()
    for number in range(SHARDS):
        files = {f"{index}.png": picture(seed=2 * number + index) for index in range(2)}
        (folder / f"{number}.tar").write_bytes(shard({**files, "0.txt": b"a robot", "1.txt": b"a robot, again"}))
    return folder


def open_mortal(base: Path, log: Path) -> tuple[ModelFamily, BaseRequirements]:
    """Loads the base model in a worker. It kills its process at its second image, inside a shard, KILLS times in all.

    The first worker waits for one on the other node.
    """
    import ray

    family = load_base_model(str(base), torch.float32)
    torch.set_num_threads(1)
    (log / f"node-{ray.get_runtime_context().get_node_id()}").touch()
    latest = time.monotonic() + LONGEST_WAIT
    while len(list(log.glob("node-*"))) < NODES and time.monotonic() < latest:
        time.sleep(0.1)
    encode, seen = family.encode_image, 0

    def encode_image(pixels: Tensor) -> Tensor:
        nonlocal seen
        seen += 1
        if seen == 2 and len(kills := list(log.glob("killed-*"))) < KILLS:
            (log / f"killed-{os.getpid()}-{len(kills)}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(pixels)

    family.encode_image = encode_image  # type: ignore[method-assign]
    return family, BASE


def no_base() -> tuple[ModelFamily, BaseRequirements]:
    raise AssertionError("the base is not loaded here")


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster of two nodes with a core each, on this machine."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # with the default of 15, other tests would use all CPU time
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()  # another test may have started Ray
    node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()
    cluster.shutdown()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
@pytest.mark.usefixtures("two_nodes")
def test_killed_workers_and_a_cut_shard_cost_nothing_that_was_done(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    base = write_sd15(tmp_path / "base")
    shards = write_shards(tmp_path / "shards")
    family = load_base_model(str(base), torch.float32)
    config = build_settings(DataConfig, OPTIONS)
    plan, alone = plan_features([str(shards)], config, family), settings_of_a_shard(config)
    list(encode_features(plan, alone, BASE, family, tmp_path / "here"))
    expected = contents(tmp_path / "here")

    log, output = tmp_path / "log", tmp_path / "ray"
    log.mkdir()
    whole, written = (shards / "3.tar").read_bytes(), (shards / "3.tar").stat().st_mtime_ns
    (shards / "3.tar").write_bytes(whole[:700])
    encode = partial(encode_features_on_ray, plan, alone, partial(open_mortal, base, log), output)
    numbers: list[int] = []
    with pytest.raises(
        DatasetError, match=r"^1 of 6 shards are not encoded; the same command .*3.tar: .*Create the archive again"
    ):
        numbers.extend(number for number, _ in encode(ActorPool(gpus=0)))
    assert len(list(log.glob("killed-*"))) == KILLS and len(list(log.glob("node-*"))) == NODES
    before = {path: path.stat().st_mtime_ns for path in output.glob("0000*")}
    assert not record_of(output, 3).is_file() and len(before) == 2 * (SHARDS - 1)

    (shards / "3.tar").write_bytes(whole)
    os.utime(shards / "3.tar", ns=(written, written))  # the time is a part of the record
    assert sorted(number for number, _ in encode(ActorPool(most=1, gpus=0))) == list(range(SHARDS))
    assert contents(output) == expected
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())

    (output / "00000.json").unlink()
    with pytest.raises(DatasetError, match="no machine of the cluster has 5 cores .*Lower --cpus_per_worker"):
        list(encode(ActorPool(cpus=5, gpus=0)))


def test_shards_of_a_store_are_tried_again_after_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []

    def answers(ray: object, tasks: Sequence[Any], arguments: object, pool: ActorPool) -> Iterator[Answer]:
        asked.append([task["number"] for task in tasks])
        for task in tasks:
            failing = task["number"] == 1 or (task["number"] == 2 and len(asked) < 2)
            yield answer(task["number"], problem=f"{task['source']}: down" if failing else "")

    monkeypatch.setattr(ray_encoding, "_answers", answers)
    monkeypatch.setattr(ray_encoding, "_running_ray", lambda: nullcontext(SimpleNamespace()))
    monkeypatch.setattr(encoding_rounds, "read_record", lambda folder, number: number)
    plan = FeaturePlan("0" * 16, {}, ("a.tar", "s3://b/1.tar", "s3://b/2.tar", "c.tar"))
    config = build_settings(DataConfig, OPTIONS)
    done: list[int] = []
    with pytest.raises(DatasetError) as caught:
        done.extend(
            number for number, _ in encode_features_on_ray(plan, config, no_base, tmp_path / "out", ActorPool())
        )
    assert done == [0, 3, 2] and asked == [[0, 1, 2, 3], [1, 2], [1]]
    assert str(caught.value).startswith("1 of 4 shards are not encoded") and "s3://b/1.tar: down" in str(caught.value)
    assert json.loads((tmp_path / "out" / "features.json").read_text())["sources"][0] == "a.tar"


def test_a_shard_that_kills_its_workers_is_given_up_and_named(tmp_path: Path) -> None:
    encoder = ShardEncoder(no_base, build_settings(DataConfig, OPTIONS), "0" * 16, tmp_path, tmp_path)
    for attempt in range(ray_encoding.MOST_KILLS):
        (tmp_path / f"{SCRATCH}00007-{attempt}").mkdir()
    given_up = encoder({"number": 7, "source": "s3://b/7.tar", "state": ""})
    assert (
        given_up["problem"].startswith("s3://b/7.tar: 4 workers were killed while encoding it")
        and not given_up["trace"]
    )
    other = encoder({"number": 8, "source": "s3://b/8.tar", "state": ""})
    assert "cannot read" in other["setup"] and "shared disk" in other["setup"]  # the folder has no features.json


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "workers: only with --engine ray"),
        (["--engine", "ray", "--workers", "0"], "workers: 0 is out of range"),
        (["--engine", "ray", "--gpus_per_worker", "1.5"], "gpus_per_worker: 1.5 must be a fraction below 1"),
        (["--engine", "dask"], "invalid choice: 'dask'"),
    ],
)
def test_engine_options_that_cannot_be_are_one_line(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(SystemExit) if "dask" in options else nullcontext():
        assert main([str(tmp_path / "a.tar"), "--output", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_interrupt_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("service.features.command_line._encode", stopped)
    (tmp_path / "a.tar").write_bytes(b"")
    assert main([str(tmp_path / "a.tar"), "--output", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == "stopped; run the same command again to encode the remaining shards\n"


def test_without_ray_the_command_that_installs_it_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    (tmp_path / "a.tar").write_bytes(b"")
    assert main([str(tmp_path / "a.tar"), "--output", str(tmp_path / "out"), "--engine", "ray"]) == 2
    message = capsys.readouterr().err
    assert "needs the package ray, which is not installed: pip install -r requirements-ray.txt" in message


def test_under_a_launcher_of_processes_the_other_engine_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    (tmp_path / "a.tar").write_bytes(b"")
    assert main([str(tmp_path / "a.tar"), "--output", str(tmp_path / "out")]) == 2
    assert "without torchrun or accelerate; --engine ray" in capsys.readouterr().err
