"""Wrong GPTQs: each differs from ours by one line, and the checks that ours passes must tell it apart."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from gptq_laws import Case, plain
from gptq_oracle import Settings, published

from quantlab.core import LayerStats
from quantlab.formats.int_affine import IntAffine
from quantlab.formats.int_rounding import rounding
from quantlab.methods import gptq as ours
from quantlab.methods.rtn import rtn

# what is wrong, the line of ours, the line instead
MUTANTS = [
    ("moves the wrong way", "inside[j + 1 - start :] -= move", "inside[j + 1 - start :] += move"),
    ("moves the columns behind the block the wrong way", "todo[stop:] -= R", "todo[stop:] += R"),
    ("nothing inside the block", "inside[j + 1 - start :] -= move", "inside[j + 1 - start :] -= 0 * move"),
    ("nothing behind the block", "todo[stop:] -= R", "todo[stop:] -= 0 * R"),
    ("the error not in units of R_jj", "paid[j]", "1"),
    ("R_jj squared, as with H^-1 itself", "paid[j]", "paid[j] ** 2"),
    ("R transposed", "upper=True", "upper=False"),
    ("the factor of H, not of its inverse", "torch.cholesky_inverse(torch.linalg.cholesky(H))", "H"),
    ("the least important column first", "descending=True", "descending=False"),
    ("H not put in order", "H = H[order][:, order]", "pass"),
    ("codes not put back", "q[back].T", "q.T"),
    ("put back by the order itself", "back = order.argsort()", "back = order"),
    ("the groups of neighbours in the sweep", "else group[order]", "else group"),
    ("no dampening", "damp * H.diagonal().mean()", "0 * H.diagonal().mean()"),
    ("dampening by the sum", "H.diagonal().mean()", "H.diagonal().sum()"),
    ("dampening of every entry", "H.diagonal().add_(damp", "H.add_(damp"),
    ("dead inputs keep their weights", "todo[factor.dead[order]] = 0", "pass"),
    ("dead inputs in another order", "todo[factor.dead[order]] = 0", "todo[factor.dead] = 0"),
    ("dead inputs count for the scale", "W.float().masked_fill(factor.dead, 0)", "W.float()"),
    ("a group fitted to the original weights", "grid.fit(todo[j : j + g].T)", "grid.fit(W[:, j : j + g])"),
    ("a group fitted too late", "if p is None and j % g == 0", "if p is None and (j % g == 0 or j % g == 1)"),
    ("layers mixed up", "slice(a, b)", "slice(0, b - a)"),
]  # fmt: skip


def _mutant(line: str, instead: str) -> ModuleType:
    source = inspect.getsource(ours)
    assert source.count(line) == 1, f"{line!r} occurs {source.count(line)} times in gptq.py: mend this mutant"
    module = ModuleType("quantlab.methods.gptq_mutant")
    module.__dict__["__name__"] = ours.__name__  # its dataclasses look up their module
    exec(compile(source.replace(line, instead), "gptq_mutant.py", "exec"), module.__dict__)
    return module


def _case() -> Case:
    """Two layers of 6 rows, 96 correlated inputs of very different sizes, two of them dead, one with a large weight."""
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(200, 8, generator=generator) @ torch.randn(8, 96, generator=generator)
    X = (X + torch.randn(200, 96, generator=generator)) * torch.logspace(-1, 0, 96)[torch.randperm(96)]
    X[:, [5, 70]] = 0
    W = torch.randn(12, 96, generator=generator)
    W[:, 5] = 9
    return Case(W, X.T @ X)


def agrees_with_the_published_code(module: ModuleType) -> None:
    case = _case()
    grid = IntAffine(3, 16, False, torch.float32, rounding("gptq"))
    for act_order in (False, True):
        for static_groups in (False, True):
            to = Settings(3, 16, False, 0.01, act_order, static_groups, 40)
            theirs = published(case.W, case.H, to)
            done = module.gptq_many(
                [case.W[:6], case.W[6:]], case.stats, plain(grid), block=40, act_order=act_order,
                static_groups=static_groups,
            )  # fmt: skip
            assert torch.equal(torch.cat([part.parts["q"] for part in done]), theirs.codes.to(torch.uint8))
            assert torch.equal(torch.cat([part.parts["scale"] for part in done]), theirs.scale)


def takes_few_tokens(module: ModuleType) -> None:
    """8 tokens for 32 inputs: H has no inverse, the dampening gives it one, and the layer's output gains."""
    generator = torch.Generator().manual_seed(2)
    X, W = torch.randn(8, 32, generator=generator), torch.randn(4, 32, generator=generator)
    stats = LayerStats(8, X.T @ X, X.abs().mean(0), X.abs().amax(0))
    case, fmt = Case(W, stats.H), plain(IntAffine(3, 16, scale_dtype=torch.float32))
    assert case.error(module.gptq(W, stats, fmt).dequantize()) < case.error(rtn(W, None, fmt).dequantize())


CHECKS: tuple[Callable[[ModuleType], None], ...] = (agrees_with_the_published_code, takes_few_tokens)


@pytest.mark.parametrize("check", CHECKS)
def test_ours_passes(check: Callable[[ModuleType], None]) -> None:
    check(ours)


@pytest.mark.parametrize(("line", "instead"), [m[1:] for m in MUTANTS], ids=[m[0] for m in MUTANTS])
def test_a_wrong_one_is_told_apart(line: str, instead: str) -> None:
    mutant = _mutant(line, instead)
    with pytest.raises((AssertionError, RuntimeError, ValueError, IndexError)):
        agrees_with_the_published_code(mutant)


def test_without_dampening_few_tokens_are_an_error_not_a_layer() -> None:
    mutant = _mutant("damp * H.diagonal().mean()", "0 * H.diagonal().mean()")
    with pytest.raises(ValueError, match="no inverse"):
        takes_few_tokens(mutant)
