"""Calibration sabotage: the same method on the right text, on other text, on noise, on little text, without BOS.

GPTQ, AWQ and importance matrices look at the inputs of each layer while some text runs through the model. Nothing
checks that the text is like what the model will read later.

    stories        sixteen of the bundled calibration stories
    Python code    sixteen pieces of Python's own standard library, as long as the stories
    random tokens  ids drawn evenly from the vocabulary, as long as the stories
    no BOS         the sixteen stories without the token that begins every text
    N stories      fewer, or more
"""

from __future__ import annotations

import importlib.util
import random
from functools import lru_cache
from pathlib import Path

from quantlab.errors import QuantlabError, unknown
from quantlab.lesson.lesson2.story import story_model
from quantlab.lesson.lesson3.contest import CALIBRATED, sixteen_stories
from quantlab.models.samples import Calibration, stories, windows

MODULES = ("argparse", "ast", "calendar", "csv", "difflib", "fractions", "heapq", "inspect", "logging", "mailbox",
           "pickle", "shutil", "statistics", "tarfile", "textwrap", "zipfile")  # fmt: skip
KINDS = ("stories", "Python code", "random tokens", "no BOS")
COUNTS = (1, 2, 4, 8, 16, 32, 60)


@lru_cache(maxsize=16)
def text(kind: str) -> Calibration:
    """The calibration of this name, or of so many stories ("4 stories").

    >>> len(text("4 stories").texts)
    4
    """
    if kind == "stories":
        return sixteen_stories()
    if kind.endswith(" stories") and kind.split()[0].isdigit():
        return first_stories(int(kind.split()[0]))
    if kind not in KINDS:
        raise unknown("calibration text", kind, KINDS)
    lengths = [len(window) for window in _windows()]
    rows = {"Python code": _code, "random tokens": _random, "no BOS": _without_bos}[kind](lengths)
    return Calibration(tuple(rows))


def first_stories(count: int) -> Calibration:
    """So many of the bundled calibration stories."""
    found = stories()
    if not 1 <= count <= len(found):
        raise QuantlabError(f"there are {len(found)} calibration stories, not {count}; take 1 to {len(found)}")
    return Calibration(tuple(found[:count]), at_least=1)


def own(texts: list[str]) -> Calibration:
    """Texts of the learner's own, cut where they are too long; raises QuantlabError where there is nothing in them."""
    return Calibration(tuple(texts), cut="split", at_least=1)


def _windows() -> list[tuple[int, ...]]:
    return windows(story_model().loaded, sixteen_stories())


def _bos() -> int:
    return int(story_model().loaded.tokenizer.bos_token_id)


def _code(lengths: list[int]) -> list[tuple[int, ...]]:
    tokenizer = story_model().loaded.tokenizer
    rows = []
    for name, length in zip(MODULES[:CALIBRATED], lengths, strict=True):
        spec = importlib.util.find_spec(name)
        assert spec is not None, name
        assert spec.origin is not None, name
        source = Path(spec.origin).read_text(encoding="utf-8")
        middle = source[len(source) // 2 :][: 8 * length]  # past the licence and the docstring
        ids = tokenizer(middle, add_special_tokens=False)["input_ids"]
        rows.append((_bos(), *ids[: length - 1]))
    return rows


def _random(lengths: list[int]) -> list[tuple[int, ...]]:
    rng, size = random.Random(0), int(story_model().loaded.config.vocab_size)
    return [(_bos(), *(rng.randrange(size) for _ in range(length - 1))) for length in lengths]


def _without_bos(lengths: list[int]) -> list[tuple[int, ...]]:
    return [window[1:] for window in _windows()]
