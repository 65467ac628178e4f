"""Tests of the real Cog server: trainings, predictions, and failures."""

import io
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load

from artifact.artifact import Artifact
from artifact.placement.placing import PlacedArtifacts
from tests.conftest import EXAMPLE, PROJECT
from tests.families.test_family_files import predict
from tests.sampler.test_safety_checker import write_checker
from tests.service.cog_server import CogServer, data_uri, decode
from tests.tiny_models import opened, write_z_image
from tests.warm_process import run_warm

pytestmark = pytest.mark.slow

PROMPT = "a photo of TOK on a blue background"
QUICK = {
    "base_model": "mini-sdxl", "max_train_steps": 6, "rank": 4, "class_word": "figure", "learning_rate": 2e-3,
    "config": "num_validation_images: 1\nnum_inference_steps: 4",
}  # fmt: skip
DRAWN = {"prompt": PROMPT, "num_outputs": 2, "num_inference_steps": 4, "seed": 11}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def server(outputs: Path) -> Iterator[CogServer]:
    """A server that forks its trainings, from the kept base if it is theirs. The server of
    policy/test_untrusted_callers.py starts them as new processes. Each process may use two threads."""
    environment = {
        "KEEP_BASE": "1", "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive",
        "OUTPUTS_FOLDER": str(outputs), "LIMIT_MAX_TRAIN_STEPS": "100000",
        "ALLOWED_BASE_MODELS": f"mini-sdxl {outputs.resolve()}/*",
    }  # fmt: skip
    with CogServer("train", outputs / "server.log", environment) as started:
        yield started


@pytest.fixture(scope="module")
def images() -> dict[str, str]:
    return {"input_images": data_uri(EXAMPLE, "application/zip")}


@pytest.fixture(scope="module")
def weights(server: CogServer, images: dict[str, str], outputs: Path) -> Path:
    """The path of the weights that a training over HTTP has returned."""
    result = server.post("trainings", {**QUICK, **images, "return_extras": True})
    assert result["status"] == "succeeded", result
    assert result["metrics"]["progress"] == 1.0
    assert result["metrics"]["loss"] > 0 and result["metrics"]["eta_seconds"] == 0
    assert "step " in result["logs"] and "verified" in result["logs"]
    output = result["output"]
    assert load(decode(output["embeddings"])).keys() == {"clip_l", "clip_g"}
    assert b'"warnings"' in decode(output["report"])
    assert Image.open(io.BytesIO(decode(output["samples"][0]))).size == (64, 64)
    path = outputs / "returned.safetensors"
    path.write_bytes(decode(output["weights"]))
    return path


def pixels(uris: list[str]) -> list[bytes]:
    return [Image.open(io.BytesIO(decode(uri))).tobytes() for uri in uris]


def folders(outputs: Path) -> set[Path]:
    return set(outputs.glob("training-*"))


def running_trainings(server: CogServer) -> list[int]:
    """Return the process ids of trainings. Of the server's descendants, only they lead their own sessions."""
    started = (process.pid for process in psutil.Process(server.pid).children(recursive=True))
    found = []
    for pid in started:
        with suppress(ProcessLookupError):  # it has ended since
            if os.getsid(pid) == pid:
                found.append(pid)
    return found


def start_long_training(server: CogServer, images: dict[str, str], name: str) -> dict[str, Any]:
    """Start a training that would take hours. Returns its state once a step is done."""
    inputs = {**QUICK, **images, "max_train_steps": 100_000}
    assert server.put(f"trainings/{name}", inputs).status_code == 202
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        state: dict[str, Any] = server.put(f"trainings/{name}", inputs).json()
        if state.get("metrics", {}).get("loss"):
            return state
        time.sleep(0.3)
    raise AssertionError(f"no step within two minutes: {state}")


def test_the_plain_command_and_the_server_make_the_same_pictures(weights: Path, tmp_path: Path) -> None:
    """A server that starts with weights is compared, too: tests/artifact/test_four_ways.py."""
    plain = run_warm(
        ["predict.py", PROMPT, "--weights", str(weights), "--num_outputs", "2", "--num_inference_steps", "4",
         "--seed", "11", "--output", str(tmp_path / "plain")], PROJECT,
    )  # fmt: skip
    assert plain.returncode == 0, plain.stderr
    expected = [Image.open(path).tobytes() for path in plain.stdout.splitlines()]

    with CogServer("predict", tmp_path / "server.log", {"TRUSTED_CALLERS": "1"}) as started_bare:
        result = started_bare.post("predictions", {**DRAWN, "lora": data_uri(weights)})
        assert result["status"] == "succeeded", result
        assert pixels(result["output"]) == expected
        other = started_bare.post("predictions", {**DRAWN, "lora": data_uri(weights), "seed": 12})
        assert pixels(other["output"])[0] == expected[1]  # the seeds of a request are consecutive
        result = started_bare.post("predictions", {**DRAWN, "replicate_weights": data_uri(weights)})
        assert pixels(result["output"]) == expected
        bare = started_bare.post("predictions", {**DRAWN, "base_model": "mini-sdxl"})
        assert pixels(bare["output"]) != expected
        for wrong, message in (
            ({"lora": "data:application/octet-stream;base64,aGVsbG8="}, "not a readable .safetensors file"),
            ({"lora": "/etc/passwd"}, "neither an upload, nor a URL, nor a hub id"),
            ({"replicate_weights": "http://example.com/x"}, "only https"),
            ({"lora": data_uri(weights), "replicate_weights": data_uri(weights)}, "give only one of them"),
            ({"lora": "https://169.254.169.254/latest"}, "not an address of the public internet"),
            ({"base_model": "mini-sdxl", "image": "/etc/passwd"}, "is not an upload or a http(s) URL"),
            ({"base_model": "mini-sdxl", "width": 100}, "width: 100 must be a multiple of 16"),
            ({"base_model": "mini-sdxl", "refiner": "mini-sdxl"}, "refiner: mini-sdxl is a StableDiffusionXLPipeline"),
            ({"base_model": "mini-sdxl", "safety_checker": "x"}, "safety_checker: 'x' is neither an existing folder"),
        ):
            refused = started_bare.post("predictions", {**DRAWN, **wrong})
            assert refused["status"] == "failed"
            assert message in refused["error"]
        again = started_bare.post("predictions", {**DRAWN, "base_model": "mini-sdxl"})
        assert pixels(again["output"]) == pixels(bare["output"])  # failed requests do not change later ones

        first, second = (Image.open(io.BytesIO(decode(uri))).convert("RGB") for uri in bare["output"])
        checker = str(write_checker(tmp_path / "checker", first, [second]))
        checked = started_bare.post("predictions", {**DRAWN, "base_model": "mini-sdxl", "safety_checker": checker})
        assert pixels(checked["output"]) == pixels(bare["output"])[1:]
        assert checked["metrics"]["withheld_images"] == 1 and "image 1 of 2 (seed 11) was flagged" in checked["logs"]


