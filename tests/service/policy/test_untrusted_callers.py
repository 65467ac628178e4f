"""Tests of untrusted callers at the real Cog server: the operator's settings hold, no file of the disk is returned."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load, save_file

from service.policy.policy import operators_settings
from service.policy.rules import LIST_OF
from service.prediction_inputs import PredictionInputs
from settings.training import TrainingConfig
from tests.conftest import EXAMPLE, PROJECT
from tests.local_site import PublishingHub
from tests.service.cog_server import CogServer, data_uri, decode

pytestmark = pytest.mark.slow

MARKER = b"MARKER-OF-THE-OPERATORS-DISK"
OPERATORS = {"HF_TOKEN": "hf_markerOfTheOperator", "WANDB_API_KEY": "markerOfTheOperatorsKey"}
CALLERS_TOKEN, CALLERS_KEY = "hf_markerOfTheCaller", "markerOfTheCallersKey"
QUICK: dict[str, Any] = {
    "base_model": "mini-sdxl", "max_train_steps": 1, "rank": 2, "class_word": "figure", "captioner": "none",
}  # fmt: skip
SETTINGS = {"num_validation_images": 1, "num_inference_steps": 1, "resolution": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files on the server's disk: an archive, a base, a text, a LoRA."""
    disk = tmp_path_factory.mktemp("operators-disk")
    shutil.copy(EXAMPLE, disk / "private.zip")
    shutil.copytree(PROJECT / "assets" / "mini-sdxl", disk / "private-base")
    (disk / "secret.txt").write_bytes(MARKER)
    save_file({}, disk / "private.safetensors", metadata={"marker": MARKER.decode()})
    return disk


@pytest.fixture(scope="module")
def hub() -> Iterator[PublishingHub]:
    """A fake hub that accepts the caller's token only."""
    started = PublishingHub(CALLERS_TOKEN)
    yield started
    started.server.shutdown()
    started.server.server_close()


@pytest.fixture(scope="module")
def server(folder: Path, hub: PublishingHub) -> Iterator[CogServer]:
    environment = {
        "OUTPUTS_FOLDER": str(folder / "jobs"), "ALLOWED_HUB_TARGETS": "me/*", "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1", **OPERATORS,
    }  # fmt: skip
    with CogServer("train", folder / "train.log", environment) as started:
        yield started


def refused(server: CogServer, route: str, inputs: dict[str, Any]) -> str:
    answer = server.post(route, inputs)
    assert answer["status"] == "failed", inputs
    return str(answer["error"])


def in_config(**values: Any) -> dict[str, Any]:
    return {**QUICK, "input_images": data_uri(EXAMPLE, "application/zip"), "config": yaml.safe_dump(values)}


def test_each_operators_setting_is_refused_by_name(server: CogServer, folder: Path, disk: Path) -> None:
    text, base = str(disk / "secret.txt"), str(disk / "private-base")
    whole_model = {"adapter": "full", "learning_rate": 1e-5, "save_model": "diffusers"}
    posted: dict[str, dict[str, Any]] = {
        "preservation_data": {"preservation_data": str(disk / "private.zip")},
        "face_detector_model": {"face_detector_model": text, "crop": "face"},
        "face_recognition_model": {"face_recognition_model": text, "crop": "face"},
        "compile_cache": {"compile_cache": str(disk), "compile": "auto"},
        "evaluation_face_model": {"evaluation_face_model": text, "evaluate": True},
        "trust_remote_code": {"trust_remote_code": True},
        "trackers": {"trackers": ["wandb"]},
        "init_weights": {"init_weights": text},
        "training_adapter": {"training_adapter": text},
        "sources": {"sources": [{"source": str(disk)}]},
        "base_revision": {"base_revision": "refs/pr/1"},
        "validation_prompts_file": {"validation_prompts_file": text},
        "save_model": whole_model,
        "save_model_precision": {**whole_model, "save_model_precision": "fp16"},
    }
    assert posted.keys() == operators_settings()
    for name, values in posted.items():
        inputs = in_config(**values)
        if values.get("adapter") == "full":
            del inputs["rank"]
        message = refused(server, "trainings", inputs)
        assert f"{name}: " in message and "CALLERS_MAY_SET" in message and MARKER.decode() not in message
    models = [name for name in LIST_OF if name in TrainingConfig.model_fields]
    for name, variable in ((name, LIST_OF[name]) for name in models):
        for model in ("someone/model", base, text, "assets/../../etc"):
            inputs = in_config(**{name: model, **({"evaluate": True} if name.startswith("evaluation") else {})})
            if name in ("base_model", "captioner"):
                inputs |= {name: model, "config": ""}
            message = refused(server, "trainings", inputs)
            assert f"{name}: " in message and variable in message, message
    for values, variable in (
        ({"push_to_hub": "you/robot"}, "ALLOWED_HUB_TARGETS"),
        ({"push_to_hub": "me/robot"}, "hf_token"),
        ({"num_inference_steps": 1000}, "LIMIT_NUM_INFERENCE_STEPS"),
        ({"max_image_pixels": 10**12}, "LIMIT_MAX_IMAGE_PIXELS"),
    ):
        assert variable in refused(server, "trainings", in_config(**values))
    message = refused(server, "trainings", {**in_config(), "preservation_data": str(disk / "private.zip")})
    assert "preservation_data: " in message and "is not an upload" in message
    assert not (folder / "jobs").exists()  # nothing was started
    server.wait_until_ready(5)


