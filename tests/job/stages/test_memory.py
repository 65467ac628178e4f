"""The line on a GPU's memory."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from job.progress import Progress
from job.stage import Job
from job.stages.memory import memory_plan
from settings.training import build_config
from trainer.execution.peak_memory import StepMemory
from trainer.memory_plan import MemoryPlan


class Features:
    def to(self, _: object) -> "Features":
        return self


def job_on(device: str, batch: int | None = None) -> Job:
    stand_in = SimpleNamespace(
        device=torch.device(device),
        config=build_config({"train_batch_size": batch} if batch else {}),
        dataset=SimpleNamespace(examples=[None] * 3),
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
        return MemoryPlan(StepMemory(2 * 10**9, 10**8, 5 * 10**9), 10**9, True, 2)

    monkeypatch.setattr("job.stages.memory.plan", give)
    return images


@pytest.mark.parametrize(
    ("free", "warning", "end"), [(8, False, "; 8.0 GB are free"), (6, True, "train on a larger GPU")]
)
def test_the_line(free: int, warning: bool, end: str, asked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (free * 10**9, 80 * 10**9))
    (line,) = memory_plan(job_on("cuda"))
    beginning = "memory: 6.0 GB at the peak (2.0 GB of base weights, 0.10 GB for what is trained, 2 images at once"
    assert line.message.startswith(beginning) and line.message.endswith(end)
    assert line.warning == warning and asked == [3]
    list(memory_plan(job_on("cuda", 2)))
    assert asked == [3, 2]


def test_nothing_on_a_cpu(asked: list[int]) -> None:
    assert list(memory_plan(job_on("cpu"))) == [] and asked == []
