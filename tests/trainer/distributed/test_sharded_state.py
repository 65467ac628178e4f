"""Tests of optimizer states of sharded weights that are not rows of a weight."""

from pathlib import Path

import torch
from torch import nn

from trainer.checkpoints.sharded_state import outline, read_shards, write_shards


def test_a_table_that_all_weights_share_is_written_for_each(tmp_path: Path) -> None:
    """bitsandbytes' 8-bit optimizers have such a table."""
    table = torch.linspace(-1, 1, 256)
    state = {
        "optimizer": {str(number): {"table": table, "largest": torch.tensor([float(number)])} for number in range(2)}
    }
    shards = [nn.Parameter(torch.zeros(4, 8)) for _ in range(2)]
    write_shards(tmp_path / "shards", state, shards, 0)
    read = read_shards(tmp_path / "shards", outline(state), shards, 0)
    for number, each in enumerate(read["optimizer"].values()):
        assert torch.equal(each["table"], table) and each["largest"].item() == number
