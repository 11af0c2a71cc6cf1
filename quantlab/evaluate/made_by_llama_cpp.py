"""Formats that llama.cpp makes and runs itself, with its own arithmetic; it quantizes embeddings and head as well."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantlab.backends import llama_cpp
from quantlab.checkpoints import gguf_read
from quantlab.evaluate.candidates import Candidate, Subject
from quantlab.evaluate.made_here import listed


@contextmanager
def by_llama_cpp(ftype: str, subject: Subject) -> Iterator[Candidate]:
    """A file type of llama.cpp."""
    base, path = subject.gguf, subject.workdir / f"model-{ftype}.gguf"
    start = time.perf_counter()
    llama_cpp.quantize_gguf(base, path, ftype)
    seconds = time.perf_counter() - start
    try:
        with gguf_candidate(path, ftype, subject, seconds) as candidate:
            yield candidate
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def gguf_candidate(
    path: Path, ftype: str, subject: Subject, seconds: float, note: str = "", peak: int | None = None
) -> Iterator[Candidate]:
    """A GGUF file, run by llama.cpp."""
    stored = gguf_read.tensors(path)
    linear = [tensor for tensor in stored if tensor.is_linear]
    with llama_cpp.Logits(path, subject.text.passport.context) as source:
        notes = [_note(ftype, stored, _tokenized_otherwise(source, subject)), note]
        yield Candidate(
            source, sum(tensor.nbytes for tensor in linear), sum(tensor.weights for tensor in linear),
            path.stat().st_size, seconds, "; ".join(filter(None, notes)), peak, path,
        )  # fmt: skip


def method_of(ftype: str) -> str:
    """How llama.cpp chooses the codes of a type."""
    if ftype in ("f16", "bf16"):
        return "none"
    return "k-quant search" if "_k" in ftype else "iq search" if ftype.startswith("iq") else "rtn"


def _note(ftype: str, stored: list[gguf_read.GgufTensor], otherwise: int) -> str:
    """What llama.cpp really made, in a sentence or two."""
    linear = [tensor for tensor in stored if tensor.is_linear]
    mixture = ", ".join(f"{count} x {kind}" for kind, count in gguf_read.types_used(stored).items())
    table = next(tensor.kind for tensor in stored if tensor.name == "token_embd.weight")
    block = 256 if "_k" in ftype or ftype == "iq4_xs" else 32
    ill = {tensor.row for tensor in linear if tensor.row % block and not ftype.endswith("f16")}
    notes = [f"{mixture}; embeddings {table}"]
    if ill:
        notes.append(f"rows of {listed(ill)} do not divide into blocks of {block}: llama.cpp took other types there")
    if otherwise:
        notes.append(f"llama.cpp itself cuts {otherwise} of the texts into other tokens; it was given ours")
    return "; ".join(notes)


def _tokenized_otherwise(source: llama_cpp.Logits, subject: Subject) -> int:
    """How many texts llama.cpp's tokenizer cuts in another way than the model's own."""
    tokenizer = subject.loaded.tokenizer
    return sum(source.tokenize(t) != tokenizer(t, add_special_tokens=False)["input_ids"] for t in subject.texts)
