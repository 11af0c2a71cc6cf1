"""Record the steps of the hqq package on real weights: tests/golden/hqq_steps.json.

    pip download --no-deps hqq==0.2.8.post1, unpack it next to nothing else, and
    OMP_NUM_THREADS=1 PYTHONPATH=.:tests:WHERE_IT_IS python tests/golden/make_hqq_steps.py

Every group is stretched to a range of exactly 2^bits - 1, so that its scale is 1 and the package's error, in units of
the weights, is ours, in units of the step. Zero points are stored as they are in float32, in hexadecimal.
"""

from __future__ import annotations

import json
from pathlib import Path

from hqq.core.optimize import optimize_weights_proximal_legacy_step
from hqq_groups import BITS, GROUPS, STEPS, stretched

VERSION = "0.2.8.post1"


def main() -> None:
    """Write the file."""
    cases = {}
    for bits in BITS:
        w = stretched(bits)
        zero, beta = -w.amin(1, keepdim=True), 10.0
        after = []
        for _ in range(STEPS):
            one, ends = w.new_ones(GROUPS, 1), [0, 2**bits - 1]
            _, _, zero, _ = optimize_weights_proximal_legacy_step(w, one, zero, ends, beta, 0.7, 1)
            beta *= 1.01
            after.append([value.hex() for value in zero.flatten().tolist()])
        cases[str(bits)] = after
    made = {"made_by": "tests/golden/make_hqq_steps.py", "hqq": VERSION, "zero_after_each_step": cases}
    Path(__file__).with_name("hqq_steps.json").write_text(json.dumps(made) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
