"""The loop of an engine, one step after the other: who computes how many tokens, and what that takes.

A text has `made` tokens of its answer, and wants prompt + made tokens in its cache. A step computes some of those that
are missing; when none is missing, the step ends with one more token made. So decoding is the case where one is missing,
a prompt in pieces the case where more are missing than a step has room for, and a text that lost its cache simply
misses all of them: vLLM 1 schedules in the same terms (vllm/v1/core/sched/scheduler.py, "num_computed_tokens").
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from quantlab.errors import UsageError
from quantlab.serve.batching.cost import StepCost
from quantlab.serve.batching.policy import Policy
from quantlab.serve.batching.request import Request, Served


@dataclass(frozen=True)
class Step:
    """One step: from when to when, its work as (request, slot, tokens, whether a prompt's), and tokens in the cache."""

    start: float
    end: float
    work: tuple[tuple[int, int, int, bool], ...]
    kv: int


@dataclass(frozen=True)
class Result:
    """What became of each request, in the order they were given, and every step."""

    served: tuple[Served, ...]
    steps: tuple[Step, ...]

    @property
    def seconds(self) -> float:
        """When the last step ended."""
        return self.steps[-1].end if self.steps else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Output tokens a second, of all texts together."""
        return sum(len(one.tokens) for one in self.served) / self.seconds if self.steps else 0.0

    def busy(self, slots: int) -> float:
        """Share of the slots' time in which they computed for somebody."""
        worked = sum(len(step.work) * (step.end - step.start) for step in self.steps)
        return worked / (slots * self.seconds) if self.steps else 0.0

    @property
    def preemptions(self) -> int:
        """How often a text lost its cache."""
        return sum(one.preempted for one in self.served)


@dataclass(eq=False)
class _Text:
    """A request under way."""

    number: int
    request: Request
    slot: int = -1
    computed: int = 0  # tokens in the cache, with those that it shares
    hit: int = 0  # of these, tokens that the prefix cache holds
    preempted: int = 0
    tokens: list[float] = field(default_factory=list)
    done: float | None = None

    @property
    def missing(self) -> int:
        return self.request.prompt + len(self.tokens) - self.computed

    @property
    def whole(self) -> bool:
        return len(self.tokens) == self.request.output


def simulate(requests: Sequence[Request], cost: StepCost, policy: Policy) -> Result:
    """Serve the requests under a policy; the same input always gives the same result.

    Raises UsageError where a single request is longer than the whole KV cache, and where one prefix has two lengths.
    """
    lengths = {(request.prefix, request.shared) for request in requests}
    if len({name for name, _ in lengths}) != len(lengths):
        raise UsageError("requests that share a prefix must say the same number of shared tokens")
    longest = max((request.longest for request in requests), default=0)
    if policy.kv_tokens is not None and longest > policy.kv_tokens:
        raise UsageError(f"a request needs {longest} tokens of KV cache, and kv_tokens is {policy.kv_tokens}")
    texts = [_Text(number, request) for number, request in enumerate(requests)]
    engine = _Engine(cost, policy, deque(sorted(texts, key=lambda text: text.request.arrives)))
    while engine.step():
        pass
    served = [Served(text.request, tuple(text.tokens), text.done or 0.0, text.preempted) for text in texts]
    return Result(tuple(served), tuple(engine.steps))


class _Engine:
    """Texts that have not come, that wait, and that run (the one that came last at the end)."""

    def __init__(self, cost: StepCost, policy: Policy, coming: deque[_Text]) -> None:
        self.cost, self.policy, self.coming = cost, policy, coming
        self.waiting: deque[_Text] = deque()
        self.running: list[_Text] = []
        self.prefixes: dict[str, int] = {}  # the prefix cache: name -> tokens, the longest unused first
        self.now = 0.0
        self.steps: list[Step] = []

    def step(self) -> bool:
        """Do one step; False when nothing is left to do."""
        if not self.waiting and not self.running and self.coming:
            self.now = max(self.now, self.coming[0].request.arrives)
        while self.coming and self.coming[0].request.arrives <= self.now:
            self.waiting.append(self.coming.popleft())
        plan = {"static": self._static, "continuous": self._continuous, "chunked": self._chunked}[self.policy.kind]()
        if not plan:
            return False
        self._run(plan)
        return True

    # ---------------------------------------------------------------------------------- who computes what
    def _static(self) -> dict[_Text, int]:
        if not self.running:  # the batch is filled only when it is empty, with room for the whole of every answer
            room = self.policy.kv_tokens
            while self.waiting and len(self.running) < self.policy.slots:
                if room is not None and (room := room - self.waiting[0].request.longest) < 0:
                    break
                self._seat(self.waiting.popleft())
        return {text: text.missing for text in self.running if not text.whole}

    def _continuous(self) -> dict[_Text, int]:
        plan: dict[_Text, int] = {}
        while self.waiting and self._fits(self.waiting[0], sum(plan.values())):
            text = self._seat(self.waiting.popleft())
            plan[text] = text.missing
        return plan or self._decode()

    def _chunked(self) -> dict[_Text, int]:
        budget = self.policy.step_tokens
        before = len(self.running)
        plan = self._decode(budget)
        budget -= sum(plan.values())
        calm = len(self.running) == before  # nobody joins in a step in which somebody had to leave
        while calm and budget and self.waiting and self._fits(self.waiting[0], sum(plan.values()), budget):
            text = self._seat(self.waiting.popleft())
            plan[text] = min(text.missing, budget)
            budget -= plan[text]
        return plan

    def _decode(self, budget: int | None = None) -> dict[_Text, int]:
        """All that run, in order, as far as the budget and the cache go; who finds no room takes that of the last."""
        plan: dict[_Text, int] = {}
        for text in list(self.running):
            if text not in self.running:  # it has lost its cache meanwhile
                continue
            tokens = text.missing if budget is None else min(text.missing, budget - sum(plan.values()))
            while tokens and not self._room(sum(plan.values()) + tokens):
                if (last := self.running[-1]) is text:
                    tokens = 0
                self._preempt(last)
            if tokens:
                plan[text] = tokens
        return plan

    # ---------------------------------------------------------------------------------- slots and cache
    def _seat(self, text: _Text) -> _Text:
        text.slot = min(set(range(len(self.running) + 1)) - {other.slot for other in self.running})
        text.hit = self._known(text)
        text.computed = text.hit
        self.running.append(text)
        return text

    def _known(self, text: _Text) -> int:
        """Tokens of its prompt in the prefix cache."""
        return self.prefixes.get(text.request.prefix, 0)

    def _preempt(self, text: _Text) -> None:
        self.running.remove(text)
        text.slot, text.computed, text.hit = -1, 0, 0
        text.preempted += 1
        self.waiting.appendleft(text)

    def _fits(self, text: _Text, planned: int, budget: int | None = None) -> bool:
        wanted = text.missing - self._known(text)
        tokens = wanted if budget is None else min(wanted, budget)
        return len(self.running) < self.policy.slots and self._room(planned + tokens, text.request.prefix)

    def _room(self, tokens: int, wanted: str = "") -> bool:
        """Whether so many more tokens fit; prefixes that nobody uses make room first."""
        if self.policy.kv_tokens is None:
            return True
        used = {text.request.prefix for text in self.running if text.hit} | {wanted}
        for name in [name for name in self.prefixes if name not in used]:
            if self._kv() + tokens <= self.policy.kv_tokens:
                break
            del self.prefixes[name]
        return self._kv() + tokens <= self.policy.kv_tokens

    def _kv(self) -> int:
        return sum(text.computed - text.hit for text in self.running) + sum(self.prefixes.values())

    # ---------------------------------------------------------------------------------- one step
    def _run(self, plan: dict[_Text, int]) -> None:
        """Compute the plan, give each text that has all it wants its next token, and let go of those that are whole."""
        prompts = {text: tokens for text, tokens in plan.items() if tokens > 1 or not text.tokens}
        decoding = [text for text in plan if text not in prompts]
        padded = self._padding(prompts, decoding)
        seconds = self.cost.seconds(padded[0], padded[1], sum(text.computed for text in decoding))
        start, self.now = self.now, self.now + seconds
        for text, tokens in plan.items():
            text.computed += tokens
            if not text.missing:
                text.tokens.append(self.now)
            self._share(text)
        work = tuple((text.number, text.slot, tokens, text in prompts) for text, tokens in plan.items())
        self.steps.append(Step(start, self.now, work, self._kv()))
        self._release()

    def _padding(self, prompts: dict[_Text, int], decoding: list[_Text]) -> tuple[int, int]:
        """Tokens of prompts and texts that are paid for: in a static batch as many as the longest and the widest."""
        if self.policy.kind != "static":
            return sum(prompts.values()), len(decoding)
        if prompts:
            return max(prompts.values()) * len(prompts), 0
        return 0, len(self.running)

    def _share(self, text: _Text) -> None:
        """A shared beginning that has been computed belongs to the prefix cache from then on."""
        asked = text.request
        new = asked.prefix and asked.prefix not in self.prefixes and text.computed >= asked.shared
        if self.policy.prefix_cache and new:
            self.prefixes[asked.prefix] = text.hit = asked.shared

    def _release(self) -> None:
        if self.policy.kind == "static" and not all(text.whole for text in self.running):
            return
        for text in [text for text in self.running if text.whole]:
            text.done = self.now
            self.running.remove(text)
