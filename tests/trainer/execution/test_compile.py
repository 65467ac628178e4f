"""Tests of compiled blocks: there are no graph breaks and few compilations, training is the same, and nothing is
compiled outside steps."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from families.family import ModelFamily
from families.parts.blocks import repeated_blocks
from families.parts.compiled_blocks import CompiledBlocks
from families.registry import load_base_model
from settings.record import ConfigError
from settings.training import build_config
from tests.families.golden_curves import curve_config, curve_training
from tests.tiny_models import write_sd3, write_sdxl
from trainer.data.batches import LatentBatch
from trainer.execution.compiled_steps import PAYS_FROM, STEPS_TO_MEASURE, CompiledSteps

Shapes = tuple[tuple[int, int], ...]
SHAPES: Shapes = ((16, 16), (16, 12))


@pytest.fixture(autouse=True)
def fresh_counters() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def of_shape(batch: LatentBatch, shape: tuple[int, int]) -> LatentBatch:
    height, width = shape
    masks = None if batch.masks is None else batch.masks[..., :height, :width]
    return replace(batch, moments=batch.moments[..., :height, :width], masks=masks)


def losses_of(family: ModelFamily, base: str, shapes: Shapes, backend: str | None) -> list[dict[str, float]]:
    """Returns the losses of one step with each of the bucket shapes, twice. `backend` None: not compiled."""
    with curve_training(family, curve_config(base, prior_matching_weight=0.5, prior_matching_interval=1)) as training:
        trainer, found = training.trainer, []
        if backend is not None:
            trainer.accumulation = CompiledSteps(
                trainer.accumulation, lambda: CompiledBlocks(family.denoiser, backend), True, lambda: 1
            )
        for shape in shapes * 2:
            batches = [of_shape(next(training.batches), shape)]
            losses = trainer.accumulation.run(batches, trainer.backward)
            for trainable in trainer.trainables:
                trainable.update()
            found.append({name: float(loss) for name, loss in losses.items()})
        assert all(block._compiled_call_impl is None for block in repeated_blocks(family.denoiser))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "backend", "shapes"), [(write_sdxl, "eager", SHAPES), (write_sd3, "eager", SHAPES[:1])]
)
def test_no_graph_breaks_and_few_graphs(write: Any, backend: str, shapes: Shapes, tmp_path: Path) -> None:
    base = str(write(tmp_path / "base"))
    family = load_base_model(base, torch.float32)
    compiled = losses_of(family, base, shapes, backend)
    assert not counters["graph_break"]
    # There are graphs with the adapter and gradients, and without both; of blocks of two widths, or with and without a
    # text stream; and of SD3's first block, whose input has no gradient.
    kinds = 4 if write is write_sdxl else 6
    assert 0 < counters["stats"]["unique_graphs"] <= kinds * len(shapes)
    for ours, wanted in zip(compiled, losses_of(family, base, shapes, None), strict=True):
        assert ours == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(("seconds", "pays"), [(1.0, False), (PAYS_FROM / 100, True)])
def test_a_run_is_compiled_only_where_it_is_long_enough(seconds: float, pays: bool) -> None:
    class Source:
        parts = 1

        def run(self, batches: Any, backward: Any) -> dict[str, torch.Tensor]:
            return {}

    class Blocks:
        def in_use(self) -> Any:
            return torch.no_grad()

    made: list[int] = []
    times = iter([0.0] + [100 + seconds * index for index in range(40)])

    def make() -> Any:
        made.append(1)
        return Blocks()

    steps = CompiledSteps(Source(), make, False, lambda: 100, lambda: next(times))
    for _ in range(3 * STEPS_TO_MEASURE):
        steps.run([], lambda batch, share: {})
    assert bool(made) is pays and len(made) <= 1


@pytest.mark.parametrize(
    "settings",
    [
        {"compile_cache": "folder"},
        {"compile": "always", "adapter_dropout": 0.1},
        {"compile": "auto", "mask": "subject", "class_word": "dog", "token_attention_weight": 0.1},
    ],
)
def test_what_does_not_go_together_is_an_error(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="compile: never"):
        build_config(settings)
