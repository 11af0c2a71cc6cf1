"""A model after quantization: what every layer lost, what all of it weighs, and the way back.

Three errors of a layer, each told against its own size, W_hat put back on W's scale where channels were rescaled:

    weight    |E|^2 / |W|^2                        E = W - W_hat [n, k]: what rounding did to the numbers
    output    tr(E H E') / tr(W H W')              H = X'X: what that does to the outputs on the calibration text
    loss      tr(E H E') / tokens                  the same in the outputs' own units: what GPTQ and AWQ minimize

The first needs no data; a method that makes it worse can make the second better.
"""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from quantlab.atomic import explained
from quantlab.core import LayerStats, QuantizedTensor, output_errors
from quantlab.models.load import LoadedModel

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class LayerReport:
    """One layer: its shape, its bytes, its errors (None where there was no calibration), its seconds."""

    name: str
    shape: tuple[int, int]
    format: str
    nbytes: int
    weight_error: float
    output_error: float | None
    loss: float | None
    seconds: float

    @property
    def kind(self) -> str:
        """What it is in every block: `q_proj`, `down_proj`, ..."""
        return self.name.rpartition(".")[2]


def layer_report(
    name: str, W: Tensor, W_hat: Tensor, stored: QuantizedTensor, stats: LayerStats | None, seconds: float
) -> LayerReport:
    """The errors of W_hat [n, k], which stands for W [n, k] and is kept as `stored`."""
    E = W - W_hat
    output = loss = None
    if stats is not None:
        H = stats.H.to(W)
        wrong, whole = (output_errors(of, H).sum().item() for of in (E, W))
        output, loss = _share(wrong, whole), wrong / stats.n_tokens
    weight = _share(E.square().sum().item(), W.square().sum().item())
    return LayerReport(name, stored.shape, stored.fmt.name, stored.nbytes, weight, output, loss, seconds)


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0  # a layer of zeros loses nothing


@dataclass(frozen=True)
class _Kept:
    """Where the values of a parameter lie in the journal's file."""

    parameter: Tensor
    dtype: torch.dtype
    begin: int
    nbytes: int


