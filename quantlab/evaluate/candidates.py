"""The model under comparison, and what a recipe hands back: logits, and what they cost to make and to store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from quantlab.backends.quantizers import text as calibration_text
from quantlab.checkpoints import gguf_families
from quantlab.checkpoints.gguf import write_gguf
from quantlab.checkpoints.gguf_tokenizer import read_tokenizer
from quantlab.errors import QuantlabError
from quantlab.evaluate.logits import Source
from quantlab.evaluate.windows import Windows
from quantlab.models.calibration import Calibration
from quantlab.models.folder import examine
from quantlab.models.load import LoadedModel
from quantlab.models.walk import linear_layers, parameters

BF16_BYTES = 2


class NotApplicableError(Exception):
    """This format cannot be made of this model; the reason is a sentence for the table."""


@dataclass(frozen=True)
class Subject:
    """The model under comparison, and a folder for temporary files.

    text: what it is measured on, cut from `texts`. calibrate_on: texts for the methods that need some; None for the
    bundled ones. report: told what is being done now, for work that takes minutes.
    """

    loaded: LoadedModel
    texts: list[str]
    text: Windows
    workdir: Path
    calibrate_on: list[str] | None = None
    report: Callable[[str], None] = lambda what: None

    @cached_property
    def calibration(self) -> Calibration:
        """The windows of tokens that the libraries get too."""
        cut = calibration_text.cut(self.loaded, self.calibrate_on)
        return Calibration(cut, window=len(cut[0]), at_least=1)

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
            gguf_families.family_of(config, folder / "config.json")
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
    peak_bytes: int | None = None  # memory that making it took
    gguf: Path | None = None  # the file that llama.cpp runs, while it is there

    @property
    def bits_per_weight(self) -> float:
        """Stored bits for each weight of the linear layers."""
        return 8 * self.linear_nbytes / self.linear_weights


@dataclass(frozen=True)
class Recipe:
    """A row of the comparison before it is measured. `name` is how it is asked for."""

    name: str
    format: str
    method: str
    backend: str
    make: Callable[[Subject], AbstractContextManager[Candidate]]
