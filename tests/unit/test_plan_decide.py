"""Which format to measure first: the rule, its reasons, and that it agrees with the planner's other answers."""

from __future__ import annotations

import pytest

from quantlab.errors import UsageError
from quantlab.plan.decide import NEARLY, decide
from quantlab.plan.memory import weights_bytes
from quantlab.plan.roofline import decode


@pytest.mark.parametrize(("gpu", "concurrency"), [("rtx-4090", 1), ("a100-80", 16), ("b200", 64), ("t4", 1)])
def test_the_choice_is_nearly_the_fastest_and_has_the_most_bits_of_those(gpu: str, concurrency: int) -> None:
    found = decide("llama-3.1-8b", gpu, 2048, concurrency)
    speeds = {o.fmt: o.tokens_per_s for o in found.options if o.tokens_per_s is not None}
    near = [fmt for fmt, speed in speeds.items() if speed >= NEARLY * max(speeds.values())]
    assert found.take == max(near, key=lambda fmt: weights_bytes("llama-3.1-8b", fmt))
    assert found.why.startswith(f"{found.take}: ")
    for option in found.options:
        if option.tokens_per_s is None:
            assert option.why_not
        else:
            assert option.tokens_per_s == decode("llama-3.1-8b", option.fmt, gpu, concurrency, 2048).tokens_per_s


def test_where_nothing_fits_it_says_so() -> None:
    found = decide("llama-3.3-70b", "a10")
    assert found.take is None
    assert "Nothing fits on one A10" in found.why
    assert all("GiB too much" in option.why_not for option in found.options)


def test_a_format_that_the_card_does_not_run_says_why() -> None:
    int8 = next(option for option in decide("llama-3.1-8b", "b200").options if option.fmt == "int8")
    assert (int8.how, int8.tokens_per_s) == ("no", None)
    assert "does not run INT8" in int8.why_not


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("llama-9", "a10"), "llama-9"),
        (("llama-3.1-8b", "a11"), "a11"),
        (("llama-3.1-8b", "a10", 0), "context"),
        (("llama-3.1-8b", "a10", 4096, -1), "concurrency"),
        (("llama-3.1-8b", "a10", 4096, 1, ("int5",)), "int5"),
    ],
)
def test_bad_input_is_named(arguments: tuple[object, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        decide(*arguments)  # type: ignore[arg-type]
