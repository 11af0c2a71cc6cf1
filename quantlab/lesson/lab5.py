"""What lab 5 needs beside the library: a server of this machine, and the same questions to each of its variants.

On a GPU vLLM serves a real model; in a rehearsal vLLM's CPU build serves the bundled one, or llama.cpp's server does,
where vLLM is not there. Prompts have PROMPT tokens, answers OUTPUT.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import median
from typing import Any

from quantlab.errors import QuantlabError
from quantlab.lesson import distilled, lab, lab4
from quantlab.lesson.tables import Table
from quantlab.plan.capacity import Capacity, capacity
from quantlab.serve.batching import Measured, Policy, StepCost, simulate
from quantlab.serve.batching.calibrate import WHOLE, requests_of
from quantlab.serve.engines import ENGINES
from quantlab.serve.load import Limits, Load, Report, Search, loadtest
from quantlab.serve.load.prompts import made
from quantlab.serve.load.request import Sample
from quantlab.serve.metrics import Metrics, metrics
from quantlab.serve.replicas import Replicas
from quantlab.serve.server import Server

PROMPT, OUTPUT = 64, 32
AT_ONCE = (1, 2, 4, 8, 16)
ROUNDS = 3  # requests of each text that is under way at once
LONG, SHARED = 288, 256  # tokens of a prompt with instructions, and of these; vLLM shares whole blocks (128 on a CPU)


def engine() -> str:
    """vLLM where it is, else llama.cpp."""
    return "llama.cpp" if ENGINES["vllm"].missing() else "vllm"


def server(here: lab.Setting, options: Mapping[str, Any] | None = None, threads: int | None = None) -> Server:
    """A server of the setting's model, not started; `options` are vLLM's own."""
    return Server(here.model, engine=engine(), context=512, options=options, threads=threads)


@lru_cache(maxsize=2)
def _tokenizer(model: str) -> Any:
    from transformers import AutoTokenizer

    from quantlab.models.load import resolve

    return AutoTokenizer.from_pretrained(resolve(model).folder)


def prompts(here: lab.Setting, count: int, tokens: int = PROMPT, shared: int = 0) -> list[str]:
    """Pieces of the stories of so many tokens; the first `shared` the same in all."""
    return made(_tokenizer(here.model), count, tokens, shared)


def ask(at: Server | Replicas, asked: Sequence[str], load: Load, limits: Limits | None = None) -> Report:
    """One load test, every answer OUTPUT tokens; llama.cpp's server does not know `ignore_eos`, and may end sooner."""
    return loadtest(at.url, at.key, asked, load, max_tokens=OUTPUT, options=WHOLE, limits=limits)


def replicas(here: lab.Setting, copies: int) -> Replicas:
    """So many copies behind a router, not started. In a rehearsal llama.cpp's, which start in a second.

    On a GPU each takes the same share of its memory, whether there are one or two, so that the comparison is fair.
    """
    if here.mode is lab.Mode.LIVE:
        share = {"gpu_memory_utilization": 0.44}
        return Replicas(here.model, copies, engine="vllm", context=512, options=share)
    return Replicas(here.model, copies, context=512, threads=1)


def sweep(here: lab.Setting, at: Server | Replicas, at_once: Sequence[int] = AT_ONCE) -> dict[int, Report]:
    """Closed loops: so many texts at once -> what they got. Every prompt is new to the server's cache."""
    asked = iter(prompts(here, ROUNDS * sum(at_once)))
    return {n: ask(at, [next(asked) for _ in range(ROUNDS * n)], Load(ROUNDS * n, concurrency=n)) for n in at_once}


