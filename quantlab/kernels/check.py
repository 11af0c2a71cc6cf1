"""Run the W4A16 kernel and say how near it comes to the dequantized weights, and on a GPU how fast it is.

    python -m quantlab.kernels.check [--n N] [--k K] [--group G] [--batch M]

A process of its own, because Triton decides at its import whether it compiles or interprets. Prints one line of JSON:
`where` ("GPU" or "interpreter"), `error` (largest difference to x W_hat', as a share of the largest output), and on a
GPU `microseconds` (median), `bytes` (that must be read) and `gb_per_s`. In the interpreter time says nothing, so none
is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass

from quantlab.errors import QuantlabError
from quantlab.kernels import available, environment


@dataclass(frozen=True)
class Checked:
    """What the kernel did; microseconds and gb_per_s are None in the interpreter, where time says nothing."""

    where: str
    error: float
    nbytes: int
    microseconds: float | None = None

    @property
    def gb_per_s(self) -> float | None:
        """Bytes that must be read, each second."""
        return None if self.microseconds is None else self.nbytes / self.microseconds / 1e3


def check_kernel(n: int = 64, k: int = 512, group: int = 128, batch: int = 2) -> Checked:
    """Run this module as a process on random weights [n, k]; raises QuantlabError where Triton is missing or fails."""
    if (problem := available()) is not None:
        raise QuantlabError(problem)
    sizes = [f"--{name}={value}" for name, value in (("n", n), ("k", k), ("group", group), ("batch", batch))]
    command = [sys.executable, "-P", "-m", "quantlab.kernels.check", *sizes]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
        raise QuantlabError(f"the kernel could not be run: {said[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Checked(found["where"], found["error"], found["bytes"], found.get("microseconds"))


def main() -> None:
    """Parse sizes, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("n", 64), ("k", 512), ("group", 128), ("batch", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    from quantlab.formats.catalog import get
    from quantlab.kernels.w4a16 import matmul

    dice = torch.Generator().manual_seed(0)
    W, x = torch.randn(args.n, args.k, generator=dice), torch.randn(args.batch, args.k, generator=dice)
    Q = get("int4_g128", group=args.group).quantize(W)
    packed, scale = Q.parts["weight_packed"].to(device), Q.parts["weight_scale"].to(device)
    x = x.half().to(device)
    y, right = matmul(x, packed, scale), x.float() @ Q.dequantize().float().to(device).T
    error = float((y.float() - right).abs().max() / right.abs().max())
    nbytes = sum(part.nbytes for part in (packed, scale, x, y))
    found: dict[str, float | str] = {"where": "GPU" if device == "cuda" else "interpreter", "error": error}
    found["bytes"] = nbytes
    if device == "cuda":
        from triton.testing import do_bench

        found["microseconds"] = 1000 * float(do_bench(lambda: matmul(x, packed, scale), return_mode="median"))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
