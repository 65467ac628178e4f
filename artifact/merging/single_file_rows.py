"""Locates the rows of a module's weight in a single-file checkpoint.

Such files use Stability's names, with queries, keys and values in one tensor. diffusers' own converters are run over
tensors of row numbers, so no separate table of names can differ from theirs.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from artifact.errors import ArtifactError
from artifact.names.components import DENOISER, Place, text_encoders
from families.family import ModelFamily
from families.loading.single_file_rows import converted_denoiser, converted_text_encoder


@dataclass(frozen=True)
class Rows:
    """Rows of a file's tensor, in the module's order."""

    tensor: str
    numbers: Tensor


@dataclass(frozen=True)
class RowTable:
    """`converted`: row numbers by component and parameter. `starts`: the first number of each of `tensors`."""

    converted: Mapping[str, Mapping[str, Tensor]]
    tensors: list[str]
    starts: list[int]

    def find(self, place: Place, kind: str) -> Rows:
        """Return the rows of a module's parameter. `kind`: weight or bias. Raises ArtifactError when they are not
        contiguous rows of the file."""
        if place.component not in self.converted:
            raise ArtifactError(
                f"{place.component} {place.path} is not in the single file. Merge onto a folder in diffusers' layout "
                "instead."
            )
        table = self.converted[place.component]
        bare = place.path.removeprefix("text_model.")
        numbers = next((table[key] for key in (f"{bare}.{kind}", f"text_model.{bare}.{kind}") if key in table), None)
        if numbers is None or numbers.numel() != numbers.shape[0]:
            raise ArtifactError(
                f"{place.component} {place.path}: its {kind} is not stored as rows of a tensor in the single file. "
                "Merge onto a folder in diffusers' layout instead."
            )
        flat = numbers.flatten()
        index = bisect_right(self.starts, int(flat[0])) - 1
        return Rows(self.tensors[index], flat - self.starts[index])


def rows_of(tensors: Mapping[str, Tensor], family: ModelFamily) -> RowTable:
    """Build the table for a checkpoint of the given family."""
    names, starts, stand_ins, count = list[str](), list[int](), dict[str, Tensor](), 0
    for name, tensor in tensors.items():
        rows = tensor.shape[0] if tensor.ndim else 1
        names.append(name)
        starts.append(count)
        numbers = torch.arange(count, count + rows)
        stand_ins[name] = numbers.reshape(rows, *(1 for _ in tensor.shape[1:])) if tensor.ndim else numbers[0]
        count += rows
    converted = {DENOISER: converted_denoiser(stand_ins, family)}
    for number, name in enumerate(text_encoders(family)):
        converted[name] = converted_text_encoder(stand_ins, family, number)
    return RowTable(converted, names, starts)
