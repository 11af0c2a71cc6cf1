"""The labs' recipes: each fits its card, says why what does not run does not, and its commands are real ones."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from quantlab.cli import COMMANDS, LazyGroup
from quantlab.errors import UsageError
from quantlab.plan.gpus import gpu
from quantlab.plan.inverse import fits, need
from quantlab.plan.lab_recipes import (
    CARDS,
    CONTEXT,
    FORMATS,
    HOST_BYTES,
    HOST_BYTES_PER_WEIGHT,
    LAB_MODELS,
    METHODS,
    Recipe,
    choice,
    fits_well,
    recipe,
    setup,
)  # fmt: skip
from quantlab.plan.lab_sources import OPTIONAL, SOURCES, Source
from quantlab.plan.memory import weights_bytes
from quantlab.plan.support import How, family, how_on

SIZED = [name for name, source in SOURCES.items() if source.files]
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
        assert fits_well(found.setup)
        larger = LAB_MODELS[LAB_MODELS.index(found.model) + 1 :]
        assert not any(fits_well(setup(found.card, model, "bf16")) for model in larger)

    def test_what_the_card_alone_would_hold(self, card: str) -> None:
        found, names = recipe(card), list(SOURCES)
        assert fits_well(setup(found.card, found.largest, "bf16"))
        above = names[names.index(found.largest) + 1 :]
        assert not any(fits_well(setup(found.card, model, "bf16")) for model in above)
        assert names.index(found.stretch[0]) > names.index(found.largest)  # it fits in fewer bits only
        assert found.gated is None or found.gated[0] in OPTIONAL

    def test_the_labs_take_this_model(self, card: str, monkeypatch: pytest.MonkeyPatch) -> None:
        from quantlab.lesson import lab

        class Card:
            total_memory = gpu(card).memory_bytes

        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: Card)
        assert lab.setting().planned == recipe(card).model

    def test_every_format_that_runs_is_supported_and_fits(self, card: str) -> None:
        found = recipe(card)
        assert [one.fmt for one in found.choices] == list(FORMATS)
        for one in found.choices:
            name = family(one.fmt)
            if one.runs:
                assert name is None or how_on(one.engine, name, found.card) is one.how is not How.NO
                assert one.why
                asked = replace(setup(found.card, found.model, one.fmt), context=one.context)
                assert fits(asked)
                assert (one.utilization, one.kv, one.engine) == (asked.share, asked.kv, asked.engine.name)
                assert fits(replace(asked, context=CONTEXT, concurrency=one.at_once))
                assert not fits(replace(asked, context=CONTEXT, concurrency=one.at_once + 1))
                limit = asked.shape.context
                assert one.context == limit or not fits(replace(asked, context=one.context + asked.engine.block))
            else:
                assert "does not run" in one.why
                assert "take" in one.why

    def test_the_cache_is_fp8_only_where_the_card_has_it(self, card: str) -> None:
        found = recipe(card)
        assert {one.kv for one in found.choices} <= {"bf16", "fp8"}
        assert all(one.kv == "bf16" for one in found.choices if one.engine != "vLLM")  # transformers has no such cache
        assert any(one.kv == "fp8" for one in found.choices) == (found.card.compute_capability >= (8, 9))

    def test_the_largest_that_fits_does_in_vllm(self, card: str) -> None:
        found = recipe(card)
        name, how = found.stretch
        asked = setup(found.card, name, how.fmt)
        assert asked.engine.name == how.engine == "vLLM"
        assert how.runs
        assert fits_well(asked)
        above = list(SOURCES)[list(SOURCES).index(name) + 1 :]
        tried = [setup(found.card, model, fmt) for model in above for fmt in FORMATS]
        assert not any(fits_well(one) for one in tried if one.engine.name == "vLLM")

    def test_it_fits_as_quantlab_serves_it_too(self, card: str) -> None:
        found = recipe(card)
        asked = replace(setup(found.card, found.model, found.best.fmt), kv="bf16")  # it asks for no other cache
        assert fits_well(asked)
        assert "--kv" not in found.commands().splitlines()[5]
        assert ("--kv-cache-dtype fp8" in found.vllm("x")) == (found.best.kv == "fp8")
        assert "--quantization" not in found.vllm("x")

    def test_its_plan_says_that_it_fits(self, card: str, run_cli) -> None:  # type: ignore[no-untyped-def]
        found = recipe(card)
        done = run_cli(*shlex.split(found.commands().splitlines()[0])[1:], "--json")
        assert done.code == 0, done.err
        answer = json.loads(done.out)
        assert answer["fits"] is True
        assert (answer["max_context"], answer["max_concurrency"]) == (found.best.context, found.best.at_once)
        assert answer["utilization"] == found.best.utilization

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


@pytest.mark.parametrize("card", CARDS)
def test_a_recipe_that_does_not_fit_is_seen(card: str) -> None:
    """The checks above on recipes made wrong: a model too large, a card with less memory, all its texts and more."""
    found = recipe(card)
    assert not fits_well(Recipe(found.card, "qwen3-235b-a22b").setup)
    less = replace(found.card, memory_bytes=weights_bytes(found.model, "bf16"))
    assert not fits_well(Recipe(less, found.model).setup)
    assert "GiB are missing" in choice(less, found.model, "bf16").why
    assert not choice(less, found.model, "bf16").runs


def test_the_margin_is_asked_for() -> None:
    asked = setup(gpu("rtx-3090"), "qwen3-32b", "nvfp4")
    assert fits(asked)  # by 48 tokens of text: less than the planner's error
    assert not fits_well(asked)


def test_quantizing_asks_for_this_memory_and_disk() -> None:
    from quantlab.backends.quantizers.checks import LIBRARY_BYTES
    from quantlab.backends.quantizers.libraries import LIBRARIES

    assert LIBRARIES["quantlab"].bytes_per_weight == HOST_BYTES_PER_WEIGHT
    assert LIBRARY_BYTES == HOST_BYTES


def test_a_t4_takes_fp16_and_says_so() -> None:
    assert [one.words for one in recipe("t4").choices if one.fmt == "bf16"] == ["native, as fp16"]
    assert [one.words for one in recipe("a10").choices if one.fmt == "bf16"] == ["native"]


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
    with pytest.raises(UsageError, match=r"holds none.*take a T4"):
        recipe(replace(gpu("t4"), memory_bytes=2**28))


class TestSources:
    @pytest.mark.parametrize("model", SIZED)
    def test_the_files_bytes_are_those_that_the_planner_counts(self, model: str) -> None:
        pinned = sum(nbytes or 0 for nbytes, _ in SOURCES[model].files.values())
        # a header of names beside the weights; Qwen3-0.6B's file holds its tied output head a second time
        tied = 2 * 151936 * 1024 if model == "qwen3-0.6b" else 0
        assert 30_000 < pinned - weights_bytes(model, "bf16") - tied < 82_100

    @pytest.mark.parametrize("model", LAB_MODELS)
    def test_what_a_lab_takes_is_pinned_by_hash_and_free(self, model: str) -> None:
        source = SOURCES[model]
        assert source.files
        assert not source.gated
        assert source.licence == "Apache-2.0"

    def test_gated_models_are_the_optional_ones(self) -> None:
        assert not any(source.gated for source in SOURCES.values())
        assert all(source.gated for source in OPTIONAL.values())
        assert not set(OPTIONAL) & set(LAB_MODELS)

    def test_smallest_first(self) -> None:
        assert list(SOURCES) == sorted(SOURCES, key=lambda name: weights_bytes(name, "bf16"))
        assert [name for name in SOURCES if name in LAB_MODELS] == list(LAB_MODELS)

    @pytest.mark.parametrize("source", (SOURCES | OPTIONAL).values(), ids=list(SOURCES | OPTIONAL))
    def test_pins_look_like_pins(self, source: Source) -> None:
        assert source.read
        assert len(source.revision) == 40
        assert int(source.revision, 16)
        assert len({sha256 for _, sha256 in source.files.values()}) == len(source.files)
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
        assert "50 GB of its own memory" in done.out
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
