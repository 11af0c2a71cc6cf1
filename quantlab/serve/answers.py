"""One question, one answer: what `quantlab ask` and `Server.ask` share."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantlab.errors import QuantlabError
from quantlab.serve import logs
from quantlab.serve.address import api_url
from quantlab.serve.client import Client, CutOffError
from quantlab.serve.state import find, running

MAX_TOKENS = 200  # of an answer, unless asked otherwise: servers differ, from 16 to the whole context


@dataclass(frozen=True)
class Line:
    """A connection to a server, and what there is to know about it besides."""

    client: Client
    chat: bool = True  # without a chat template a model is asked to continue the text
    log: Path = Path(os.devnull)

    def stream(self, question: str, **options: Any) -> Generator[str]:
        """The answer piece by piece; if it breaks off, the error says what the server's log says."""
        before = logs.size(self.log)
        ask = self.client.chat if self.chat else self.client.complete
        try:
            yield from ask(question, stream=True, **{"max_tokens": MAX_TOKENS, **options})
        except QuantlabError as error:
            look_above = logs.LOOK_ABOVE.search(str(error))  # vLLM sends its reader to the log
            if not isinstance(error, CutOffError) and not look_above:
                raise
            time.sleep(0.1)  # the server writes its reason after it has closed the connection
            reason = logs.why(logs.tail(self.log, since=before))
            what = "the server broke off its answer" if look_above else str(error)
            raise CutOffError(f"{what}: {reason}" if reason else f"{what}; is it still running?") from error


@contextmanager
def connect(server: str | None = None) -> Iterator[Line]:
    """A line to a running server, by model name, id or address; without one, to the newest of yours.

    The key of a server that is not yours, if it wants one, is read from QUANTLAB_API_KEY.
    """
    url = api_url(server) if server and "://" in server else None
    if url and all(state.url != url for state in running()):
        line = Line(Client(url, os.environ.get("QUANTLAB_API_KEY")))
    else:
        state = find(url or server)
        line = Line(Client(state.url, state.key), state.chat, Path(state.log))
    with line.client:
        yield line
