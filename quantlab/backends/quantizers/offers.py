"""Which library makes which format by which method, as data; and the nearest thing to what it does not make.

A wish leaves open what the user did not say. The first entry of the table that fits it is taken, with the first of its
bits, groups and symmetries: so the order of everything here is the order of preference, and the first is the default.

    family      names                                             stored as
    int         int4_g128 ... one name for bits and group         compressed-tensors, packed
    awq_int     awq_int4_g128                                     AutoAWQ's GEMM
    gptq_int    gptq_int4_g128                                    GPTQ
    the rest    fp8_e4m3_channel, nvfp4, nf4, q4_k_m, ...         compressed-tensors, bitsandbytes, GGUF

Sources: the libraries themselves, in the versions of quantlab.backends.quantizers.libraries. Every library and family
is tried in tests/reference; what needs a GPU was not tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from quantlab.backends.quantizers.order import ROW
from quantlab.errors import QuantlabError, UsageError, unknown
from quantlab.plan.mixtures import MIXTURES

BOTH, ASYMMETRIC = (True, False), (False,)
GROUPS = (128, 64, 32)
INTS = (4, 8, 3, 2)  # bits
FOUR_BITS = ("nf4", "nf4_dq", "fp4", "fp4_dq")  # of bitsandbytes
WITH_TEXT = ("gptq", "awq", "awq_gptq", "smoothquant", "smoothquant_gptq", "imatrix")  # methods that calibrate
GROUPED = ("int", "awq_int", "gptq_int")
ALIASES = {
    "w8a8": "int8", "fp8": "fp8_e4m3_channel", "awq": "awq_int", "gptq": "gptq_int", "w4a16": "int4",
    "nvfp4a16": "nvfp4", "mxfp4a16": "mxfp4",
}  # fmt: skip
OWN_NAMES = {("bitsandbytes", "int8"): "llm_int8"}  # what a library calls a format


@dataclass(frozen=True)
class Offer:
    """A library, a method, and a family of formats with the sizes it comes in.

    groups: empty where the format leaves no choice. symmetric: empty likewise. gpu: only with a GPU. text: needs
    calibration text.
    """

    library: str
    method: str
    family: str
    bits: tuple[int, ...]
    groups: tuple[int, ...] = ()
    symmetric: tuple[bool, ...] = ()
    gpu: bool = False
    also_text: bool = False

    @property
    def text(self) -> bool:
        """Whether it is calibrated."""
        return self.also_text or self.method in WITH_TEXT


@dataclass(frozen=True)
class Wish:
    """What a user asks for; None is left open. group: ROW for whole rows."""

    library: str = "quantlab"
    method: str | None = None
    format: str | None = None
    bits: int | None = None
    group: int | None = None
    symmetric: bool | None = None


@dataclass(frozen=True)
class Choice:
    """One thing that can be made."""

    offer: Offer
    bits: int
    group: int | None
    symmetric: bool | None

    @property
    def format(self) -> str:
        """Its name: `int4_g128`, `gptq_int4` for whole rows, `nf4`."""
        if self.offer.family not in GROUPED:
            return self.offer.family
        return f"{self.offer.family}{self.bits}" + (f"_g{self.group}" if self.group != ROW else "")

    @property
    def words(self) -> str:
        """The command line's words for it.

        >>> choose(Wish("autoawq")).words
        '--backend autoawq --method awq --bits 4 --group 128'
        """
        said = [f"--backend {self.offer.library}", f"--method {self.offer.method}"]
        if self.offer.family in GROUPED:
            said += [f"--bits {self.bits}", f"--group {self.group}"]
        if choose(Wish(self.offer.library, self.offer.method)).offer.family != self.offer.family:
            said.insert(2, f"--format {self.offer.family}")
        if self.offer.family in GROUPED and self.symmetric != self.offer.symmetric[0]:
            said.append("--symmetric" if self.symmetric else "--asymmetric")
        return " ".join(said)


def _gguf(library: str, method: str, types: tuple[str, ...]) -> Iterator[Offer]:
    for name in types:
        digits = re.search(r"\d+", name)
        yield Offer(library, method, name, (int(digits[0]) if digits else 0,))


def _quantlab() -> Iterator[Offer]:
    """Every method with every format that can be written: integer grids take all of them."""
    for method in ("awq", "gptq", "awq_gptq", "rtn", "hqq"):
        families = {"awq": ("awq_int", "int", "gptq_int"), "gptq": ("gptq_int", "int", "awq_int")}
        for family in families.get(method, ("int", "awq_int", "gptq_int")):
            signs = ASYMMETRIC if family == "awq_int" or method == "hqq" else BOTH  # hqq moves zero points
            yield Offer("quantlab", method, family, (4,) if family == "awq_int" else INTS, (*GROUPS, ROW), signs)
    yield Offer("quantlab", "smoothquant", "int8", (8,))
    for family in ("int8", "fp8_e4m3_channel", "fp8_e4m3", "fp8_e4m3_block128", "llm_int8"):
        yield Offer("quantlab", "rtn", family, (8,))
    for family in ("nvfp4", "mxfp4", *FOUR_BITS):
        yield Offer("quantlab", "rtn", family, (4,))
    yield from _gguf("quantlab", "rtn", tuple(name for name in OUR_GGUF if not MIXTURES[name].needs_importance))
    yield from _gguf("quantlab", "imatrix", OUR_GGUF)


def _llm_compressor() -> Iterator[Offer]:
    for method in ("gptq", "awq", "rtn"):
        yield Offer("llm-compressor", method, "int", (4, 8), (*GROUPS, ROW), BOTH, gpu=method == "awq")
    for method in ("smoothquant", "smoothquant_gptq", "gptq", "rtn"):
        yield Offer("llm-compressor", method, "int8", (8,))
    for family, bits, text in (("fp8_e4m3_channel", 8, False), ("fp8_e4m3_block128", 8, False), ("fp8_e4m3", 8, True),
                               ("nvfp4", 4, False), ("nvfp4_w4a4", 4, True),
                               ("mxfp4", 4, False), ("mxfp4_w4a4", 4, False)):  # fmt: skip
        yield Offer("llm-compressor", "rtn", family, (bits,), also_text=text)


OUR_GGUF = ("q4_k_m", *(name for name in MIXTURES if name != "q4_k_m"))
FLOATS = ("bf16", "f16")
LLAMA_CPP_GGUF = ("q4_k_m", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q4_k_s", "q3_k_m", "q3_k_l", "q3_k_s", "q2_k", "q5_1",
                  "q5_0", "q4_1", "q4_0", "iq4_nl", "iq4_xs", *FLOATS)  # fmt: skip
WITH_IMPORTANCE = ("iq3_m", "iq3_s", "iq3_xs", "iq3_xxs", "iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s",
                   "q2_k_s")  # fmt: skip

GGUF = frozenset((*OUR_GGUF, *LLAMA_CPP_GGUF, *WITH_IMPORTANCE))  # families that are one file

OFFERS = (
    *_quantlab(),
    Offer("autoawq", "awq", "awq_int", (4,), GROUPS, ASYMMETRIC),
    *_llm_compressor(),
    Offer("gptqmodel", "gptq", "gptq_int", INTS, (*GROUPS, ROW), BOTH),
    Offer("gptqmodel", "awq", "awq_int", (4,), GROUPS, ASYMMETRIC),
    *(Offer("bitsandbytes", "rtn", name, (4,)) for name in FOUR_BITS),
    Offer("bitsandbytes", "rtn", "llm_int8", (8,)),
    *_gguf("llama.cpp", "rtn", LLAMA_CPP_GGUF),
    *_gguf("llama.cpp", "imatrix", (*(name for name in LLAMA_CPP_GGUF if name not in FLOATS), *WITH_IMPORTANCE)),
)  # fmt: skip


def choose(wish: Wish) -> Choice:
    """The first thing that fits a wish.

    Raises UsageError for unknown names, with the nearest; QuantlabError for a combination that no library makes or this
    one does not, with the nearest that works.
    """
    _check_names(wish)
    wanted = _spelled_out(wish)
    ours = list(_choices(wanted.library))
    for choice in ours:
        if _misses(choice, wanted) == 0:
            return choice
    raise QuantlabError(_refusal(wish, wanted, ours))


def _choices(library: str | None = None) -> Iterator[Choice]:
    for offer in OFFERS:
        if library in (None, offer.library):
            for bits in offer.bits:
                for group in offer.groups or (None,):
                    for symmetric in offer.symmetric or (None,):
                        yield Choice(offer, bits, group, symmetric)


def _check_names(wish: Wish) -> None:
    libraries = dict.fromkeys(offer.library for offer in OFFERS)
    if wish.library not in libraries:
        raise unknown("backend", wish.library, libraries)
    methods = {offer.method for offer in OFFERS}
    if wish.method in {offer.family for offer in OFFERS} - methods:
        raise UsageError(f"{wish.method} is a format, not a method; say --format {wish.method}")
    if wish.method is not None and wish.method not in methods:
        raise unknown("method", wish.method, methods)


def _spelled_out(wish: Wish) -> Wish:
    """The wish with a format's name taken apart: `awq_int4_g64` says bits and group too."""
    if wish.format is None:
        return wish
    name = ALIASES.get(wish.format.lower(), wish.format.lower())
    name = OWN_NAMES.get((wish.library, name), name)
    families = {offer.family for offer in OFFERS}
    found = re.fullmatch(r"((?:awq_|gptq_)?int)(\d)(?:_g(\d+))?", name)
    if name in families or not found:
        if name not in families:
            raise unknown(
                "format", wish.format, families | set(ALIASES) | {"int4_g128", "awq_int4_g128", "gptq_int4_g128"}
            )
        return replace(wish, format=name)
    bits, group = int(found[2]), int(found[3]) if found[3] else wish.group
    for said, meant, option in ((wish.bits, bits, "--bits"), (wish.group, group, "--group")):
        if said is not None and said != meant:
            raise UsageError(
                f"{wish.format} means {option} {meant}, and {option} {said} was given; leave one of them out"
            )
    return replace(wish, format=found[1], bits=bits, group=group)


