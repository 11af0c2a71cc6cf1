"""The two sources of logits: threads and shared beginnings change nothing, and the weights are those given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType

import pytest
import torch

from quantlab.backends.llama_cpp import Logits, quantize_gguf
from quantlab.checkpoints.gguf import write_gguf
from quantlab.errors import QuantlabError
from quantlab.evaluate.logits import Fork, Source, TorchLogits, one_thread
from quantlab.models.load import LoadedModel
from quantlab.models.walk import linear_layers

SEQUENCES = [[0, *range(50 + i, 50 + 3 * i)] for i in range(2, 14)]
FORKS = [Fork((0, 60, 61, 62 + i), ((70, 71, 72), (80 + i,), (90, 91))) for i in range(6)]
Make = Callable[[], AbstractContextManager[Source]]


@pytest.fixture(scope="module")
def gguf(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory, llama_cpp: ModuleType) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    base = write_gguf(tiny_folder, folder / "base.gguf")
    return quantize_gguf(base, folder / "q4_k_m.gguf", "q4_k_m")


@pytest.fixture(params=["torch", "llama.cpp"])
def make(request: pytest.FixtureRequest, tiny: LoadedModel) -> Make:
    if request.param == "torch":
        return lambda: nullcontext(TorchLogits(tiny.model))
    path = request.getfixturevalue("gguf")
    return lambda: Logits(path, 64)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_the_number_of_threads_changes_no_bit(make: Make, threads: Callable[[int], None]) -> None:
    found = []
    for count in (1, 2, 3):
        threads(count)
        with make() as source:
            found.append(list(source(SEQUENCES)))
        assert torch.get_num_threads() == count, "the setting is left as it was"
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_a_sequence_does_not_see_its_neighbours(make: Make) -> None:
    with make() as source:
        together = list(source(SEQUENCES))
        for tokens, logits in zip(SEQUENCES, together, strict=True):
            assert logits.shape == (len(tokens), 4096)
            assert torch.equal(next(source([tokens])), logits)


def test_forks_are_the_ends_of_whole_sequences(make: Make) -> None:
    """Up to rounding: a matrix product of another shape adds in another order."""
    with make() as source:
        for fork, found in zip(FORKS, source.forks(FORKS), strict=True):
            assert len(found) == len(fork.ends)
            for end, logits in zip(fork.ends, found, strict=True):
                whole = next(source([[*fork.start, *end]]))[len(fork.start) - 1 : -1]
                assert logits.shape == (len(end), 4096)
                assert (logits - whole).abs().max() < 2e-4


def test_breaking_off_early(make: Make) -> None:
    before = torch.get_num_threads()
    with make() as source:
        with one_thread():
            broken_off = source(SEQUENCES)
            first = next(broken_off)
        assert torch.equal(next(source(SEQUENCES)), first)
        del broken_off
    assert torch.get_num_threads() == before


def test_torch_is_the_model_itself(tiny: LoadedModel) -> None:
    with torch.inference_mode():
        for tokens, logits in zip(SEQUENCES, TorchLogits(tiny.model)(SEQUENCES), strict=True):
            assert torch.allclose(logits, tiny.model(torch.tensor([tokens])).logits[0], atol=1e-4)


def test_other_weights_share_everything_else(tiny: LoadedModel) -> None:
    name, layer = list(linear_layers(tiny.model))[3]
    W = 0.5 * layer.weight.detach()
    source = TorchLogits(tiny.model, {f"{name}.weight": W})
    found = next(source([SEQUENCES[0]]))
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.copy_(W)
    try:
        expected = next(TorchLogits(tiny.model)([SEQUENCES[0]]))
    finally:
        with torch.no_grad():
            layer.weight.copy_(before)
    assert torch.equal(found, expected)
    assert not torch.equal(found, next(TorchLogits(tiny.model)([SEQUENCES[0]])))
    ours = {id(p) for p in source._model.parameters()}
    assert sum(id(p) not in ours for p in tiny.model.parameters()) == 1, "one matrix of its own, no copy of the others"


def test_llama_cpp_refuses_what_would_crash_it(gguf: Path) -> None:
    with Logits(gguf, 8) as source:
        for sequences, words in (
            ([[]], "got 0"),
            ([[0] * 9], "from 1 to 8 tokens, got 9"),
            ([[4096]], "token 4096"),
            ([[-1]], "token -1"),
        ):
            with pytest.raises(ValueError, match=words):
                list(source(sequences))
        with pytest.raises(ValueError, match="got 9"):
            list(source.forks([Fork((0,) * 5, ((1,) * 4,))]))
        assert len(next(source([[0, 5]]))) == 2, "it still works"
    source.close()
    with pytest.raises(ValueError, match="was closed"):
        next(source([[0]]))


def test_closing_while_threads_are_busy(gguf: Path) -> None:
    for _ in range(5):
        with Logits(gguf, 64) as source:
            next(source([[0, *range(5, 60)]] * 50))


def test_a_file_that_is_not_there(tmp_path: Path, llama_cpp: ModuleType) -> None:
    with pytest.raises(QuantlabError, match=r"llama\.cpp could not load"):
        Logits(tmp_path / "no.gguf", 16)
