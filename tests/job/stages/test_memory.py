"""Tests of the message about the memory of a GPU."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from families.precision.stored_blocks import Storage
from job.progress import Progress
from job.stage import Job
from job.stages.memory import memory_plan
from settings.training import build_config
from trainer.execution.peak_memory import StepCost
from trainer.memory_plan import Choice, MemoryPlan


class Features:
    def to(self, _: object) -> "Features":
        return self


def job_on(device: str, **settings: object) -> Job:
    stand_in = SimpleNamespace(
        device=torch.device(device),
        dtype=torch.bfloat16,
        plan=None,
        config=build_config(settings),
        family=SimpleNamespace(encode_prompts=lambda _: Features()),
        side=64,
        progress=lambda text, warning=False: Progress(text, 0.0, warning=warning),
    )
    return cast(Job, stand_in)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    images: list[int] = []

    def give(*given: Any) -> MemoryPlan:
        images.append(given[3].images)
        return MemoryPlan(StepCost(2 * 10**9, 10**8, 5 * 10**9, 10**12), 10**9, Choice(2, True, Storage("int8")), 3)

    monkeypatch.setattr("job.stages.memory.plan", give)
    return images


@pytest.mark.parametrize(
    ("free", "warning", "end"),
    [(8, False, "; 8.0 GB are free"), (6, True, "or use a larger GPU")],
)
def test_the_line(free: int, warning: bool, end: str, asked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (free * 10**9, 80 * 10**9))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "NVIDIA H200")
    job = job_on("cuda")
    (line,) = memory_plan(job, 3)
    beginning = (
        "memory: 6.0 GB at the peak (2.0 GB of base weights in int8, 0.10 GB for the adapter and its optimizer, 2 "
        "images"
    )
    assert line.message.startswith(beginning) and line.message.endswith(end)
    said = "about 0.011 s a step (an estimate: 3 TFLOP at 27% of 990 TFLOP/s, the peak of an H200 in bf16)"
    assert said in line.message and job.plan is not None and said in job.plan
    assert line.warning == warning and asked == [3]
    assert job.storage == Storage("int8") and job.config.base_precision == "int8" and job.config.offload == "never"
    list(memory_plan(job_on("cuda", train_batch_size=2), 3))
    assert asked == [3, 2]


@pytest.mark.parametrize(
    ("settings", "storage"),
    [
        ({}, Storage()),
        ({"base_precision": "nf4"}, Storage("nf4")),
        ({"base_precision": "fp8", "offload": "always"}, Storage("fp8", offloaded=True)),
    ],
)
def test_on_a_cpu_nothing_is_predicted(settings: dict[str, object], storage: Storage, asked: list[int]) -> None:
    job = job_on("cpu", **settings)
    assert list(memory_plan(job, 3)) == [] and asked == [] and job.plan is None
    assert job.storage == storage and job.config.base_precision == storage.precision
