"""Open exercise: two formats on a text of the learner's own. Which is better, or can this text not tell?"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor

from quantlab.errors import QuantlabError
from quantlab.evaluate.logits import Baseline, TorchLogits
from quantlab.evaluate.quality import Quality, measure
from quantlab.evaluate.statistics import LEVEL, chance
from quantlab.evaluate.windows import make_windows
from quantlab.formats.catalog import get
from quantlab.lesson.exercises import Exercise
from quantlab.lesson.judging import Verdict, incomplete
from quantlab.lesson.lesson2.story import story_model
from quantlab.lesson.message import Kind, number

OUTCOMES = ("a", "b", "cannot tell")
_LONGEST = 100_000  # characters


class Answers(NamedTuple):
    """Which is better by perplexity and by KL divergence, each one of OUTCOMES, and how often chance says so."""

    perplexity: str
    kl: str
    p_perplexity: float
    p_kl: float


def measured(fmt: str, texts: tuple[str, ...]) -> Quality:
    """The story model in this format, on these texts, each an independent sample."""
    model, grid = story_model(), get(fmt)
    weights = {f"{name}.weight": grid.quantize(W).dequantize() for name, W in model.layers.items()}
    return measure(TorchLogits(model.loaded.model, weights), _baseline(texts))


@lru_cache(maxsize=4)
def _baseline(texts: tuple[str, ...]) -> Baseline:
    loaded = story_model().loaded
    config = loaded.config
    windows = make_windows(list(texts), loaded.tokenizer, loaded.source.folder, config.max_position_embeddings)
    return Baseline(TorchLogits(loaded.model), windows, config.vocab_size)


@lru_cache(maxsize=32)
def answers(a: str, b: str, texts: tuple[str, ...]) -> Answers:
    """What the texts say of two formats: better only where chance would not say so."""
    one, other = measured(a, texts), measured(b, texts)
    by_nll, p_nll = _better(one.nll, other.nll, one.cluster)
    by_kl, p_kl = _better(one.kl, other.kl, one.cluster)
    return Answers(by_nll, by_kl, p_nll, p_kl)


def _better(a: Tensor, b: Tensor, cluster: Tensor) -> tuple[str, float]:
    p = chance(a, b, cluster)
    if p >= LEVEL:
        return "cannot tell", p
    return ("a" if a.mean() < b.mean() else "b"), p


def judge(exercise: Exercise, answer: Any, rng: random.Random) -> Verdict:
    """Measure both on the texts, compare."""
    if (verdict := incomplete(answer, ("a", "b", "texts", "perplexity", "kl"))) is not None:
        return verdict
    texts = answer["texts"]
    if (
        not isinstance(texts, list | tuple)
        or len(texts) < 2
        or not all(isinstance(t, str) and t.strip() for t in texts)
    ):
        return Verdict(Kind.WRONG, (exercise.diagnoses["one text"],), "one text")
    if sum(map(len, texts)) > _LONGEST:
        return Verdict(Kind.WRONG, (f"That is much text: at most {_LONGEST:,} characters here.",))
    if not {answer["perplexity"], answer["kl"]} <= set(OUTCOMES):
        return Verdict(Kind.WRONG, (f"`perplexity` and `kl` are one of {', '.join(map(repr, OUTCOMES))}.",))
    try:
        right = answers(answer["a"], answer["b"], tuple(texts))
    except (QuantlabError, ValueError) as error:
        return Verdict(Kind.WRONG, (f"{str(error)[:1].upper()}{str(error)[1:]}.",))
    if (answer["perplexity"], answer["kl"]) == (right.perplexity, right.kl):
        return Verdict(Kind.PASSED, (_praise(answer["a"], answer["b"], right),))
    for key, given, wanted in (("perplexity", answer["perplexity"], right.perplexity), ("kl", answer["kl"], right.kl)):
        if given != wanted:
            sort = "noise" if wanted == "cannot tell" else "told"
            return Verdict(Kind.WRONG, (exercise.diagnoses[f"{key} {sort}"],), f"{key} {sort}")
    raise AssertionError("one of the two differs")


def _praise(a: str, b: str, right: Answers) -> str:
    names = {"a": f"{a} is better", "b": f"{b} is better", "cannot tell": "the text cannot tell"}
    return (
        f"By perplexity {names[right.perplexity]} (p = {number(round(right.p_perplexity, 4))}: so often would chance "
        f"say so), by KL divergence {names[right.kl]} (p = {number(round(right.p_kl, 4))})."
    )


SEVEN_TEXTS = (  # of seven kinds: where a learner begins
    "The committee met on Monday. It did not agree on the plan, and so the old one stays for another year.",
    "Mix the flour with two eggs. Add a little salt and some milk, and wait for half an hour before you bake it.",
    "The road goes up to the lake. From there you see the whole valley, and on clear days the sea behind it.",
    "My grandmother had a shop. She sold bread and papers, and she knew the name of every child in the street.",
    "A plane can fly because air moves faster over the wing. The wing is pushed up, and the plane goes with it.",
    "We were late, and the train was gone. So we walked along the river and talked about what we would do next.",
    "The cat sleeps on the old chair. In the night she hunts in the garden, and in the morning she wants her milk.",
)


def _mine(perplexity: str, kl: str, a: str = "int8", b: str = "int4_g128", count: int = 7) -> dict[str, Any]:
    return {"a": a, "b": b, "texts": list(SEVEN_TEXTS[:count]), "perplexity": perplexity, "kl": kl}


_STARTER = """\
from quantlab.lesson.lesson4.own_text import SEVEN_TEXTS

