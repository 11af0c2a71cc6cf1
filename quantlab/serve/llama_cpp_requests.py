"""What llama.cpp's server may be asked: a request is looked at before the model hears of it.

By itself llama-cpp-python 0.3.36 answers malformed JSON and wrong types with a 500, and some requests that look well
end the whole process, and with it every other reader's answer. Each of these was tried:

    grammar, tools, functions,          llama.cpp compiles them; of one that it cannot read it returns a null pointer,
    a response_format with a schema     which is followed (llama_cpp/_internals.py, `add_grammar`); a schema with
                                        "minLength": 1000000000 keeps the process busy for minutes
    /extras/detokenize                  a number beyond the vocabulary ends the process
    a body of 20 MB                     is split into tokens to its end, 14 s, before it is found too long; all wait
    another model's name                is answered all the same, by the model that is there

So here: three paths of OpenAI's and the two pages that describe them; a body that is JSON, not huge, and of the types
that the server itself declares; the model that is served. The rest is refused, with a sentence.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PAGES = ("/v1/models", "/docs", "/openapi.json")  # read, never asked anything
COMPILED = ("grammar", "tools", "functions")
MAX_BODY = 2 * 2**20  # bytes: some 400,000 tokens of English, more than any context here


class RefusedError(Exception):
    """A request that is not passed on: its status, and the sentence that the asker is told."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def checked(app: App, model: str) -> App:
    """`app`, but only what it can bear reaches it."""
    kinds = _kinds()

    async def check(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PAGES:
            await app(scope, receive, send)
            return
        try:
            if scope["path"] not in kinds:
                raise RefusedError(404, f"there is nothing at {scope['path']}; ask {', '.join(kinds)}")
            body = await _body(scope, receive) if scope["method"] == "POST" else b""
            if scope["method"] == "POST":
                _examine(kinds[scope["path"]], body, model)
        except RefusedError as refused:
            await refuse(send, refused.status, refused.message)
        else:
            await app(scope, _again(body, receive), send)

    return check


async def refuse(send: Send, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
    """An answer in the form of OpenAI's errors."""
    kind = "unauthorized" if status == 401 else "invalid_request_error"
    body = json.dumps({"error": {"message": message, "type": kind}}).encode()
    given = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": given})
    await send({"type": "http.response.body", "body": body})


def _kinds() -> dict[str, Any]:
    """What may be asked where: the types that llama.cpp's server declares."""
    from llama_cpp.server import types

    return {"/v1/completions": types.CreateCompletionRequest, "/v1/chat/completions": types.CreateChatCompletionRequest}


async def _body(scope: Scope, receive: Receive) -> bytes:
    """The whole body; raises where it is no JSON by its own account, too long, or broken off."""
    headers = dict(scope["headers"])
    if b"json" not in headers.get(b"content-type", b"").lower():
        raise RefusedError(415, "the body must be JSON, and say so: content-type: application/json")
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "the request was broken off")  # nobody hears it
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            raise RefusedError(413, f"a request may have {MAX_BODY:,} bytes, and this one has more; shorten the prompt")
    return bytes(body)


def _examine(kind: Any, body: bytes, model: str) -> None:
    """Raise where the body is not of this kind, or asks for what ends the process."""
    from pydantic import ValidationError

    try:
        asked = kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise RefusedError(400 if first["type"] == "json_invalid" else 422, f"{where}: {first['msg']}") from error
    for name in COMPILED:
        if getattr(asked, name, None) is not None:
            raise RefusedError(
                400, f"{name} is not taken: one that llama.cpp cannot read ends the server; leave it out"
            )
    if (getattr(asked, "response_format", None) or {}).get("schema") is not None:
        raise RefusedError(400, "a schema is not taken: one that llama.cpp cannot read ends the server; leave it out")
    if asked.model not in (None, model):
        raise RefusedError(404, f"the model {asked.model[:80]!r} is not here; this server has {model!r}")
    if getattr(asked, "prompt", None) in ("", [], [""]):
        raise RefusedError(422, "prompt: it is empty")
    if isinstance(getattr(asked, "prompt", None), list) and len(asked.prompt) > 1:
        raise RefusedError(422, f"prompt: one at a time, and these are {len(asked.prompt)}")


def _again(body: bytes, receive: Receive) -> Receive:
    """A body that was read, to be read once more; then what the connection has to say."""
    left = [body]

    async def replay() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": left.pop(), "more_body": False} if left else await receive()

    return replay
