"""The cost of a running server's steps, from a few short load tests; and the requests of a load, for the simulator.

    closed loop with n texts at once     the gap between two tokens is a step in which n texts decode
    one text at a time                   the time to the first token is a step with its whole prompt

Both are what a client sees, with the way there and back: what is predicted is what a client will see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from quantlab.errors import QuantlabError
from quantlab.serve.batching.cost import Measured, StepCost
from quantlab.serve.batching.request import Request
from quantlab.serve.load import Load, Report, loadtest
from quantlab.serve.load.prompts import made

ROUNDS = 4  # requests of each text that is under way at once
WHOLE = {"ignore_eos": True}  # every answer has as many tokens as were asked for


def calibrate(
    url: str, key: str | None, tokenizer: Any, *, at_once: Sequence[int] = (1, 2, 4, 8, 16),
    prompts: Sequence[int] = (16, 64, 128, 192), output: int = 48,
) -> StepCost:  # fmt: skip
    """Measure an idle server (a minute or so on a CPU) and fit the cost of its steps.

    tokenizer: the model's. at_once: numbers of texts that decode together. prompts: lengths in tokens; output: tokens
    of each answer. Raises QuantlabError where a request fails.
    """
    return StepCost.fit(list(_measured(url, key, tokenizer, at_once, prompts, output)))


def _measured(
    url: str, key: str | None, tokenizer: Any, at_once: Sequence[int], prompts: Sequence[int], output: int
) -> Iterator[Measured]:
    short = min(prompts)
    for texts in at_once:
        asked = made(tokenizer, texts * ROUNDS, short)
        found = _sound(loadtest(url, key, asked, Load(len(asked), concurrency=texts), max_tokens=output, options=WHOLE))
        assert found.itl.p50 is not None
        yield Measured(0, texts, texts * (short + output // 2), found.itl.p50)
    for tokens in prompts:
        asked = made(tokenizer, 2 * ROUNDS, tokens)
        found = _sound(loadtest(url, key, asked, Load(len(asked), concurrency=1), max_tokens=2, options=WHOLE))
        assert found.ttft.p50 is not None
        yield Measured(tokens, 0, 0, found.ttft.p50)


def _sound(report: Report) -> Report:
    if report.errors:
        raise QuantlabError(
            f"the server did not answer every request ({report.errors}); a cost cannot be fitted to that"
        )
    return report


def requests_of(load: Load, prompt: int, output: int) -> list[Request]:
    """The requests of an open loop, all with so many tokens of prompt and of answer.

    >>> [request.arrives for request in requests_of(Load(3, rate=2, process="constant"), prompt=10, output=5)]
    [0.0, 0.5, 1.0]
    """
    return [Request(due, prompt, output) for due in load.times()]