mine = {
    "a": "int8",
    "b": "int4_g128",
    "texts": SEVEN_TEXTS,  # put yours in their place: a list of texts, each an independent sample
    "perplexity": ...,  # which is better by perplexity: "a", "b" or "cannot tell"
    "kl": ...,  # and by KL divergence
}
"""

exercise = Exercise(
    id="lesson4-own-text",
    title="Your own text: better, or noise?",
    question=(
        "Put texts of your own under `texts`, a handful or more, each of a few sentences, and two formats under `a` "
        "and `b`. Which format is better on them, by **perplexity** and by **KL divergence**? A difference that chance "
        f"gives in more than {LEVEL:.0%} of the cases is none: then say `cannot tell`."
    ),
    starter=_STARTER,
    answer=_mine("cannot tell", "a"),
    hints=(
        "`measured(fmt, texts)` from `quantlab.lesson.lesson4.own_text` has `nll`, `kl` and `cluster`, word by word.",
        "`chance(x, y, cluster)` of `quantlab.evaluate.statistics` flips the signs of the texts' differences: p.",
        "With fewer than six texts p cannot fall below 0.05, whatever the formats: all signs equal are 2 ways of 2^n.",
    ),
    known_wrong=(
        (_mine("a", "a"), "perplexity noise"),
        (_mine("cannot tell", "cannot tell"), "kl told"),
        (_mine("cannot tell", "a", count=4), "kl noise"),
        (_mine("cannot tell", "a", "int8", "int2_g128"), "perplexity told"),
        (_mine("cannot tell", "a", count=1), "one text"),
    ),
    diagnoses={
        "perplexity noise": (
            "By perplexity one number is smaller, but chance gives as large a difference too often: these texts cannot "
            "tell."
        ),
        "perplexity told": "Chance gives so large a difference in perplexity too rarely: these texts can tell.",
        "kl noise": "In KL divergence too few texts agree for that: chance alone could have done it.",
        "kl told": "By KL divergence all these texts say the same, and chance rarely does: they can tell.",
        "one text": "`texts` must be a list of at least two texts, none of them empty: one sample has no error bar.",
    },
    judge=judge,
    solution_code=_STARTER.replace("...,  # which", '"",  # which').replace("...,  # and", '"",  # and')
    + """\

from quantlab.lesson.lesson4.own_text import answers

found = answers(mine["a"], mine["b"], tuple(mine["texts"]))
mine["perplexity"], mine["kl"] = found.perplexity, found.kl
""",
)