def test_trainings_fork_from_the_base_of_the_one_before(
    weights: Path, server: CogServer, images: dict[str, str], outputs: Path
) -> None:
    """After a training has succeeded, one is cancelled, which ends promptly and saves what was trained, and one more
    succeeds. They use two threads each. A fork of a process that has used several threads may wait for a thread that
    it does not have, so the process that keeps the base uses only one."""
    before = folders(outputs)
    start_long_training(server, images, "cancelled")  # its repeated PUT requests start no further training
    (folder,) = folders(outputs) - before
    (training,) = map(psutil.Process, running_trainings(server))
    keeper = training.parent()
    assert keeper is not None and keeper.pid not in (server.pid, 1)
    assert keeper.num_threads() <= 2 < training.num_threads()  # OpenBLAS restarts its thread around a fork
    server.cancel("trainings/cancelled")
    assert server.wait_until_ready(5) < 5
    assert not running_trainings(server) and keeper.is_running()
    description = Artifact.read(folder / "weights.safetensors").description
    assert description is not None and 1 <= description.steps < 100_000
    result = server.post("trainings", {**QUICK, **images})
    assert result["status"] == "succeeded", result
    expected = load(weights.read_bytes())  # of a training that has read the base
    tensors = load(decode(result["output"]["weights"]))
    torch.testing.assert_close(tensors, expected, rtol=0, atol=0)
    assert keeper.is_running()
    assert (outputs / "server.log").read_text().count("mini-sdxl is kept in memory") == 1


def test_a_base_of_today_over_http(server: CogServer, images: dict[str, str], outputs: Path) -> None:
    """A tiny Z-Image Turbo: several resolutions, its own number of steps, and a warning that the base is distilled."""
    base = write_z_image(outputs / "z-image-turbo", turbo=True)
    settings = "resolution: [32, 48]\nnum_validation_images: 1"
    result = server.post("trainings", {**QUICK, **images, "base_model": str(base), "config": settings})
    assert result["status"] == "succeeded", result
    assert (
        "is distilled to generate images in 8 steps" in result["logs"]
        and "verified: the file reproduces" in result["logs"]
    )
    (outputs / "z-image.safetensors").write_bytes(decode(result["output"]["weights"]))
    artifact, family = Artifact.read(outputs / "z-image.safetensors"), opened(base)
    assert artifact.description is not None and artifact.description.config["resolution"] == [32, 48]
    assert artifact.description.config["num_inference_steps"] == 9
    bare = predict(family)
    PlacedArtifacts(family, [artifact])
    assert not torch.allclose(predict(family), bare)


def test_a_killed_training_fails_alone(server: CogServer, images: dict[str, str], outputs: Path) -> None:
    inputs = {**QUICK, **images, "max_train_steps": 100_000}
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor() as pool:
        answer = pool.submit(server.post, "trainings", inputs)
        deadline = time.monotonic() + 120
        while not list(outputs.glob("training-*/metrics.jsonl")) or not running_trainings(server):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        os.kill(running_trainings(server)[0], signal.SIGKILL)
        result = answer.result(timeout=60)
    assert result["status"] == "failed"
    assert "killed by SIGKILL" in result["error"] and "probably out of memory" in result["error"]
    server.wait_until_ready(5)
    assert server.post("trainings", {**QUICK, **images, "max_train_steps": 1})["status"] == "succeeded"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_images": "data:application/zip;base64,aGVsbG8="}, "neither a zip nor a tar archive"),
        ({"input_images": "/etc/passwd"}, "is not an upload or a http(s) URL"),
        ({}, "input_images: is missing"),
        ({"config": "learning_rat: 1"}, "learning_rat: unknown setting; did you mean learning_rate?"),
        ({"max_train_steps": 0}, "max_train_steps: Input should be greater than or equal to 1"),
        (
            {"base_model": "no-such-base"},
            "base_model: 'no-such-base' is not one of the models that the operator allows",
        ),
    ],
)
def test_bad_input_fails_with_reason_and_remedy(
    inputs: dict[str, Any], message: str, server: CogServer, images: dict[str, str]
) -> None:
    given = {**QUICK, **images, **inputs} if inputs else QUICK
    result = server.post("trainings", given)
    assert result["status"] == "failed"
    assert message in result["error"]
    server.wait_until_ready(5)
