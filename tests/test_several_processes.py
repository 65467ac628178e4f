"""Two real processes train what one trains with the double batch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate import Accelerator

from tests.shared_training import shared_curve
from tests.tiny_models import write_sdxl

ROOT = Path(__file__).parent.parent
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=300)


@pytest.mark.slow
def test_losses_are_those_of_one_process_with_the_double_batch(tmp_path: Path) -> None:
    base = str(write_sdxl(tmp_path / "base"))
    result = run(*TORCHRUN, "-m", "tests.shared_training", base, str(tmp_path / "curve.json"))
    assert result.returncode == 0, result.stderr
    together = json.loads((tmp_path / "curve.json").read_text(encoding="utf-8"))
    alone = shared_curve(base, Accelerator(cpu=True))
    assert len(together) == len(alone) == 4
    for ours, wanted in zip(together, alone, strict=True):
        assert ours == pytest.approx(wanted, rel=1e-4)
