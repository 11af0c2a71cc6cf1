"""Lab 4's own code: candidates found again, speed by batch from the real llama.cpp, crossover and bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

import quantlab
from quantlab.backends.llama_cpp_library import available
from quantlab.backends.quantizers.making import Text
from quantlab.checkpoints.gguf import write_gguf
from quantlab.errors import QuantlabError, UsageError
from quantlab.evaluate.rounded import Judge
from quantlab.evaluate.speed import measure_batches
from quantlab.lesson import lab, lab4
from quantlab.models.bundled import tiny_folder
from quantlab.plan.gpus import gpu
from quantlab.plan.roofline import decode

HERE = lab.Setting(lab.Mode.REHEARSAL, "tiny", "tiny", "cpu", 2**34)


@pytest.fixture(scope="module")
def f16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tiny_folder(), tmp_path_factory.mktemp("lab4") / "f16.gguf", "f16")


@pytest.mark.skipif(available() is not None, reason=str(available()))
class TestWithLlamaCpp:
    def test_candidates_are_made_once_and_judged_as_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lab4, "_CPU_FORMATS", ("q4_0",))
        loaded = quantlab.load("tiny")
        chosen = lab4.candidates(HERE, loaded, tmp_path, Text())
        assert [one.fmt for one in chosen] == ["fp16", "q4_0"]
        assert [one.nbytes for one in chosen] == [one.path.stat().st_size for one in chosen]
        before = {one.path: one.path.stat().st_mtime_ns for one in chosen}
        again = lab4.candidates(HERE, loaded, tmp_path, Text())
        assert again == chosen
        assert {one.path: one.path.stat().st_mtime_ns for one in again} == before
        by = Judge(loaded, stories=2)
        whole, four = (lab4.judge(one, by, loaded) for one in chosen)
        assert whole.kl < 1e-4 < 1e-3 < four.kl
        assert 0.5 < four.right <= 1

    def test_speed_by_batch_counts_the_tokens_of_all_texts(self, f16: Path) -> None:
        found = measure_batches({"f16": f16}, (1, 4), threads=1, generate=4, repeats=2)
        assert list(found) == ["f16"]
        assert list(found["f16"]) == [1, 4]
        assert all(len(runs) == 2 and min(runs) > 0 for runs in found["f16"].values())

    def test_a_file_that_is_none_is_one_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "no.gguf").write_bytes(b"GGUF")
        with pytest.raises(QuantlabError, match="cannot load"):
            measure_batches({"no": tmp_path / "no.gguf"}, (1,), threads=1)


@pytest.mark.parametrize("wrong", [{"batches": ()}, {"batches": (0,)}, {"batches": (1,), "repeats": 0}])
def test_bad_numbers_are_named(wrong: dict[str, object], f16: Path) -> None:
    with pytest.raises(UsageError):
        measure_batches({"f16": f16}, **wrong)  # type: ignore[arg-type]


def test_the_measured_crossover_is_the_first_batch_within_the_spread() -> None:
    large = {1: (90.0, 100.0, 110.0), 8: (700.0, 800.0, 900.0), 32: (900.0, 1000.0, 1100.0)}
    small = {1: (300.0, 310.0, 320.0), 8: (1000.0, 1100.0, 1200.0), 32: (1050.0, 1200.0, 1300.0)}
    assert lab4.measured_crossover(small, large) == 32
    assert lab4.measured_crossover({1: small[1]}, {1: large[1]}) is None


def test_bounds_are_the_planners() -> None:
    here = lab.Setting(lab.Mode.LIVE, "qwen3-8b", "Qwen/Qwen3-8B", "cuda", 24 * 2**30)
    large = lab4.Candidate(lab4.ORIGINAL, "bf16", Path("x"), 1)
    small = lab4.Candidate("int4_g128", "int4_g128", Path("y"), 1)
    card = gpu("a10")
    assert lab4.predicted(here, small, card, (8,)) == {8: decode("qwen3-8b", "int4_g128", card, 8, 64).tokens_per_s}
    assert lab4.predicted_crossover(here, small, large, card) > 8  # type: ignore[operator]


def test_this_cpu_gets_a_bandwidth_and_a_rate() -> None:
    card = lab4.card(HERE)
    assert card.bandwidth > 1e8
    assert card.rate_16 > 1e8
