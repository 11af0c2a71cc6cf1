"""What is asked of an engine, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass

from quantlab.errors import UsageError


@dataclass(frozen=True)
class Request:
    """One request: when it arrives (seconds), tokens of its prompt, tokens of its answer.

    prefix, shared: requests with the same name of a prefix begin with the same `shared` tokens, like a system prompt.
    """

    arrives: float
    prompt: int
    output: int
    prefix: str = ""
    shared: int = 0

    def __post_init__(self) -> None:
        if self.arrives < 0 or self.prompt < 1 or self.output < 1:
            raise UsageError(
                "a request arrives at 0 s or later, with at least one token of prompt and one of output; "
                f"got {self.arrives}, {self.prompt}, {self.output}"
            )
        if not 0 <= self.shared < self.prompt or bool(self.prefix) != bool(self.shared):
            raise UsageError(
                f"a shared prefix has a name, at least 1 token, and fewer than the prompt's {self.prompt}; "
                f"got {self.prefix!r}, {self.shared}"
            )

    @property
    def longest(self) -> int:
        """Tokens in the KV cache at the end: of the prompt, and of the answer all but the last."""
        return self.prompt + self.output - 1


@dataclass(frozen=True)
class Served:
    """When each token of an answer was there, and how often the request lost its cache to others."""

    request: Request
    tokens: tuple[float, ...]  # seconds since the start
    done: float  # when the answer was given back: in a static batch with the last of the batch
    preempted: int

    @property
    def ttft(self) -> float:
        """Seconds from the arrival to the first token."""
        return self.tokens[0] - self.request.arrives

    @property
    def e2e(self) -> float:
        """Seconds from the arrival to the whole answer."""
        return self.done - self.request.arrives

    @property
    def gaps(self) -> list[float]:
        """Seconds between neighbouring tokens."""
        return [after - before for before, after in zip(self.tokens, self.tokens[1:], strict=False)]
