"""Results of a long quantization, kept block by block, so that an interrupted one goes on where it stopped.

    FOLDER/fingerprint.json        what was asked for: model, texts, method, format, options
    FOLDER/block-0007.safetensors  the stored tensors and folded parameters of block 7, its report in the header

Each file is written whole or not at all. Another model, text or setting has another fingerprint: its work starts anew,
and what is in the folder from before is removed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantlab.atomic import explained, new_file, write_text
from quantlab.core import Format, QuantizedTensor
from quantlab.errors import QuantlabError
from quantlab.models.folder import read_json
from quantlab.models.quantized import LayerReport


@dataclass(frozen=True)
class BlockResult:
    """What quantizing a block gave: stored tensors by layer, folded scales, parameters that changed beside them."""

    tensors: dict[str, QuantizedTensor]
    scales: dict[str, Tensor]
    parameters: dict[str, Tensor]
    reports: tuple[LayerReport, ...]


def fingerprint(model: nn.Module, windows: Iterable[tuple[int, ...]], settings: Mapping[str, Any]) -> str:
    """A hash of everything that the results depend on: the weights as they are now, the tokens, the settings."""
    total = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for window in windows:
        total.update(json.dumps(window).encode())
    for name, parameter in model.named_parameters():
        total.update(name.encode())
        total.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return total.hexdigest()


class Store:
    """The folder of one quantization."""

    def __init__(self, folder: Path, mark: str) -> None:
        self._folder, path = folder, folder / "fingerprint.json"
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        if path.is_file() and read_json(path).get("fingerprint") == mark:
            return
        with explained(folder):
            for old in folder.glob("block-*.safetensors"):
                old.unlink()
        write_text(path, json.dumps({"fingerprint": mark}) + "\n")

    def _path(self, index: int) -> Path:
        return self._folder / f"block-{index:04d}.safetensors"

    def has(self, index: int) -> bool:
        """Whether this block is done."""
        return self._path(index).is_file()

    def save(self, index: int, result: BlockResult) -> None:
        """Keep a block's results."""
        from safetensors.torch import save_file

        tensors = {f"scale/{name}": scale for name, scale in result.scales.items()}
        tensors |= {f"parameter/{name}": values for name, values in result.parameters.items()}
        tensors |= {f"part/{layer}/{part}": values for layer, stored in result.tensors.items()
                    for part, values in stored.parts.items()}  # fmt: skip
        header = {
            "reports": json.dumps([asdict(report) for report in result.reports]),
            "parts": json.dumps({layer: list(stored.parts) for layer, stored in result.tensors.items()}),
        }
        with new_file(self._path(index)) as temporary:
            save_file(
                {name: values.detach().contiguous().clone() for name, values in tensors.items()}, temporary, header
            )

    def load(self, index: int, fmt: Format) -> BlockResult:
        """A block's results; raises QuantlabError for a file that is not whole."""
        from safetensors import SafetensorError, safe_open

        path = self._path(index)
        try:
            with safe_open(path, framework="pt") as file:
                header, every = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            reports = tuple(
                LayerReport(**{**one, "shape": tuple(one["shape"])}) for one in json.loads(header["reports"])
            )
            parts = json.loads(header["parts"])
            shapes = {report.name: report.shape for report in reports}
            tensors = {
                layer: QuantizedTensor(fmt, {part: every[f"part/{layer}/{part}"] for part in names}, shapes[layer])
                for layer, names in parts.items()
            }
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise QuantlabError(f"{path} cannot be read ({error}); remove it, and that block is done again") from error
        return BlockResult(tensors, _named(every, "scale/"), _named(every, "parameter/"), reports)


def _named(every: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name.removeprefix(start): values for name, values in every.items() if name.startswith(start)}
