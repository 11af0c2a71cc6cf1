"""One streamed request, timed: when it was due, sent, answered first, and answered whole; and every token between.

An OpenAI-compatible server streams `data: {json}` lines, usually one a token. `usage` in the last of them (asked for by
`stream_options`) gives the exact counts; where a server sends none, pieces are counted, and `counted` says so.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp

ENDED = "ended too soon"  # without its last line


@dataclass
class Sample:
    """What became of one request. Seconds since the start of the test; None where that never happened.

    due: when it should have been sent; sent: when it was. pieces: when each piece of the answer came. error: '' when
    the answer came whole, else one of a few kinds, so that they can be counted.
    """

    due: float
    sent: float | None = None
    pieces: list[float] = field(default_factory=list)
    end: float | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    error: str = ""
    text: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was answered whole."""
        return self.end is not None and not self.error

    @property
    def ttft(self) -> float | None:
        """Time to the first token, from when the request was due."""
        return self.pieces[0] - self.due if self.pieces else None

    @property
    def e2e(self) -> float | None:
        """Time to the end, from when the request was due."""
        return None if self.end is None else self.end - self.due

    @property
    def tpot(self) -> float | None:
        """Time for each token after the first, on average over this answer."""
        tokens = self.output_tokens or len(self.pieces)
        return (self.pieces[-1] - self.pieces[0]) / (tokens - 1) if self.pieces and tokens > 1 else None

    @property
    def gaps(self) -> list[float]:
        """Between each piece and the one before."""
        return [after - before for before, after in zip(self.pieces, self.pieces[1:], strict=False)]


async def ask(http: aiohttp.ClientSession, url: str, body: dict[str, Any], sample: Sample, began: float) -> None:
    """Send, read to the end, and note the times on the sample. An error is noted too, never raised."""
    sample.sent = time.perf_counter() - began
    try:
        async with http.post(f"{url}/completions", json=body) as response:
            if response.status != 200:
                sample.error = f"HTTP {response.status}"
                return
            whole = await _read(response, sample, began)
        sample.end = time.perf_counter() - began
        sample.error = "" if whole else ENDED
    except (TimeoutError, aiohttp.ServerTimeoutError):
        sample.error = "timeout"
    except aiohttp.ClientConnectorError:
        sample.error = "no connection"
    except (aiohttp.ClientError, ConnectionError):
        sample.error = "broken off"
    except (json.JSONDecodeError, KeyError, IndexError, TypeError):
        sample.error = "not an answer"


async def _read(response: aiohttp.ClientResponse, sample: Sample, began: float) -> bool:
    """Note every piece; whether the last line came. Read to the very end, so that the connection can be used again."""
    words: list[str] = []
    whole = False
    async for line in response.content:
        if not line.startswith(b"data: "):
            continue
        if line.startswith(b"data: [DONE]"):
            sample.text, whole = "".join(words), True
            continue
        event = json.loads(line[6:])
        if (choices := event.get("choices")) and (piece := choices[0].get("text")):
            sample.pieces.append(time.perf_counter() - began)
            words.append(piece)
        if usage := event.get("usage"):
            sample.prompt_tokens, sample.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
    return whole