class Journal:
    """What was changed in a model, so that it can be put back bit for bit.

    The original weights wait in a file without a name, which vanishes with this process: in memory they would take half
    of what the model takes.
    """

    def __init__(self) -> None:
        self._before: dict[int, _Kept] = {}
        self._hooks: list[RemovableHandle] = []
        self._file: IO[bytes] | None = None

    def save(self, parameters: Iterable[Tensor]) -> None:
        """Remember these before they are changed; in bfloat16 where that loses nothing, as models are published.

        Raises QuantlabError where the disk is full.
        """
        for parameter in parameters:
            if id(parameter) not in self._before:
                exact = parameter.detach()
                small = exact.to(torch.bfloat16)
                values = small if torch.equal(small.to(exact.dtype), exact) else exact
                self._before[id(parameter)] = self._write(parameter, values)

    def before(self, parameter: Tensor) -> Tensor:
        """What it was, in its own type."""
        kept = self._before[id(parameter)]
        assert self._file is not None
        self._file.seek(kept.begin)
        values = torch.frombuffer(bytearray(self._file.read(kept.nbytes)), dtype=kept.dtype)
        return values.reshape(parameter.shape).to(parameter)

    def hook(self, handle: RemovableHandle) -> None:
        """Remember a hook that is part of the change."""
        self._hooks.append(handle)

    def undo(self) -> None:
        """Put everything back, and forget it."""
        with torch.no_grad():
            for kept in self._before.values():
                kept.parameter.copy_(self.before(kept.parameter))
        for handle in self._hooks:
            handle.remove()
        self._before.clear()
        self._hooks.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, parameter: Tensor, values: Tensor) -> _Kept:
        folder = Path(tempfile.gettempdir())
        with explained(folder / "the original weights"):
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (as long as the journal lives)
                weakref.finalize(self, self._file.close)
            begin = self._file.seek(0, os.SEEK_END)
            self._file.write(values.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
            self._file.flush()
        return _Kept(parameter, values.dtype, begin, values.nbytes)


@dataclass(frozen=True)
class Quantized:
    """A model whose weights were replaced by their quantized values, and what is known about it.

    tensors: layer name -> what is stored. scales: first layer of an input -> what its channels were multiplied by.
    nbytes: the whole model, everything that is not quantized in bfloat16. peak_bytes: memory the work took; the
    original weights wait on the disk.
    """

    loaded: LoadedModel
    method: str
    format: str
    options: dict[str, Any]
    tensors: dict[str, QuantizedTensor]
    scales: dict[str, Tensor]
    layers: tuple[LayerReport, ...]
    nbytes: int
    windows: int
    tokens: int
    seconds: float
    peak_bytes: int
    journal: Journal = field(repr=False, default_factory=Journal)

    def undo(self) -> LoadedModel:
        """Give the model its own weights back, bit for bit, folded norms included; the stored tensors stay here.

        Of several quantizations of one model, undo the last one first.
        """
        self.journal.undo()
        return self.loaded

    @property
    def bits_per_weight(self) -> float:
        """Over all quantized layers, scales and zero points included."""
        return 8 * sum(one.nbytes for one in self.layers) / sum(one.shape[0] * one.shape[1] for one in self.layers)

    def mean(self, error: str) -> float | None:
        """An error ("weight_error", "output_error") over all layers, each layer counted by its weights."""
        pairs = [(getattr(one, error), one.shape[0] * one.shape[1]) for one in self.layers]
        if any(value is None for value, _ in pairs):
            return None
        return float(sum(value * count for value, count in pairs) / sum(count for _, count in pairs))

    def to_dict(self) -> dict[str, Any]:
        """Plain values only."""
        source = self.loaded.source
        return {
            "model": source.name, "note": source.note, "method": self.method, "format": self.format,
            "options": {key: str(value) for key, value in self.options.items()}, "nbytes": self.nbytes,
            "bits_per_weight": self.bits_per_weight, "weight_error": self.mean("weight_error"),
            "output_error": self.mean("output_error"), "windows": self.windows, "tokens": self.tokens,
            "seconds": self.seconds, "peak_bytes": self.peak_bytes, "layers": [asdict(one) for one in self.layers],
        }  # fmt: skip

    def to_json(self) -> str:
        """The same as JSON text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    def table(self, every: bool = False) -> Table:
        """A row for each kind of layer (its mean over the blocks), or with `every` for each layer."""
        from rich.table import Table

        data = f", {self.tokens:,} tokens" if self.tokens else ", no data"
        title = f"{self.loaded.source.name}: {self.method}, {self.format}{data}"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        table.add_column("layer")
        for head in ("shape", "bits/weight", "weight error %", "output error %", "seconds"):
            table.add_column(head, justify="right")
        groups: dict[str, list[LayerReport]] = {}
        for one in self.layers:
            groups.setdefault(one.name if every else one.kind, []).append(one)
        for name, members in groups.items():
            table.add_row(name, *_cells(members))
        table.add_row("all", *_cells(list(self.layers)), style="bold")
        return table


def _cells(members: list[LayerReport]) -> list[str]:
    shapes = {one.shape for one in members}
    weights = sum(one.shape[0] * one.shape[1] for one in members)
    outputs = [one.output_error for one in members if one.output_error is not None]
    return [
        " x ".join(map(str, members[0].shape)) if len(shapes) == 1 else "",
        f"{8 * sum(one.nbytes for one in members) / weights:.3f}",
        f"{100 * sum(one.weight_error for one in members) / len(members):.3g}",
        f"{100 * sum(outputs) / len(outputs):.3g}" if outputs else "-",
        f"{sum(one.seconds for one in members):.2f}",
    ]