def step_cost(found: Mapping[int, Report]) -> StepCost:
    """The cost of the server's steps, fitted to a sweep: gaps between tokens, and first tokens of single texts."""

    def steps() -> Iterator[Measured]:
        for texts, report in found.items():
            if report.itl.p50:
                yield Measured(0, texts, texts * (PROMPT + OUTPUT // 2), report.itl.p50)
        if first := found[min(found)].ttft.p50:
            yield Measured(PROMPT, 0, 0, first)

    return StepCost.fit(list(steps()))


def expected(search: Search, cost: StepCost) -> list[Report]:
    """PREDICTED reports of the loads of a search, by the batching simulator at a server whose steps cost so much.

    llama.cpp's server answers one request at a time: one slot.
    """
    return [_simulated(one, cost) for one in search.tried]


def _simulated(tried: Report, cost: StepCost) -> Report:
    slots = 256 if engine() == "vllm" else 1
    result = simulate(requests_of(tried.load, PROMPT, OUTPUT), cost, Policy("chunked", slots=slots))
    samples = [
        Sample(one.request.arrives, one.request.arrives, list(one.tokens), one.done, PROMPT, OUTPUT)
        for one in result.served
    ]
    return Report.of(samples, tried.load, result.seconds, tried.model, tried.limits)


def planned(here: lab.Setting, at_once: int = max(AT_ONCE)) -> Capacity:
    """PREDICTED, as in lesson 5: what this machine gives at best, from its bandwidth and its arithmetic alone."""
    return capacity(here.planned, "bf16", lab4.card(here), PROMPT, OUTPUT, at_once=at_once)


@dataclass(frozen=True)
class Variant:
    """One way to start vLLM: its options, and what they are meant to buy."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    buys: str = ""


def variants() -> list[Variant]:
    """What the lab compares; the small model that guesses is the bundled one's student."""
    ngram = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3}
    draft = {"method": "draft_model", "model": str(distilled.folder()), "num_speculative_tokens": 4}
    return [
        Variant("as it is"),
        Variant("without prefix cache", {"enable_prefix_caching": False}, "nothing: it shows what the cache bought"),
        Variant("KV cache in FP8", {"kv_cache_dtype": "fp8"}, "twice the tokens in the cache"),
        Variant("guesses from the text", {"speculative_config": ngram}, "fewer steps where text repeats"),
        Variant("guesses by a small model", {"speculative_config": draft}, "fewer steps"),
    ]


REPEATING = "The cat sat on the mat. The dog sat on the mat. The cat sat on the mat. The dog sat on the"


@dataclass(frozen=True)
class Kind:
    """A kind of question: how many readers at once, tokens of a prompt, how many of these all prompts share."""

    name: str
    at_once: int
    tokens: int = PROMPT
    shared: int = 0


KINDS = (
    Kind("stories, alone", 1),
    Kind("stories", 8),
    Kind("long, nothing shared", 8, LONG),
    Kind("long, one beginning", 8, LONG, SHARED),
    Kind("repeating, alone", 1, tokens=0),
)


@dataclass(frozen=True)
class Row:
    """What a variant did with one kind of question: medians over the repeats, and what the server counted meanwhile.

    prefix_hits: share of prompt tokens found in the prefix cache. kept: share of guessed tokens that were right, None
    where none was guessed. texts: the answers of the first repeat.
    """

    kind: str
    tokens_per_s: float
    ttft_s: float
    tpot_s: float
    prefix_hits: float
    kept: float | None
    texts: tuple[str, ...] = field(default=(), repr=False)

    def same(self, other: Row) -> float:
        """Share of answers that are word for word the other's: greedy, a guess that is checked changes none."""
        pairs = list(zip(self.texts, other.texts, strict=True))
        return sum(a == b for a, b in pairs) / len(pairs)


def _asked(here: lab.Setting, kind: Kind, repeats: int) -> list[list[str]]:
    """For each repeat ROUNDS prompts a reader; a story is never asked twice, or the prefix cache would know it."""
    count = ROUNDS * kind.at_once
    if not kind.tokens:
        return [[REPEATING] * count] * repeats
    found = prompts(here, count * repeats, kind.tokens, kind.shared)
    return [found[at * count : (at + 1) * count] for at in range(repeats)]


def measure(here: lab.Setting, at: Server, repeats: int = 3) -> list[Row]:
    """Each kind of question, `repeats` times."""
    rows = []
    for kind in KINDS:
        before, found = metrics(at) or Metrics(), []
        for asked in _asked(here, kind, repeats):
            found.append(ask(at, asked, Load(len(asked), concurrency=kind.at_once)))
            if found[-1].errors:
                raise QuantlabError(f"the server did not answer every request ({found[-1].errors})")
        spent = (metrics(at) or Metrics()) - before
        rows.append(
            Row(
                kind.name,
                median(one.tokens_per_s for one in found),
                median(one.ttft.p50 or 0 for one in found),
                median(one.tpot.p50 or 0 for one in found),
                spent.prefix_hits / spent.prefix_queries if spent.prefix_queries else 0.0,
                spent.accepted / spent.drafted if spent.drafted else None,
                tuple(sample.text for sample in found[0].samples),
            )
        )
    return rows


Tried = dict[str, list[Row] | str]  # variant -> its rows, or the sentence that says why it does not run here


def try_all(here: lab.Setting, repeats: int = 3) -> Tried:
    """Every variant, one server after the other."""
    found: Tried = {}
    for one in variants():
        try:
            with server(here, one.options) as at:
                found[one.name] = measure(here, at, repeats)
        except QuantlabError as error:
            found[one.name] = str(error).split(" (log: ")[0]  # the log goes with the server, the reason stays
    return found


HEAD = ("asked", "server", "tokens a second", "first token, ms", "each further, ms", "prompt from cache",
        "guesses kept", "same answers")  # fmt: skip


def table(found: Tried, title: str) -> Table:
    """All variants beside each other for each kind of question; what does not run here is left out (see `reasons`)."""
    ran = {name: {row.kind: row for row in rows} for name, rows in found.items() if not isinstance(rows, str)}
    first = next(iter(ran.values()))
    rows = [
        (
            kind, name, by[kind].tokens_per_s, 1e3 * by[kind].ttft_s, 1e3 * by[kind].tpot_s,
            f"{by[kind].prefix_hits:.0%}", "" if by[kind].kept is None else f"{by[kind].kept:.0%}",
            f"{by[kind].same(first[kind]):.0%}",
        )
        for kind in first for name, by in ran.items()
    ]  # fmt: skip
    return Table(HEAD, rows, title)


def reasons(found: Tried) -> str:
    """Which variants do not run here, and why."""
    return "\n".join(f"{name}: {rows}" for name, rows in found.items() if isinstance(rows, str))
