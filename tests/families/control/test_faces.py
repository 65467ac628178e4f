"""Tests of faces as the condition of a ControlNet: their cells in its input, and random variation in each step."""

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from families.controls.faces import CORNERS, is_faces, painted
from settings.preparation import ControlSection
from trainer.noise.control_dropout import with_dropout
from trainer.randomness import NamedGenerators


def cells_one_by_one(faces: list[list[float]], height: int, width: int) -> list[list[list[float]]]:
    """The rule of the original code for one image, without tensors. Returns vectors by [row][column]."""
    cells = [[[0.0] * (len(faces[0]) - CORNERS) for _ in range(width)] for _ in range(height)]
    for left, top, right, bottom, *vector in faces:
        if not any(vector):
            continue
        first_x, first_y = min(round(left * width), width - 1), min(round(top * height), height - 1)
        for y in range(first_y, max(round(bottom * height), first_y + 1)):
            for x in range(first_x, max(round(right * width), first_x + 1)):
                cells[y][x] = vector
    return cells


@pytest.mark.parametrize("size", [(6, 6), (3, 9), (1, 1), (24, 18)])
def test_cells_are_those_of_the_boxes(size: tuple[int, int]) -> None:
    """The boxes are random and may overlap; one is tiny, one lies at the far edge, and some rows contain no face."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand((5, 4, 4), generator=generator).sort(dim=-1).values  # left < right, top < bottom
    faces = torch.cat([corners, torch.randn((5, 4, 7), generator=generator)], dim=-1)
    faces[0, 1, :CORNERS] = torch.tensor([0.99, 0.99, 1.0, 1.0])
    faces[1, 2, :CORNERS] = torch.tensor([0.5, 0.5, 0.5001, 0.5001])
    faces[2, 1:] = 0
    faces[3] = 0
    made = painted(faces, size)
    expected = torch.tensor([cells_one_by_one(each, *size) for each in faces.tolist()]).permute(0, 3, 1, 2)
    assert made.shape == (5, 7, *size)
    torch.testing.assert_close(made, expected)
    assert not made[3].any() and made[0, :, -1, -1].any()


def test_faces_and_pictures_are_distinguished() -> None:
    assert is_faces(torch.zeros(4, 132)) and is_faces(torch.zeros(2, 4, 132))
    assert not is_faces(torch.zeros((3, 8, 8), dtype=torch.uint8)) and not is_faces(torch.zeros(2, 3, 8, 8))


class Seen:
    """Stands in for the ControlNet, and keeps the conditions that it receives."""

    def __init__(self) -> None:
        self.faces: list[Tensor] = []

    def condition(self, pictures: Tensor, *_: Any) -> None:
        self.faces.append(pictures)


def drawn(faces: Tensor, times: int, **settings: float) -> Tensor:
    """Return the conditions of `times` steps: (times, B, N, 4 + P)."""
    seen = Seen()
    settings_of_faces = ControlSection.model_validate({"control": "faces", **settings})
    vary = with_dropout(cast(Any, seen), settings_of_faces, NamedGenerators(0))
    for _ in range(times):
        vary(faces.clone(), *cast(Any, [None] * 4))
    return torch.stack(seen.faces)


def faces_of_two() -> Tensor:
    """Return two faces for the first image, one for the second, and none for the third."""
    faces = torch.zeros(3, 2, 4 + 3)
    faces[0, :, 2:] = torch.tensor([[0.5, 0.5, 1, 0, 0], [0.25, 1, 0, 1, 0]])
    faces[1, 0, 2:] = torch.tensor([0.5, 0.5, 0, 0, 1])
    return faces


def test_faces_are_left_out_each_by_itself_and_fill_all_where_they_are_alone() -> None:
    """Shares in 2,000 steps lie within four standard deviations of the settings."""
    faces, times = faces_of_two(), 2000
    made = drawn(faces, times, control_dropout=0.2, control_full_share=0.3)
    there = made[..., CORNERS:].any(-1).float()
    spread = 4 * math.sqrt(0.16 / times)
    assert (there.mean(0) - torch.tensor([[0.8, 0.8], [0.8, 0], [0, 0]])).abs().max() < spread
    both = (there[:, 0, 0] * there[:, 0, 1]).mean()
    assert abs(both - 0.64) < 4 * math.sqrt(0.64 * 0.36 / times)  # independent
    whole = (made[:, 1, 0, :CORNERS] == torch.tensor([0.0, 0, 1, 1])).all(-1).float()
    assert abs(whole.mean() - 0.3) < 4 * math.sqrt(0.21 / times)
    assert torch.equal(made[:, 0, :, :CORNERS], faces[0, :, :CORNERS].expand(times, 2, 4))
    left = made[1:][there[1:] == 1]
    assert left[:, CORNERS:].norm(dim=-1).sub(1).abs().max() == 0


def test_without_shares_nothing_varies() -> None:
    assert torch.equal(drawn(faces_of_two(), 3, control_full_share=0.0), faces_of_two().expand(3, 3, 2, 7))
