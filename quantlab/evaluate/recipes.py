"""How each row of the comparison is made: from its name to a method, a backend and a function.

A recipe quantizes the linear layers of a model and hands back something that gives logits, with what it takes to make
and to store. RECIPES are the formats as their usual libraries make them; any other name is read as
`quantlab.evaluate.names.spelled` says, and checked before any work is done.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

from quantlab.backends import bitsandbytes, llama_cpp
from quantlab.backends.quantizers.libraries import LIBRARIES
from quantlab.backends.quantizers.offers import Wish, choose
from quantlab.core import Format
from quantlab.errors import UsageError, unknown
from quantlab.evaluate.candidates import Recipe
from quantlab.evaluate.made_by_libraries import by_library
from quantlab.evaluate.made_by_llama_cpp import by_llama_cpp, method_of
from quantlab.evaluate.made_here import baseline, by_bitsandbytes, by_method, rounded
from quantlab.evaluate.names import ASYMMETRIC, BASELINE, LLAMA_CPP, QUANTLAB, spelled
from quantlab.formats import catalog as formats
from quantlab.methods import catalog as methods

OWN_INTEGERS = ("autoawq", "gptqmodel")  # libraries that store integers in a layout of their own

_ALL = (
    Recipe(BASELINE, BASELINE, "none", "transformers", baseline),
    *(Recipe(name, name, "rtn", QUANTLAB, partial(rounded, fmt)) for name, fmt in formats.FORMATS.items()),
    *(Recipe(kind, kind, "rtn", "bitsandbytes", partial(by_bitsandbytes, kind)) for kind in bitsandbytes.KINDS),
    *(
        Recipe(ftype, ftype, method_of(ftype), LLAMA_CPP, partial(by_llama_cpp, ftype))
        for ftype in llama_cpp.FTYPES
        if ftype != BASELINE
    ),
)
RECIPES = {recipe.name: recipe for recipe in _ALL}  # what several libraries make belongs to the last of them


def recipe(name: str) -> Recipe:
    """The recipe of a name; raises UsageError for one that says nothing, with the nearest that does."""
    if name in RECIPES:
        return RECIPES[name]
    asked = spelled(name)
    if asked.backend is None and asked.method is None and not asked.format.endswith(ASYMMETRIC):
        raise unknown("format", name, RECIPES)
    backend = asked.backend or (LLAMA_CPP if asked.format in llama_cpp.FTYPES else QUANTLAB)
    if backend == QUANTLAB:
        return _ours(name, asked.method or "rtn", asked.format)
    if backend == LLAMA_CPP and asked.method is None and asked.format in RECIPES:
        return RECIPES[asked.format]
    return _theirs(name, backend, asked.method, asked.format)


def problem_of(backend: str) -> str | None:
    """None when a backend can be used here, else the sentence that says why not and how to get it."""
    if backend == LLAMA_CPP:
        return llama_cpp.available()
    if backend == "bitsandbytes":
        return bitsandbytes.available()
    return LIBRARIES[backend].missing() if backend in LIBRARIES else None


def _ours(name: str, method: str, fmt: str) -> Recipe:
    methods.get(method)
    grid = _format(fmt)
    make = partial(rounded, grid) if method == "rtn" else partial(by_method, method, grid)
    return Recipe(name, fmt, method, QUANTLAB, make)


def _format(name: str) -> Format:
    """A format of quantlab's by its name, which may end in `_asym`."""
    base = name.removesuffix(ASYMMETRIC)
    if base == name:
        return formats.get(name)
    if base in formats.FORMATS and "symmetric" not in formats.options(base):
        raise UsageError(f"{base} leaves no choice of zero points; name it without {ASYMMETRIC}")
    return formats.get(base, symmetric=False)


def _theirs(name: str, backend: str, method: str | None, fmt: str) -> Recipe:
    """What a library makes; of `int4_g128` its own kind of integers."""
    base, symmetric = fmt.removesuffix(ASYMMETRIC), False if fmt.endswith(ASYMMETRIC) else None
    wish = Wish(backend, method, base, symmetric=symmetric)
    if sizes := re.fullmatch(r"int(\d)_g(\d+)", base):
        own = replace(wish, format=None, bits=int(sizes[1]), group=int(sizes[2]))
        wish = own if backend in OWN_INTEGERS else wish
    choice = choose(wish)
    return Recipe(name, choice.format, choice.offer.method, backend, partial(by_library, wish, choice))
