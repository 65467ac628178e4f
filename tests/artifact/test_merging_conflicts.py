"""Tests of TIES and DARE against their definitions, entry by entry, and of the merged files."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from artifact.artifact import Artifact
from artifact.errors import ArtifactError
from artifact.layers import LoraLayer
from artifact.merging.conflicts import dare, ties
from artifact.merging.merge import Mode, merge
from tests.artifact.test_formats import deltas

MODULE = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
GENERATOR = torch.Generator()


def changes(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(6, 5, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties_is_its_algorithm_entry_by_entry(density: float) -> None:
    parts = changes()
    kept = round(density * 30)
    bounds = [sorted((abs(value) for value in part.flatten().tolist()), reverse=True)[kept - 1] for part in parts]
    expected = torch.zeros(6, 5)
    for row in range(6):
        for column in range(5):
            values = [float(part[row, column]) for part in parts]
            values = [value if abs(value) >= bound else 0.0 for value, bound in zip(values, bounds, strict=True)]
            agreeing = [value for value in values if value * sum(values) > 0]
            expected[row, column] = sum(agreeing) / len(agreeing) if agreeing else 0.0
    torch.testing.assert_close(ties(parts, density, GENERATOR), expected)


def test_ties_of_one_change_that_keeps_all_is_that_change() -> None:
    (only,) = changes(1)
    assert torch.equal(ties([only], 1.0, GENERATOR), only)
    assert torch.equal(ties([only, only], 1.0, GENERATOR), only)
    assert not ties([only, -only], 1.0, GENERATOR).any()


def test_dare_drops_the_share_and_expects_the_sum() -> None:
    one, other = torch.full((200, 200), 2.0), torch.full((200, 200), -0.5)
    merged = dare([one, other], 0.25, torch.Generator().manual_seed(0))
    assert set(merged.unique().tolist()) == {0.0, 8.0, -2.0, 6.0}
    assert (merged == 0).float().mean().item() == pytest.approx(0.75**2, abs=0.01)
    assert merged.mean().item() == pytest.approx(1.5, abs=0.05)
    assert torch.equal(dare([one, other], 1.0, GENERATOR), one + other)


@pytest.fixture
def two(tmp_path: Path) -> Sequence[Path]:
    """Two files as kohya writes them, with different ranks and alphas."""
    files = []
    for number, (rank, alpha) in enumerate([(2, 1.0), (3, 6.0)]):
        generator = torch.Generator().manual_seed(number)
        tensors = {f"{MODULE}.lora_down.weight": torch.randn(rank, 8, generator=generator),
                   f"{MODULE}.lora_up.weight": torch.randn(7, rank, generator=generator),
                   f"{MODULE}.alpha": torch.tensor(alpha)}  # fmt: skip
        files.append(tmp_path / f"{number}.safetensors")
        save_file(tensors, files[-1])
    return files


@pytest.mark.parametrize("mode", ["ties", "dare"])
def test_the_file_is_the_merge_where_its_rank_is_enough(mode: Mode, two: Sequence[Path], tmp_path: Path) -> None:
    """Weights and alphas are applied before the merge. At a lower rank, the error is that of the best approximation."""
    target = tmp_path / "merged.safetensors"
    outcome = merge(two, [0.7, -1.5], target, mode, 7, density=0.4)
    ((_, one),), ((_, other),) = (deltas(path).items() for path in two)
    combine = {"ties": ties, "dare": dare}[mode]
    expected = combine([0.7 * one, -1.5 * other], 0.4, torch.Generator().manual_seed(0))
    ((_, found),) = deltas(target).items()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert outcome.error < 1e-5
    total = 0.7 * one - 1.5 * other
    apart = float((expected - total).norm() / total.norm())
    assert outcome.left_out == [
        f"{mode} with density 0.4: distance from the plain sum {apart:.4g}, relative to its norm"
    ]
    low = merge(two, [0.7, -1.5], tmp_path / "low.safetensors", mode, 2, density=0.4)
    values = torch.linalg.svdvals(expected.double()) ** 2
    assert low.error == pytest.approx(float(values[2:].sum() / values.sum()) ** 0.5, rel=1e-4)
    (layer,) = Artifact.read(tmp_path / "low.safetensors").layers.values()
    assert isinstance(layer, LoraLayer) and layer.rank == 2


@pytest.mark.parametrize(
    ("mode", "rank", "density", "message"),
    [
        ("ties", None, None, "--mode ties: give --rank"),
        ("dare", 4, 0.0, "--density: 0 must be above 0"),
        ("dare", 4, 1.5, "--density: 1.5 must be above 0"),
        ("concat", None, 0.5, "--density is only supported with --mode ties and dare, not with concat"),
        ("linear", 4, None, "--rank is only supported with --mode svd, ties and dare, not with linear"),
    ],
)
def test_what_has_no_meaning_is_an_error(
    mode: Mode, rank: int | None, density: float | None, message: str, two: Sequence[Path], tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=message):
        merge(two, [1.0, 1.0], tmp_path / "merged.safetensors", mode, rank, density=density)
    assert not (tmp_path / "merged.safetensors").exists()
