"""Talk to a server that speaks the OpenAI protocol: chat, completions, models.

A streamed answer arrives as server-sent events, one line a token, `data: {json}`, and ends with `data: [DONE]`; an
answer that stops without it was cut off, and says so instead of looking complete.

A server on this machine is spoken to directly, whatever proxy the environment names: its key goes nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, overload
from urllib.parse import urlsplit

import httpx

from quantlab.errors import QuantlabError
from quantlab.serve.address import api_url, is_loopback

Message = dict[str, str]  # {"role": "user", "content": "..."}


class CutOffError(QuantlabError):
    """The server stopped in the middle of an answer."""


class Client:
    """A connection to one server; `timeout_s` is the longest silence that is borne."""

    def __init__(self, url: str, key: str | None = None, *, timeout_s: float = 120.0) -> None:
        self.url = api_url(url)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        direct = is_loopback(urlsplit(self.url).hostname or "")
        self._http = httpx.Client(
            headers=headers, timeout=httpx.Timeout(timeout_s, connect=min(5.0, timeout_s)), trust_env=not direct,
            limits=httpx.Limits(max_connections=None),  # as many at once as there are threads that ask
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def models(self, timeout_s: float | None = None) -> list[str]:
        """Names of the models that the server has."""
        patience = self._http.timeout if timeout_s is None else httpx.Timeout(timeout_s)
        with self._explained():
            response = self._http.get(f"{self.url}/models", timeout=patience)
            _raise_for(response, self.url)
            return [str(entry["id"]) for entry in response.json()["data"]]

    @overload
    def chat(self, messages: str | Sequence[Message], *, stream: Literal[True], **options: Any) -> Iterator[str]: ...
    @overload
    def chat(self, messages: str | Sequence[Message], *, stream: Literal[False] = False, **options: Any) -> str: ...
    def chat(self, messages: str | Sequence[Message], *, stream: bool = False, **options: Any) -> str | Iterator[str]:
        """The answer to a conversation (a text is one user's message), whole or piece by piece.

        Options go to the server: `max_tokens`, `temperature`, `top_p`, `seed`, `stop`, ...
        """
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        body = {"messages": turns, **options}
        return self._stream("chat/completions", body) if stream else self._whole("chat/completions", body)

    @overload
    def complete(self, prompt: str, *, stream: Literal[True], **options: Any) -> Iterator[str]: ...
    @overload
    def complete(self, prompt: str, *, stream: Literal[False] = False, **options: Any) -> str: ...
    def complete(self, prompt: str, *, stream: bool = False, **options: Any) -> str | Iterator[str]:
        """The text that follows a prompt, whole or piece by piece; no chat template. Options as for `chat`."""
        body = {"prompt": prompt, **options}
        return self._stream("completions", body) if stream else self._whole("completions", body)

    def _whole(self, endpoint: str, body: dict[str, Any]) -> str:
        with self._explained():
            response = self._http.post(f"{self.url}/{endpoint}", json=body)
            _raise_for(response, self.url)
            return _text(response.json())

    def _stream(self, endpoint: str, body: dict[str, Any]) -> Generator[str]:
        with (
            self._explained(streaming=True),
            self._http.stream("POST", f"{self.url}/{endpoint}", json={**body, "stream": True}) as response,
        ):
            if response.is_error:
                response.read()
            _raise_for(response, self.url)
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    return
                if line.startswith("data: ") and (piece := _text(json.loads(line.removeprefix("data: ")))):
                    yield piece
        raise CutOffError(f"the server at {self.url} broke off its answer")

    @contextmanager
    def _explained(self, streaming: bool = False) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise QuantlabError(f"no server answers at {self.url}; start one with: quantlab serve tiny") from error
        except httpx.TimeoutException as error:
            raise QuantlabError(
                f"the server at {self.url} was silent for {self._http.timeout.read:g} s; "
                "ask for fewer tokens, or wait until it is less busy"
            ) from error
        except httpx.HTTPError as error:
            if streaming:
                raise CutOffError(f"the server at {self.url} broke off its answer") from error
            raise QuantlabError(f"the connection to {self.url} failed ({error or type(error).__name__})") from error
        except (KeyError, IndexError, TypeError, json.JSONDecodeError) as error:
            raise QuantlabError(f"{self.url} answers, but not as an OpenAI-compatible server does") from error


def _text(answer: Any) -> str:
    """The text of a choice: of a chat, of a piece of a streamed chat, or of a completion."""
    if "error" in answer:
        raise QuantlabError(f"the server reports: {answer['error']['message']}")
    if not answer["choices"]:
        return ""
    choice = answer["choices"][0]
    if "text" in choice:
        return str(choice["text"])
    return str((choice["delta"] if "delta" in choice else choice["message"]).get("content") or "")


def _raise_for(response: httpx.Response, url: str) -> None:
    if response.is_success:
        return
    if response.status_code in (401, 403):
        raise QuantlabError(f"the server at {url} refuses the key; set QUANTLAB_API_KEY to the one it was started with")
    try:
        detail = response.json()
        said = detail["error"]["message"] if "error" in detail else detail["detail"]
    except (ValueError, KeyError, TypeError):
        said = response.reason_phrase
    raise QuantlabError(f"the server at {url} answers {response.status_code}: {str(said).rstrip('.')}")
