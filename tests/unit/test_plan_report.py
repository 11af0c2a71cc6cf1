"""`quantlab plan`: the questions the other way round, the ways out, the JSON, and what a user may get wrong."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantlab.errors import QuantlabError, UsageError
from quantlab.plan.gpus import GPUS, gpu
from quantlab.plan.inverse import (
    COUNTS,
    FORMATS,
    GGUF_FORMATS,
    Setup,
    best_format,
    fits,
    max_concurrency,
    max_context,
    need,
    smallest,
    splits,
    ways_out,
)
from quantlab.plan.memory import GIB, weights_bytes
from quantlab.plan.models import shape_of
from quantlab.plan.report import KEYS, plan, verdict

SETUPS = {
    "fits": Setup(shape_of("llama-3.1-8b"), "awq_int4_g128", 4096, 8, card=gpu("a10")),
    "context": Setup(shape_of("llama-3.1-8b"), "bf16", 32768, 4, card=gpu("l4")),
    "weights": Setup(shape_of("llama-3.3-70b"), "awq_int4_g128", 4096, card=gpu("a10")),
    "gguf": Setup(shape_of("qwen3-32b"), "q8_0", 8192, card=gpu("rtx-4090")),
    "windows": Setup(shape_of("gemma-3-27b"), "q4_k_m", 131072, card=gpu("l4")),
    "latent": Setup(shape_of("deepseek-v3"), "fp8_e4m3_block128", 8192, 16, card=gpu("h200"), gpus=8),
}


@pytest.mark.parametrize("setup", SETUPS.values(), ids=SETUPS)
def test_the_largest_that_fits_is_the_largest(setup: Setup) -> None:
    block, longest, texts = setup.engine.block, max_context(setup), max_concurrency(setup)
    assert longest == 0 or fits(replace(setup, context=longest))
    assert longest == setup.shape.context or not fits(replace(setup, context=longest + block))
    assert texts == 0 or fits(replace(setup, concurrency=texts))
    assert not fits(replace(setup, concurrency=texts + 1))


@pytest.mark.parametrize("setup", SETUPS.values(), ids=SETUPS)
def test_every_way_out_fits_and_the_cheapest_comes_first(setup: Setup) -> None:
    ways = ways_out(setup, most=50)
    assert all(fits(way.setup) for way in ways)
    assert all(way.says for way in ways)
    prices = [way.setup.usd_per_hour for way in ways]
    known = [usd for usd in prices if usd is not None]
    assert known == sorted(known)
    assert prices == [*known, *[None] * (len(prices) - len(known))]


def test_the_example_of_the_course() -> None:
    """Llama-3.3-70B in AWQ on an A10: it does not fit, by so much, and these are the three cheapest ways out."""
    answer = plan("llama-3.3-70b", "a10", "awq-int4", context=4096)
    data = answer.to_dict()
    assert tuple(data)[: len(KEYS)] == KEYS
    assert data["fits"] is False
    assert data["max_context"] == data["max_concurrency"] == 0
    assert data["total_bytes"] == data["weights_bytes"] + data["kv_bytes"] + data["overhead_bytes"]
    assert data["weights_bytes"] == weights_bytes("llama-3.3-70b", "awq_int4_g128")
    assert data["kv_bytes"] == 4096 * data["kv_bytes_per_token"] == 4096 * 320 * 1024
    short = (data["total_bytes"] - data["gpu_bytes"]) / GIB
    assert f"{short:,.2f} GiB more than the {data['gpu_bytes'] / GIB:,.2f} GiB" in verdict(answer)
    assert len(data["alternatives"]) == 3
    for way in data["alternatives"]:
        assert way["total_bytes"] <= way["gpu_bytes"]
        assert way["max_context"] >= 4096
        assert way["price_source"]
    asked = {(way["gpu"], way["gpus"]): way["usd_per_hour"] for way in data["alternatives"]}
    cheapest = [one.usd_per_hour for one in smallest(answer.setup) if one.usd_per_hour][:3]
    assert sorted(asked.values()) == cheapest
    own = answer.same_card()
    assert own is not None
    assert (own.card, own.gpus) == (gpu("a10"), 4)


def test_a_long_text_has_cheaper_ways_out_than_another_gpu() -> None:
    kinds = [way.kind for way in ways_out(SETUPS["context"], most=50)]
    assert {"context", "concurrency", "gpu"} <= set(kinds)
    lighter = replace(SETUPS["context"], concurrency=1, context=65536)
    assert [way.kind for way in ways_out(lighter, most=50) if way.setup.card == lighter.card][:2] == ["kv", "format"]


def test_fp8_caches_are_no_way_out_on_ampere() -> None:
    ampere = replace(SETUPS["context"], card=gpu("a10"), concurrency=1, context=65536)
    assert "kv" not in [way.kind for way in ways_out(ampere, most=50)]


def test_the_best_format_is_the_largest_that_fits() -> None:
    for setup in SETUPS.values():
        best = best_format(setup)
        sizes = {fmt: weights_bytes(setup.shape, fmt) for fmt in FORMATS + GGUF_FORMATS}
        larger = [fmt for fmt in sizes if best is None or sizes[fmt] > sizes[best]]
        assert not any(fits(replace(setup, fmt=fmt)) for fmt in larger)
    assert best_format(SETUPS["weights"]) is None


def test_the_smallest_gpus_hold_it_and_fewer_do_not() -> None:
    for setup in smallest(SETUPS["weights"]):
        assert fits(setup)
        assert not any(fits(replace(setup, gpus=n)) for n in COUNTS if n < setup.gpus)


def test_splits_say_what_each_gpu_holds_or_why_not() -> None:
    found = splits(Setup(shape_of("qwen2.5-72b"), "awq_int4_g128", 4096, card=gpu("a100-80")))
    assert found[1] == need(Setup(shape_of("qwen2.5-72b"), "awq_int4_g128", 4096, card=gpu("a100-80")))
    assert "29,568 columns of down_proj" in str(found[2])


def test_without_a_gpu_it_says_what_holds_it() -> None:
    data = plan("qwen3-8b", context=32768, concurrency=8).to_dict()
    assert data["fits"] is data["gpu_bytes"] is data["max_context"] is None
    assert len(data["alternatives"]) == 3


def test_a_better_format_is_named_where_there_is_room() -> None:
    assert plan("llama-3.1-8b", "a100-80", "awq").better_format == "bf16"
    assert plan("llama-3.1-8b", "a100-80", "bf16").better_format is None
    assert plan("llama-3.1-8b", "t4", "q4_k_m").better_format == "q8_0"


def test_llama_cpp_and_its_cache_types() -> None:
    small, large = (plan("llama-3.1-8b", "t4", "q4_k_m", 8192, kv_dtype=kv) for kv in ("q4_0", "auto"))
    assert small.kv_bytes * 16 == large.kv_bytes * 4.5
    assert (small.setup.engine.name, small.setup.share) == ("llama.cpp", 1.0)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"gpu": "rtx-4091"}, "did you mean 'rtx-4090'"),
        ({"model": "lama-3.3-70b"}, "did you mean 'llama-3.3-70b'"),
        ({"fmt": "awk"}, "unknown format 'awk'; did you mean 'awq'"),
        ({"context": 0}, "context must be a whole number from 1"),
        ({"context": -5}, "context"),
        ({"concurrency": 0}, "concurrency must be a whole number from 1"),
        ({"gpus": 0}, "gpus must be a whole number"),
        ({"utilization": 1.5}, "utilization is the share of a GPU"),
        ({"utilization": float("nan")}, "utilization"),
        ({"kv_dtype": "q4_0"}, r"q4_0 is a KV cache of llama\.cpp"),
        ({"gpu": "b200", "fmt": "int8"}, "vLLM does not run INT8 on B200 SXM: take"),
        ({"gpu": "m4-max", "fmt": "awq"}, "vLLM does not run AWQ on Apple M4 Max"),
        ({"gpu": "a10", "gpus": 3}, "64 attention heads do not divide by 3 GPUs"),
    ],
)
def test_mistakes_are_one_sentence(asked: dict[str, Any], message: str) -> None:
    question: dict[str, Any] = {"model": "llama-3.3-70b", "fmt": "bf16", **asked}
    with pytest.raises(UsageError, match=message):
        plan(**question)


# ------------------------------------------------------------------------------------------- the command
def test_the_command_says_so_in_words(run_cli: Callable[..., Any]) -> None:
    done = run_cli("plan", "llama-3.3-70b", "--gpu", "a10", "--format", "awq-int4", "--context", "4096")
    assert done.code == 0, done.err
    text = " ".join(done.out.split())
    assert "It does not fit: 39.49 GiB are needed, 19.27 GiB more than the 20.22 GiB that vLLM may fill of A10." in text
    for words in ("The cheapest ways out: 1. ", " 3. ", "Of A10 it takes 4"):
        assert words in text


def test_the_json_is_the_plan(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    picture = tmp_path / "plan.png"
    done = run_cli(
        "plan", "gemma-3-27b", "--gpu", "l4", "--format", "q4_k_m", "--concurrency", "2", "--json", "--save", picture
    )  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads(done.out) == json.loads(json.dumps(plan("gemma-3-27b", "l4", "q4_k_m", concurrency=2).to_dict()))
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_a_folder_is_a_model(run_cli: Callable[..., Any], tiny_folder: Path) -> None:
    done = run_cli("plan", str(tiny_folder), "--json")
    assert json.loads(done.out)["parameters"] == shape_of("tiny").parameters


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("lama-3-8b",), 2, "did you mean 'llama-3-8b'"),
        (("llama-3-8b", "--gpu", "a11"), 2, "unknown GPU"),
        (("llama-3-8b", "--context", "-1"), 2, "context must be a whole number"),
        (("model.gguf",), 1, "cannot read model.gguf"),
        (("missing/config.json",), 1, "there is no missing/config.json"),
        (("llama-3-8b", "--save", "picture.pdf"), 2, "--save writes a PNG file; name it picture.png"),
        (("llama-3-8b", "--save", "nowhere/picture.png"), 1, "there is no folder nowhere"),
    ],
)
def test_a_users_mistake_is_one_sentence(
    run_cli: Callable[..., Any], arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = run_cli("plan", *arguments)
    done.must_say(code, message)
    assert done.out == ""


def test_only_a_name_of_the_hub_asks_the_hub(
    run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from quantlab.models import hub

    asked: list[str] = []

    def fetch(repo: str, revision: str | None = None) -> Path:
        asked.append(repo)
        if repo.startswith("nobody"):
            raise QuantlabError(f"{repo} is neither a folder here nor a model on the Hub")
        config = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96,
                  "num_attention_heads": 4, "vocab_size": 128, "max_position_embeddings": 64}  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path / "config.json"

    monkeypatch.setattr(hub, "fetch_config", fetch)
    run_cli("plan", "llama-3-8b", "--json")
    run_cli("plan", "meta-llama/Llama-3.3-70B-Instruct", "--json")
    assert asked == []
    assert json.loads(run_cli("plan", "owner/small", "--json").out)["model"] == "owner/small"
    assert run_cli("plan", "nobody/nothing").code == 1
    assert asked == ["owner/small", "nobody/nothing"]


def test_every_card_makes_a_plan() -> None:
    for card in GPUS.values():
        assert plan("llama-3.1-8b", card, "q4_k_m").fits is True
