"""Tests that a training step of Qwen-Image does not wait for the device, and compiles to few graphs."""

from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from tests.families.golden_curves import curve_config, curve_training
from tests.tiny_models import opened
from tests.tiny_qwen_image import write_qwen_image
from tests.trainer.execution.test_compile import SHAPES, losses_of
from tests.trainer.execution.test_device_reads import META, Copies
from trainer.data.batches import LatentBatch


@pytest.mark.slow
def test_a_step_reads_nothing_and_copies_without_waiting(tmp_path: Path) -> None:
    """The lengths of the text are kept on the CPU."""
    base = str(write_qwen_image(tmp_path / "base"))
    family = opened(Path(base))
    with curve_training(family, curve_config(base)) as training:
        batch = next(training.batches)
        family.denoiser.to(META)
        family.device = META  # type: ignore[misc]  # a property of the protocol
        masks = None if batch.masks is None else batch.masks.to(META)
        there = LatentBatch(
            batch.moments.to(META), batch.captions, batch.concepts, batch.sizes, masks, batch.weights.to(META)
        )
        training.trainer.backward(there, 1.0)  # copies what is only copied once
        with Copies() as copies:
            losses = training.trainer.backward(there, 1.0)
        trained = [each for each in family.denoiser.parameters() if each.requires_grad]
    assert copies.there > copies.blocking == 0
    assert {loss.device for loss in losses.values()} == {META}
    assert trained and all(each.grad is not None for each in trained)


@pytest.mark.slow
def test_no_graph_breaks_and_few_graphs(tmp_path: Path) -> None:
    """There are at most four graphs per shape: with the adapter on and off, for the first block and for the others.
    The input of the first block has no gradient."""
    torch._dynamo.reset()  # what other tests compiled
    counters.clear()
    base = str(write_qwen_image(tmp_path / "base"))
    family = opened(Path(base))
    compiled = losses_of(family, base, SHAPES, "eager")
    assert not counters["graph_break"]
    assert 0 < counters["stats"]["unique_graphs"] <= 4 * len(SHAPES)
    for ours, wanted in zip(compiled, losses_of(family, base, SHAPES, None), strict=True):
        assert ours == pytest.approx(wanted, rel=1e-4)
    torch._dynamo.reset()
