"""The plan against what really is there: checkpoints that we write, and a model in this process's memory."""

import subprocess
import sys
from pathlib import Path

import pytest
from bench_plan import OWN_CHECKPOINTS, tensor_bytes, written

from quantlab.plan.memory import weights_bytes

BENCH = Path(__file__).resolve().parents[2] / "tools/bench_plan.py"


@pytest.mark.parametrize("fmt", OWN_CHECKPOINTS)
def test_a_checkpoint_has_the_planned_bytes(fmt: str, tmp_path: Path) -> None:
    real = tensor_bytes(written(tmp_path / "made", fmt))
    assert weights_bytes("tiny", fmt) == pytest.approx(real, rel=0.005)


def test_a_model_takes_the_planned_memory() -> None:
    run = subprocess.run([sys.executable, str(BENCH), "--resident"], capture_output=True, text=True, check=True)
    planned, resident = map(int, run.stdout.split()[-2:])
    assert planned == pytest.approx(resident, rel=0.05)
