"""The labs' recipes: each fits its card, says why what does not run does not, and its commands are real ones."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from quantlab.cli import COMMANDS, LazyGroup
from quantlab.errors import UsageError
from quantlab.plan.gpus import gpu
from quantlab.plan.inverse import fits, need
from quantlab.plan.lab_recipes import CARDS, FORMATS, METHODS, Recipe, choice, recipe, setup
from quantlab.plan.lab_sources import SOURCES, Source
from quantlab.plan.memory import weights_bytes
from quantlab.plan.support import How, family, how_on

SIZED = [name for name, source in SOURCES.items() if source.files and all(b for b, _ in source.files.values())]
COURSE = {"t4", "a10", "a10g", "l4", "rtx-3090", "rtx-4090", "rtx-5090", "a100-40", "a100-80", "l40s", "h100", "h200",
          "b200"}  # fmt: skip


def test_every_card_of_the_course_has_one() -> None:
    assert set(CARDS) == COURSE


@pytest.mark.parametrize("card", CARDS)
class TestOfEachCard:
    def test_the_original_fits_and_the_next_larger_model_does_not(self, card: str) -> None:
        found = recipe(card)
        assert found.setup.room
        assert need(found.setup).total <= found.setup.room
        larger = list(SOURCES)[list(SOURCES).index(found.model) + 1 :]
        assert not any(fits(setup(found.card, model, "bf16")) for model in larger)

    def test_every_format_that_runs_is_supported_and_fits(self, card: str) -> None:
        found = recipe(card)
        assert [one.fmt for one in found.choices] == list(FORMATS)
        for one in found.choices:
            name = family(one.fmt)
            if one.runs:
                assert name is None or how_on("vLLM", name, found.card) is one.how is not How.NO
                assert not one.why
                asked = replace(setup(found.card, found.model, one.fmt), context=one.context)
                assert fits(asked)
                limit = asked.shape.context
                assert one.context == limit or not fits(replace(asked, context=one.context + asked.engine.block))
            else:
                assert one.why

    def test_the_cache_is_fp8_only_where_the_card_has_it(self, card: str) -> None:
        found = recipe(card)
        assert {one.kv for one in found.choices} <= {"bf16", "fp8"}
        assert any(one.kv == "fp8" for one in found.choices) == (found.card.compute_capability >= (8, 9))

    def test_the_largest_that_fits_does(self, card: str) -> None:
        found = recipe(card)
        name, how = found.stretch
        assert fits(setup(found.card, name, how.fmt))
        assert weights_bytes(name, how.fmt) <= (found.setup.room or 0)

    def test_its_commands_are_known_to_the_command_line(self, card: str) -> None:
        lines = [shlex.split(line) for line in recipe(card).commands().splitlines() if not line.startswith("#")]
        ours = [line[1:] for line in lines if line[0] == "quantlab"]
        assert [line[0] for line in ours] == ["plan", "recipe", "quantize", "verify", "serve"]
        group = LazyGroup(name="quantlab")
        for name, *rest in ours:
            assert name in COMMANDS
            command = group.get_command(None, name)  # type: ignore[arg-type]
            assert command
            command.make_context(name, list(rest))  # parses, runs nothing

    def test_a_turing_card_computes_in_fp16(self, card: str) -> None:
        assert ("--dtype half" in recipe(card).commands()) == (card == "t4")


def test_a_model_that_is_too_large_is_seen() -> None:
    wrong = Recipe(gpu("t4"), "qwen3-32b")
    assert not fits(wrong.setup)
    assert "GiB are missing" in choice(gpu("t4"), "qwen3-32b", "bf16").why


def test_the_quantize_line_makes_the_format_that_it_names() -> None:
    from quantlab.backends.quantizers.offers import Wish, choose

    for fmt, (method, family_of) in METHODS.items():
        assert choose(Wish("quantlab", method, family_of)).format == fmt


@pytest.mark.parametrize(
    ("card", "said"),
    [("v100", "take a T4"), ("mi300x", "NVIDIA"), ("m4-max", "rehearsal"), ("cpu", "rehearsal"), ("l5", "l4")],
)
def test_other_machines_get_one_sentence(card: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        recipe(card)


def test_a_card_that_holds_nothing() -> None:
    with pytest.raises(UsageError, match="holds none"):
        recipe(replace(gpu("t4"), memory_bytes=2**28))


class TestSources:
    @pytest.mark.parametrize("model", SIZED)
    def test_the_files_bytes_are_those_that_the_planner_counts(self, model: str) -> None:
        pinned = sum(nbytes or 0 for nbytes, _ in SOURCES[model].files.values())
        # a header of names beside the weights; Qwen3-0.6B's file holds its tied output head a second time
        tied = 2 * 151936 * 1024 if model == "qwen3-0.6b" else 0
        assert pinned == pytest.approx(weights_bytes(model, "bf16") + tied, rel=2e-4)

    @pytest.mark.parametrize("source", SOURCES.values(), ids=list(SOURCES))
    def test_pins_look_like_pins(self, source: Source) -> None:
        assert len(source.revision) == 40
        assert all(len(sha256) == 64 and int(sha256, 16) for _, sha256 in source.files.values())

    def test_a_download_is_compared(self, tmp_path: Path) -> None:
        import hashlib

        data = b"weights"
        source = Source("a/b", "0" * 40, "MIT", {"m.safetensors": (7, hashlib.sha256(data).hexdigest())})
        assert "is not in" in next(source.wrong(tmp_path))
        (tmp_path / "m.safetensors").write_bytes(b"weigh")
        assert "not whole" in next(source.wrong(tmp_path))
        (tmp_path / "m.safetensors").write_bytes(b"weightS")
        assert "SHA-256 differs" in next(source.wrong(tmp_path))
        (tmp_path / "m.safetensors").write_bytes(data)
        assert list(source.wrong(tmp_path)) == []


class TestCommand:
    def test_prints_the_recipe(self, run_cli) -> None:  # type: ignore[no-untyped-def]
        done = run_cli("recipe", "l4")
        assert done.code == 0, done.err
        assert "PREDICTED: qwen3-8b on L4" in done.out
        assert "Apache-2.0, ungated" in done.out
        assert "hf download Qwen/Qwen3-8B --revision b968826d9c46dd6066d109eabc6255188de91218" in done.out

    def test_checks_a_download(self, run_cli, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
        done = run_cli("recipe", "l4", "--check", str(tmp_path))
        assert done.code == 1
        assert "model-00001-of-00005.safetensors is not in" in done.err
        assert "4 more" in done.err

    @pytest.mark.parametrize(
        ("words", "said"), [(["v100"], "take a T4"), (["l4", "--line", "0"], "--line"), (["l4x"], "l4")]
    )
    def test_mistakes_are_one_sentence(self, run_cli, words: list[str], said: str) -> None:  # type: ignore[no-untyped-def]
        done = run_cli("recipe", *words)
        assert done.code == 2
        assert said in done.err
        assert "Traceback" not in done.err
