"""On an NVIDIA GPU: what a loaded model takes there is what the plan says, to the byte."""

import pytest
import torch

from quantlab.backends.loading import load_in
from quantlab.plan.memory import weights_bytes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU on this machine"),
]


@pytest.mark.parametrize("fmt", ["bf16", "int8", "nf4", "nf4_dq"])
def test_the_plan_is_exact_on_the_gpu(fmt):
    assert load_in("tiny", fmt, device="cuda").nbytes == weights_bytes("tiny", fmt)
