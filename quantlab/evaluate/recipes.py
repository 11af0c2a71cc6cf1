"""How each format of the comparison is made: a table from its name to a method, a backend and a function.

A recipe quantizes the linear layers of a model and hands back something that gives logits, with the bytes it takes.
Every recipe starts from the same bfloat16 weights. quantlab and bitsandbytes formats are dequantized to float32 and run
by the same PyTorch code as the baseline, in float32, so that all the difference is the format's; embeddings, output
head and norms stay as they are. llama.cpp formats are measured in llama.cpp itself, with its own arithmetic, and it
quantizes embeddings and head as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from torch import Tensor

from quantlab.backends import bitsandbytes, llama_cpp
from quantlab.checkpoints import gguf_llama, gguf_read
from quantlab.checkpoints.gguf import write_gguf
from quantlab.checkpoints.gguf_tokenizer import read_tokenizer
from quantlab.errors import QuantlabError
from quantlab.evaluate.logits import Source, TorchLogits
from quantlab.evaluate.names import BASELINE
from quantlab.evaluate.windows import Windows
from quantlab.formats.catalog import FORMATS
from quantlab.methods.rtn import rtn
from quantlab.models.folder import examine
from quantlab.models.load import LoadedModel
from quantlab.models.walk import linear_layers, parameters

BF16_BYTES = 2


class NotApplicableError(Exception):
    """This format cannot be made of this model; the reason is a sentence for the table."""


@dataclass(frozen=True)
class Subject:
    """The model under comparison, and a folder for temporary files."""

    loaded: LoadedModel
    texts: list[str]
    text: Windows
    workdir: Path

    @cached_property
    def linear(self) -> dict[str, Tensor]:
        """Name -> W [n, k] of every layer that is quantized."""
        return {name: layer.weight.detach() for name, layer in linear_layers(self.loaded.model)}

    @cached_property
    def weights(self) -> int:
        """How many weights are quantized."""
        return parameters(self.loaded.model).linear

    @cached_property
    def kept_nbytes(self) -> int:
        """Bytes of everything else, in bfloat16."""
        return BF16_BYTES * (parameters(self.loaded.model).total - self.weights)

    @cached_property
    def gguf(self) -> Path:
        """The same bfloat16 weights as a GGUF file, written when first asked for."""
        folder = self.loaded.source.folder
        config = examine(folder).config
        try:
            gguf_llama.check_config(config, folder / "config.json")
            read_tokenizer(folder, config["vocab_size"])
        except QuantlabError as error:
            raise NotApplicableError(str(error)) from error
        return write_gguf(folder, self.workdir / "model-bf16.gguf", "bf16")


@dataclass(frozen=True)
class Candidate:
    """A quantized model, ready to be measured."""

    source: Source
    linear_nbytes: int  # of the linear layers' weights, scales and zero points included
    linear_weights: int
    nbytes: int  # of the whole model
    quantize_s: float
    note: str = ""

    @property
    def bits_per_weight(self) -> float:
        """Stored bits for each weight of the linear layers."""
        return 8 * self.linear_nbytes / self.linear_weights


@dataclass(frozen=True)
class Recipe:
    """A row of the comparison before it is measured."""

    format: str
    method: str
    backend: str
    make: Callable[[Subject], AbstractContextManager[Candidate]]


@contextmanager
def _baseline(subject: Subject) -> Iterator[Candidate]:
    nbytes = BF16_BYTES * subject.weights
    yield Candidate(
        TorchLogits(subject.loaded.model), nbytes, subject.weights, nbytes + subject.kept_nbytes, 0.0,
        "bfloat16 weights, float32 arithmetic",
    )  # fmt: skip


@contextmanager
def _quantlab(name: str, subject: Subject) -> Iterator[Candidate]:
    fmt = FORMATS[name]
    ill = {W.shape[1] for W in subject.linear.values() if not fmt.divides(W.shape[1])}
    if ill:
        raise NotApplicableError(
            f"rows of {_listed(ill)} weights do not divide into groups of {fmt.layout.block}; take smaller groups"
        )
    start = time.perf_counter()
    quantized = {layer: rtn(W, None, fmt) for layer, W in subject.linear.items()}
    seconds = time.perf_counter() - start
    nbytes = sum(Q.nbytes for Q in quantized.values())
    weights = {f"{layer}.weight": Q.dequantize() for layer, Q in quantized.items()}
    yield _torch_candidate(subject, weights, nbytes, seconds)


@contextmanager
def _bitsandbytes(kind: str, subject: Subject) -> Iterator[Candidate]:
    start = time.perf_counter()
    quantized = {layer: bitsandbytes.quantize(W, kind) for layer, W in subject.linear.items()}
    seconds = time.perf_counter() - start
    nbytes = sum(Q.nbytes for Q in quantized.values())
    weights = {f"{layer}.weight": Q.dequantize() for layer, Q in quantized.items()}
    yield _torch_candidate(subject, weights, nbytes, seconds, "dequantized by bitsandbytes, float32 arithmetic")


def _torch_candidate(
    subject: Subject, weights: dict[str, Tensor], nbytes: int, seconds: float, note: str = ""
) -> Candidate:
    source = TorchLogits(subject.loaded.model, weights)
    return Candidate(source, nbytes, subject.weights, nbytes + subject.kept_nbytes, seconds, note)


@contextmanager
def _llama_cpp(ftype: str, subject: Subject) -> Iterator[Candidate]:
    base, path = subject.gguf, subject.workdir / f"model-{ftype}.gguf"
    start = time.perf_counter()
    llama_cpp.quantize_gguf(base, path, ftype)
    seconds = time.perf_counter() - start
    try:
        stored = gguf_read.tensors(path)
        linear = [tensor for tensor in stored if tensor.is_linear]
        with llama_cpp.Logits(path, subject.text.passport.context) as source:
            yield Candidate(
                source, sum(tensor.nbytes for tensor in linear), sum(tensor.weights for tensor in linear),
                path.stat().st_size, seconds, _gguf_note(ftype, stored, _tokenized_otherwise(source, subject)),
            )  # fmt: skip
    finally:
        path.unlink(missing_ok=True)


def _gguf_note(ftype: str, stored: list[gguf_read.GgufTensor], otherwise: int) -> str:
    """What llama.cpp really made, in a sentence or two."""
    linear = [tensor for tensor in stored if tensor.is_linear]
    mixture = ", ".join(f"{count} x {kind}" for kind, count in gguf_read.types_used(stored).items())
    table = next(tensor.kind for tensor in stored if tensor.name == "token_embd.weight")
    block = 256 if "_k" in ftype or ftype == "iq4_xs" else 32
    ill = {tensor.row for tensor in linear if tensor.row % block and not ftype.endswith("f16")}
    notes = [f"{mixture}; embeddings {table}"]
    if ill:
        notes.append(f"rows of {_listed(ill)} do not divide into blocks of {block}: llama.cpp took other types there")
    if otherwise:
        notes.append(f"llama.cpp itself cuts {otherwise} of the texts into other tokens; it was given ours")
    return "; ".join(notes)


def _tokenized_otherwise(source: llama_cpp.Logits, subject: Subject) -> int:
    """How many texts llama.cpp's tokenizer cuts in another way than the model's own."""
    tokenizer = subject.loaded.tokenizer
    return sum(source.tokenize(t) != tokenizer(t, add_special_tokens=False)["input_ids"] for t in subject.texts)


def _listed(numbers: set[int]) -> str:
    return " and ".join(str(number) for number in sorted(numbers))


def _method(ftype: str) -> str:
    if ftype in ("f16", "bf16"):
        return "none"
    return "k-quant search" if "_k" in ftype else "iq search" if ftype.startswith("iq") else "rtn"


_ALL = (
    Recipe(BASELINE, "none", "transformers", _baseline),
    *(Recipe(name, "rtn", "quantlab", partial(_quantlab, name)) for name in FORMATS),
    *(Recipe(kind, "rtn", "bitsandbytes", partial(_bitsandbytes, kind)) for kind in bitsandbytes.KINDS),
    *(
        Recipe(ftype, _method(ftype), "llama.cpp", partial(_llama_cpp, ftype))
        for ftype in llama_cpp.FTYPES
        if ftype != BASELINE
    ),
)
RECIPES = {recipe.format: recipe for recipe in _ALL}
