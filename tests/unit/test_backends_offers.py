"""What exists, what is refused, and that everything offered can be stored."""

from __future__ import annotations

import pytest

from quantlab.backends.quantizers.libraries import LIBRARIES
from quantlab.backends.quantizers.offers import GGUF, LLAMA_CPP_GGUF, OFFERS, WITH_IMPORTANCE, Wish, _choices, choose
from quantlab.backends.quantizers.order import ROW
from quantlab.errors import QuantlabError, UsageError


@pytest.mark.parametrize(
    ("wish", "words", "fmt"),
    [
        (Wish(), "--backend quantlab --method awq --bits 4 --group 128", "awq_int4_g128"),
        (Wish(method="gptq", group=64), "--backend quantlab --method gptq --bits 4 --group 64", "gptq_int4_g64"),
        (Wish(format="int3_g64", method="awq"), "--backend quantlab --method awq --format int --bits 3 --group 64",
         "int3_g64"),
        (Wish("autoawq"), "--backend autoawq --method awq --bits 4 --group 128", "awq_int4_g128"),
        (Wish("llm-compressor"), "--backend llm-compressor --method gptq --bits 4 --group 128", "int4_g128"),
        (Wish("llm-compressor", format="w8a8"), "--backend llm-compressor --method smoothquant", "int8"),
        (Wish("llm-compressor", format="FP8"), "--backend llm-compressor --method rtn --format fp8_e4m3_channel",
         "fp8_e4m3_channel"),
        (Wish("gptqmodel", bits=8, group=ROW, symmetric=False),
         "--backend gptqmodel --method gptq --bits 8 --group -1 --asymmetric", "gptq_int8"),
        (Wish("bitsandbytes"), "--backend bitsandbytes --method rtn", "nf4"),
        (Wish("bitsandbytes", bits=8), "--backend bitsandbytes --method rtn --format llm_int8", "llm_int8"),
        (Wish("bitsandbytes", format="int8"), "--backend bitsandbytes --method rtn --format llm_int8", "llm_int8"),
        (Wish("llama.cpp", bits=3), "--backend llama.cpp --method rtn --format q3_k_m", "q3_k_m"),
    ],
)  # fmt: skip
def test_a_wish_leaves_the_rest_to_the_table(wish: Wish, words: str, fmt: str) -> None:
    chosen = choose(wish)
    assert (chosen.words, chosen.format) == (words, fmt)


def test_the_words_of_every_choice_make_that_choice() -> None:
    for choice in _choices():
        words = choice.words.split()
        said = dict(zip(words[::2], words[1::2], strict=False))
        symmetric = {"--symmetric": True, "--asymmetric": False}.get(words[-1])
        again = Wish(
            said["--backend"], said["--method"], said.get("--format"),
            int(said["--bits"]) if "--bits" in said else None, int(said["--group"]) if "--group" in said else None,
            symmetric,
        )  # fmt: skip
        assert choose(again) == choice


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish("autoawq", bits=3), "autoawq does not make 3-bit; the nearest is --backend autoawq --method awq --bits 4 "
         "--group 128, or elsewhere: --backend quantlab --method awq --format int --bits 3 --group 128"),
        (Wish("bitsandbytes", "gptq"), "the nearest is --backend bitsandbytes --method rtn, or elsewhere: "),
        (Wish("autoawq", symmetric=True), "autoawq does not make symmetric; the nearest is --backend autoawq"),
        (Wish("gptqmodel", "rtn"), "gptqmodel does not make rtn"),
        (Wish("llama.cpp", group=128), "llama.cpp does not make with groups of 128; the nearest is --backend llama"),
        (Wish("quantlab", "smoothquant", bits=4), "the nearest is --backend quantlab --method smoothquant"),
        (Wish("autoawq", group=48), "with groups of 48; the nearest is --backend autoawq --method awq --bits 4 --gr"),
    ],
)  # fmt: skip
def test_what_does_not_exist_is_refused_with_the_nearest(wish: Wish, said: str) -> None:
    with pytest.raises(QuantlabError) as refused:
        choose(wish)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish("autogptq"), "unknown backend 'autogptq'; did you mean"),
        (Wish(method="gtpq"), "unknown method 'gtpq'; did you mean 'gptq'?"),
        (Wish("bitsandbytes", "nf4"), "nf4 is a format, not a method; say --format nf4"),
        (Wish(format="nvfp"), "unknown format 'nvfp'; did you mean"),
        (Wish(format="int4_g64", bits=3), "int4_g64 means --bits 4, and --bits 3 was given"),
        (Wish(format="awq_int4_g64", group=128), "awq_int4_g64 means --group 64, and --group 128 was given"),
    ],
)
def test_a_wrong_request_is_a_usage_error(wish: Wish, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        choose(wish)
    assert said in str(refused.value)


def test_every_library_offers_something_and_every_offer_has_a_library() -> None:
    assert {offer.library for offer in OFFERS} == set(LIBRARIES)


def test_llama_cpp_is_offered_with_every_type_that_it_is_wrapped_for() -> None:
    from quantlab.backends.llama_cpp import FTYPES, IMPORTANCE_FTYPES

    assert set(LLAMA_CPP_GGUF) == set(FTYPES)
    assert set(WITH_IMPORTANCE) == set(IMPORTANCE_FTYPES)


def test_every_format_that_quantlab_offers_can_be_stored() -> None:
    from quantlab.backends.quantizers.runners.with_quantlab import build
    from quantlab.checkpoints.kinds import kind_for
    from quantlab.plan.mixtures import MIXTURES

    for choice in _choices("quantlab"):
        if choice.offer.family in GGUF:
            assert choice.format in MIXTURES
            continue
        order = {"format": choice.format, "bits": choice.bits, "group": choice.group, "symmetric": choice.symmetric}
        fmt, _ = build(order | {"dtype": "bfloat16"})
        assert fmt.name == choice.format
        assert kind_for(fmt).holds(fmt)