@pytest.fixture(scope="module")
def published(server: CogServer, disk: Path) -> dict[str, Any]:
    """The answer to a training that was published with the caller's token."""
    inputs = {
        **in_config(push_to_hub="me/robot", **SETTINGS), "hf_token": CALLERS_TOKEN, "return_extras": True,
        "preservation_data": data_uri(EXAMPLE, "application/zip"),
    }  # fmt: skip
    answer = server.post("trainings", inputs)
    assert answer["status"] == "succeeded", answer
    return answer


def test_secrets_are_used_for_their_job_and_written_nowhere(
    published: dict[str, Any], server: CogServer, folder: Path, hub: PublishingHub, disk: Path
) -> None:
    assert "published: " in published["logs"]
    output = published["output"]
    returned = b"".join(decode(output[name]) for name in ("weights", "embeddings", "report"))
    returned += b"".join(hub.committed["me/robot"].values())
    (job,) = (folder / "jobs").iterdir()
    written = b"".join(path.read_bytes() for path in job.rglob("*") if path.is_file())
    told = (published["logs"] + str(published["metrics"])).encode() + (folder / "train.log").read_bytes()
    for secret in (CALLERS_TOKEN, *OPERATORS.values()):
        for place in (returned, written, told):
            assert secret.encode() not in place
    assert hub.seen and not any(OPERATORS["HF_TOKEN"] in str(headers) for _, headers in hub.seen)
    assert str(disk).encode() not in returned and MARKER not in returned + written
    failed = server.post("trainings", {**in_config(trackers=["wandb"]), "wandb_api_key": CALLERS_KEY})
    assert failed["status"] == "failed"  # W&B is not installed, or rejects the key
    assert CALLERS_KEY not in failed["error"] and CALLERS_KEY.encode() not in (folder / "train.log").read_bytes()


def test_predictions_keep_to_the_lists_and_the_required_checker(
    published: dict[str, Any], folder: Path, disk: Path
) -> None:
    lora = naming_a_base(decode(published["output"]["weights"]), disk / "private-base", folder / "changed.safetensors")
    with CogServer("predict", folder / "predict.log", OPERATORS) as server:
        drawn = {"prompt": "a photo", "num_inference_steps": 2, "base_model": "mini-sdxl"}
        for name in (name for name in LIST_OF if name in PredictionInputs.__dataclass_fields__):
            for model in ("someone/model", str(disk / "private-base"), str(disk / "secret.txt")):
                message = refused(server, "predictions", {**drawn, name: model})
                assert f"{name}: " in message and "ALLOWED_BASE_MODELS" in message
        header = refused(server, "predictions", {"prompt": "a photo", "lora": data_uri(lora)})
        assert "base_model: " in header and "ALLOWED_BASE_MODELS" in header
        for name in ("lora", "replicate_weights"):
            message = refused(server, "predictions", {**drawn, name: str(disk / "private.safetensors")})
            assert "neither an upload, nor a URL, nor a hub id" in message and MARKER.decode() not in message
        for name in ("image", "mask"):
            assert "is not an upload" in refused(server, "predictions", {**drawn, name: str(disk / "secret.txt")})
        assert "LIMIT_PIXELS" in refused(server, "predictions", {**drawn, "width": 4096, "height": 4096})
        assert server.post("predictions", drawn)["status"] == "succeeded"
    assert MARKER not in (folder / "predict.log").read_bytes()


def naming_a_base(weights: bytes, base: Path, path: Path) -> Path:
    """Write the LoRA with a header that names a folder on the server's disk as its base, and return its path."""
    length = int.from_bytes(weights[:8], "little")
    metadata = json.loads(weights[8 : 8 + length])["__metadata__"]
    changed = {name: value.replace("mini-sdxl", str(base)) for name, value in metadata.items()}
    assert changed != metadata
    save_file(load(weights), path, metadata=changed)
    return path
