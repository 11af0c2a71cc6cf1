"""Errors that a user can act on."""

from __future__ import annotations

import pytest

from quantlab.errors import QuantlabError, UsageError, unknown


@pytest.mark.parametrize(
    ("given", "nearest"),
    [("q4km", "q4_k_m"), ("Q4_K_M", "q4_k_m"), ("NF4", "nf4"), ("nf-4", "nf4"), ("int4-g128", "int4_g128")],
)
def test_the_nearest_name_is_offered(given, nearest):
    error = unknown("format", given, ["q4_k_m", "q2_k", "nf4", "int4_g128", "int8"])
    assert str(error).startswith(f"unknown format {given!r}; did you mean {nearest!r}? Known: ")
    assert error.exit_code == 2


def test_nothing_near_is_nothing_offered():
    message = str(unknown("format", "zzzzzzzz", ["nf4", "int8"]))
    assert "did you mean" not in message
    assert message.endswith("Known: int8, nf4")


def test_both_kinds_are_value_errors_for_a_notebook():
    assert issubclass(UsageError, QuantlabError)
    assert issubclass(QuantlabError, ValueError)
    assert (QuantlabError.exit_code, UsageError.exit_code) == (1, 2)
