"""What a loaded model really takes, against the planner and against what transformers reports."""

import pytest

from quantlab.backends.loading import load_in
from quantlab.errors import UsageError
from quantlab.plan.memory import weights_bytes


@pytest.mark.parametrize("fmt", ["bf16", "int8", "nf4", "nf4_dq"])
def test_the_plan_is_exact_to_the_byte_and_transformers_forgets_the_scales(fmt):
    weighed = load_in("tiny", fmt)
    assert weighed.nbytes == weights_bytes("tiny", fmt)
    assert weighed.nbytes - weighed.reported_bytes == weighed.by_kind.get("scales", 0)


def test_an_unknown_format_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'nf4_dq'"):
        load_in("tiny", "nf4_qd")
