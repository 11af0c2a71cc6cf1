"""Which type each matrix gets in llama.cpp's mixtures: Q4_K_M is Q4_K, with Q6_K where an error costs most.

A mixture is a base type and exceptions, each for one kind of matrix in some of the blocks. The exceptions come from
experience rather than theory, and show where a model is sensitive: the value projection (with grouped queries it is
small, too), the down projection, blocks at both ends before those in the middle, and always the output head.

    output head, and an embedding that serves as one    Q6_K, or Q8_0 where that is the base or blocks do not fit
    an embedding beside a head of its own               the base
    rows that do not divide into blocks of 256          a type of blocks of 32 with about as many bits (FALLBACK)
    a fused q, k, v, and DeepSeek's kv_b                as a value projection
    a mixture of exactly 8 experts                      Q8_0 for k and v, Q5_K for o: little beside the experts

Reference: llama.cpp, src/llama-quant.cpp (`llama_tensor_get_type_impl`, `tensor_type_fallback`), release of
llama-cpp-python 0.3.36; experts and fused projections in the file of 2026 (commit 007dbbf3). Left out: mixtures of
IQ1, IQ2 and IQ3 types.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where a matrix stands: its role (`v_proj`, `embedding`, `lm_head`, ...), in which of how many blocks.

    columns: weights in a row. sharing: query heads that share a value head. tied: the embedding is the output head.
    experts: how many the model has (0: none).
    """

    role: str
    columns: int
    layer: int = 0
    layers: int = 1
    sharing: int = 1
    tied: bool = False
    experts: int = 0


Where = Callable[[Place], bool]


def _everywhere(place: Place) -> bool:
    return True


def _more_bits(place: Place) -> bool:
    """The first and the last eighth of the blocks, and every third between them."""
    n, i = place.layers, place.layer
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def _first_eighth(place: Place) -> bool:
    return place.layer < place.layers // 8


def _first_sixteenth(place: Place) -> bool:
    return place.layer < place.layers // 16


def _first(count: int) -> Where:
    return lambda place: place.layer < count


def _shared(place: Place) -> bool:
    """Four query heads or more share a value head, so more bits for it cost little."""
    return place.sharing >= 4


@dataclass(frozen=True)
class Bump:
    """An exception: another type for this role, there. importance: only with (True) or without (False) a matrix."""

    role: str
    type: str
    where: Where = _everywhere
    importance: bool | None = None


@dataclass(frozen=True)
class Mixture:
    """A base type and its exceptions; the first that applies counts."""

    base: str
    bumps: tuple[Bump, ...] = ()
    needs_importance: bool = False


def _iq4(base: str) -> Mixture:
    return Mixture(base, (Bump("v_proj", "q5_k", _shared), Bump("down_proj", "q5_k", _first_eighth, importance=False)))


MIXTURES = {
    "q2_k": Mixture("q2_k", (
        Bump("v_proj", "q4_k", _shared), Bump("v_proj", "q3_k"), Bump("down_proj", "q3_k"), Bump("o_proj", "q3_k"),
    )),
    "q2_k_s": Mixture("q2_k", (
        Bump("v_proj", "q4_k", _shared), Bump("down_proj", "q4_k", _first_eighth),
    ), needs_importance=True),
    "q3_k_s": Mixture("q3_k"),
    "q3_k_m": Mixture("q3_k", (
        Bump("v_proj", "q5_k", _first(2)), Bump("v_proj", "q4_k"),
        Bump("down_proj", "q5_k", _first_sixteenth), Bump("down_proj", "q4_k"), Bump("o_proj", "q4_k"),
    )),
    "q3_k_l": Mixture("q3_k", (Bump("v_proj", "q5_k"), Bump("down_proj", "q5_k"), Bump("o_proj", "q5_k"))),
    "q4_0": Mixture("q4_0", (Bump("down_proj", "q4_1", _first_eighth, importance=True),)),
    "q4_1": Mixture("q4_1"),
    "q4_k_s": Mixture("q4_k", (Bump("v_proj", "q5_k", _first(4)), Bump("down_proj", "q5_k", _first_eighth))),
    "q4_k_m": Mixture("q4_k", (Bump("v_proj", "q6_k", _more_bits), Bump("down_proj", "q6_k", _more_bits))),
    "q5_0": Mixture("q5_0", (Bump("down_proj", "q5_1", _first_eighth, importance=True),)),
    "q5_1": Mixture("q5_1"),
    "q5_k_s": Mixture("q5_k"),
    "q5_k_m": Mixture("q5_k", (Bump("v_proj", "q6_k", _more_bits), Bump("down_proj", "q6_k", _more_bits))),
    "q6_k": Mixture("q6_k"),
    "q8_0": Mixture("q8_0"),
    "iq4_nl": _iq4("iq4_nl"),
    "iq4_xs": _iq4("iq4_xs"),
}  # fmt: skip
FALLBACK = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0", "iq4_xs": "iq4_nl"}
_SUPER, _BLOCK = 256, 32
_AS_VALUES = {"qkv_proj": "v_proj", "kv_b_proj": "v_proj"}
_EIGHT = tuple(MIXTURES[name] for name in ("q2_k", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m", "iq4_nl", "iq4_xs"))


def type_of(place: Place, mixture: Mixture, importance: bool = False) -> str:
    """The type of a matrix in a mixture; importance: whether an importance matrix is given.

    >>> [type_of(Place("v_proj", 4096, layer, 32), MIXTURES["q4_k_m"]) for layer in (0, 4, 6, 31)]
    ['q6_k', 'q4_k', 'q6_k', 'q6_k']
    >>> type_of(Place("v_proj", 576, 0, 30), MIXTURES["q4_k_m"])  # 576 is no multiple of 256
    'q8_0'
    """
    chosen = _chosen(place, mixture, importance)
    if _fits(place, chosen):
        return chosen
    other = FALLBACK.get(chosen, chosen)
    return other if _fits(place, other) else "f16"


def _chosen(place: Place, mixture: Mixture, importance: bool) -> str:
    if place.role == "lm_head" or (place.role == "embedding" and place.tied):
        return "q8_0" if mixture.base == "q8_0" or not _fits(place, mixture.base) else "q6_k"
    chosen, role = mixture.base, _AS_VALUES.get(place.role, place.role)
    if place.experts == 8 and role in ("k_proj", "v_proj", "o_proj"):
        if role != "o_proj":
            return "q8_0"
        return "q5_k" if mixture in _EIGHT else mixture.base
    for bump in mixture.bumps:
        if bump.role == role and bump.where(place) and bump.importance in (None, importance):
            chosen = bump.type
            break
    if role == "v_proj" and place.layers == 80 and place.sharing > 1 and chosen in ("q3_k", "q4_k"):
        return "q5_k"  # "the 70B model": 8 query heads share each value head, so more bits cost next to nothing
    return chosen


def _fits(place: Place, name: str) -> bool:
    block = _SUPER if name.endswith("_k") or name == "iq4_xs" else _BLOCK
    return place.columns % block == 0