def _misses(choice: Choice, wish: Wish) -> float:
    """How far a choice is from a wish; 0 is what was asked for."""
    offer = choice.offer
    far = 8.0 * (wish.method not in (None, offer.method)) + 4.0 * (wish.format not in (None, offer.family))
    if wish.bits is not None:
        far += 2.0 * (wish.bits != choice.bits) + abs(wish.bits - choice.bits) / 8
    if wish.group is not None and wish.group != choice.group:
        far += 1.0
    if wish.symmetric is not None and wish.symmetric != choice.symmetric:
        far += 0.5
    return far


def _refusal(wish: Wish, wanted: Wish, ours: list[Choice]) -> str:
    asked = [wish.method or "", f"{wish.bits}-bit" if wish.bits else "", wish.format or ""]
    if wish.group is not None:
        asked.append("with whole rows" if wish.group == ROW else f"with groups of {wish.group}")
    if wish.symmetric is not None:
        asked.append("symmetric" if wish.symmetric else "asymmetric")
    nearest = min(ours, key=lambda choice: _misses(choice, wanted))
    elsewhere = next((choice for choice in _choices() if _misses(choice, wanted) == 0), None)
    other = f", or elsewhere: {elsewhere.words}" if elsewhere else ""
    return f"{wish.library} does not make {' '.join(filter(None, asked))}; the nearest is {nearest.words}{other}"
