"""The W4A16 kernel, run by Triton's interpreter where there is no GPU: equal to the dequantized weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantlab import kernels
from quantlab.errors import QuantlabError
from quantlab.kernels.check import check_kernel

NEAR = 2e-3  # a float16 output rounds at 5e-4 of itself; the sums themselves are in float32


@pytest.mark.parametrize(
    ("n", "k", "group", "batch"),
    [(64, 512, 128, 1), (64, 512, 128, 5), (33, 256, 32, 2), (16, 1152, 64, 1), (1, 128, 128, 1)],
)
def test_the_kernel_agrees_with_the_dequantized_weights(n: int, k: int, group: int, batch: int) -> None:
    done = check_kernel(n, k, group, batch)
    assert done.error < NEAR
    assert done.nbytes == n * k // 2 + 2 * n * k // group + 2 * batch * (n + k)
    assert (done.microseconds is None) == (done.where == "interpreter")


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    code = """
import torch
from quantlab.kernels.w4a16 import matmul
x, packed, scale = torch.ones(1, 64).half(), torch.zeros(4, 8, dtype=torch.int32), torch.ones(4, 2).half()
for wrong in ((x[:, :32], packed, scale), (x, packed.short(), scale), (x, packed, scale[:3]), (x.int(), packed, scale)):
    try:
        matmul(*wrong)
    except ValueError as error:
        print(error)
"""
    env = kernels.environment() | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    said = done.stdout.splitlines()
    assert [line.split(" must be")[0] for line in said] == ["packed", "packed", "scale", "the inputs"]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("8 * 16**place", "7 * 16**place"),
        ("code(words, i)", "code(words, 7 - i)"),
        ("words >> 20", "words >> 16"),
        ("8 * j + i, mask", "j + i, mask"),
        ("// GROUP)[None, :],", "// GROUP * 0)[None, :],"),
    ],
    ids=["zero point", "nibble order", "upper codes", "inputs", "scales"],
)
def test_mutants_are_caught(right: str, wrong: str, tmp_path: Path) -> None:
    """Each wrong kernel is run like the right one, and must be far off."""
    source = Path(kernels.__file__).with_name("w4a16.py").read_text(encoding="utf-8")
    assert source.count(right) == 1
    mutant = tmp_path / "mutant.py"
    mutant.write_text(source.replace(right, wrong), encoding="utf-8")
    code = """
import torch
import mutant
from quantlab.formats.catalog import get
dice = torch.Generator().manual_seed(0)
W, x = torch.randn(16, 256, generator=dice), torch.randn(2, 256, generator=dice).half()
Q = get("int4_g128", group=32).quantize(W)
y, right = mutant.matmul(x, Q.parts["weight_packed"], Q.parts["weight_scale"]), x.float() @ Q.dequantize().T
print(float((y - right).abs().max() / right.abs().max()))
"""
    env = kernels.environment() | {"TRITON_INTERPRET": "1"}
    env["PYTHONPATH"] += f"{os.pathsep}{tmp_path}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert float(done.stdout) > 10 * NEAR


def test_without_triton_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("quantlab.kernels.find_spec", lambda name: None)
    monkeypatch.setattr("quantlab.kernels.apart", lambda: tmp_path)
    assert "pip install" in str(kernels.available())
    with pytest.raises(QuantlabError, match="Triton is not here"):
        check_kernel()
