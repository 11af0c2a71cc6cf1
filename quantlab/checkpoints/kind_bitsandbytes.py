"""bitsandbytes' checkpoints, as transformers saves a model that it loaded in 4 or 8 bits.

    NF4, FP4    LAYER.weight                                  uint8 [n * k / 2, 1]    two codes to a byte
                LAYER.weight.absmax                           float32 [blocks]        or uint8, double quantized
                LAYER.weight.quant_map                        float32 [16]            the levels, in every layer again
                LAYER.weight.nested_absmax, .nested_quant_map float32                 double quantization only
                LAYER.weight.quant_state.bitsandbytes__nf4    uint8                   JSON as bytes: shape, block, type
    LLM.int8()  LAYER.weight                                  int8 [n, k]
                LAYER.SCB                                     float32 [n]
                LAYER.weight_format                           uint8, always 0: rows as they are

What is no tensor (the shape, the block, and of double quantization the mean of all absmax) is JSON, spelled as bytes,
in a tensor of its own, since a safetensors file holds nothing else. `bnb_4bit_compute_dtype` says what to compute in;
transformers writes what the user chose, here it is the model's type.

Source: transformers 5.17.0, `BitsAndBytesConfig.to_dict`; bitsandbytes 0.50.2, `QuantState.as_dict`,
`Linear8bitLt._save_to_state_dict`. Left out: storage types other than uint8.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from quantlab.checkpoints.kind import Found, Kind, Part, Scope, Settings
from quantlab.core import Format, Parts, QuantizedTensor
from quantlab.formats import llm_int8, nf4
from quantlab.formats.catalog import get
from quantlab.formats.double_quant import BLOCK, dynamic_map

_STATE = "weight.quant_state.bitsandbytes__"
_MAPS = ("weight.quant_map", "weight.nested_quant_map")


class BitsAndBytes(Kind):
    """NF4 and FP4 with their state, and LLM.int8()."""

    name = "bitsandbytes"
    loaded_by = "transformers with bitsandbytes; vLLM with vllm-bnb-plugin"
    packings = (nf4.HighNibbleFirst, llm_int8.SignedBytes)
    parts = (
        "weight", "weight.absmax", "weight.nested_absmax", *_MAPS, f"{_STATE}nf4", f"{_STATE}fp4", "SCB",
        "weight_format",
    )  # fmt: skip

    def settings(self, fmt: Format, scope: Scope) -> dict[str, Any]:
        """As transformers writes them."""
        grid = fmt.grid
        four = isinstance(grid, nf4.FlatBlocks)
        return {
            "quant_method": self.name,
            "_load_in_4bit": four,
            "_load_in_8bit": not four,
            "load_in_4bit": four,
            "load_in_8bit": not four,
            "bnb_4bit_compute_dtype": scope.dtype if four else "float32",
            "bnb_4bit_quant_storage": "uint8",
            "bnb_4bit_quant_type": grid.codebook.name if isinstance(grid, nf4.FlatBlocks) else "fp4",
            "bnb_4bit_use_double_quant": isinstance(grid, nf4.FlatBlocks) and grid.double_quant,
            "llm_int8_enable_fp32_cpu_offload": False,
            "llm_int8_has_fp16_weight": False,
            "llm_int8_skip_modules": list(scope.kept) if scope.left_out else None,
            "llm_int8_threshold": 6.0,
        }

    def store(self, Q: QuantizedTensor, dtype: str) -> Parts:
        """The parts, and what the file repeats for each layer."""
        grid = Q.fmt.grid
        if not isinstance(grid, nf4.FlatBlocks):
            return {**Q.parts, "weight_format": torch.zeros((), dtype=torch.uint8)}
        kind = grid.codebook.name
        state = {"quant_type": kind, "blocksize": grid.block, "dtype": dtype, "shape": list(Q.shape)}
        stored = {**Q.parts, _MAPS[0]: grid.codebook.levels + 0.0}  # FP4 has -0 for code 8, the library 0
        if grid.double_quant:
            offset = float(stored.pop("weight.nested_offset"))
            state |= {"nested_blocksize": BLOCK, "nested_dtype": "float32", "nested_offset": offset}
            stored[_MAPS[1]] = dynamic_map()
        return {**stored, _STATE + kind: _as_tensor(state)}

    def layer(self, settings: Settings, found: Found) -> tuple[Format, tuple[int, int]]:
        """Format and shape from the layer's own state, which must be what config.json says."""
        if settings.get("load_in_8bit"):
            return get("llm_int8"), found.matrix("weight")
        kind = str(settings["bnb_4bit_quant_type"])
        state = _as_json(found.small(_STATE + kind))
        nested = "nested_offset" in state
        if state["quant_type"] != kind or nested != bool(settings.get("bnb_4bit_use_double_quant")):
            raise ValueError(f"the layer is {state['quant_type']}{', double quantized' * nested}, they say otherwise")
        n, k = (int(size) for size in state["shape"])
        return get(f"{kind}_dq" if nested else kind, block=state["blocksize"]), (n, k)

    def expected(self, fmt: Format, shape: tuple[int, int]) -> dict[str, Part]:
        """By the number of weights: blocks run over the whole matrix."""
        n, k = shape
        grid = fmt.grid
        if not isinstance(grid, nf4.FlatBlocks):
            return {"weight": Part(("I8",), (n, k)), "SCB": Part(("F32",), (n,))}
        blocks = -(-n * k // grid.block)
        parts = {
            "weight": Part(("U8",), (-(-n * k // 2), 1)),
            "weight.absmax": Part(("U8" if grid.double_quant else "F32",), (blocks,)),
            _MAPS[0]: Part(("F32",), (16,)),
            _STATE + grid.codebook.name: Part(("U8",), None),
        }
        if grid.double_quant:
            parts["weight.nested_absmax"] = Part(("F32",), (-(-blocks // BLOCK),))
            parts[_MAPS[1]] = Part(("F32",), (256,))
        return parts

    def restore(self, fmt: Format, stored: Parts) -> Parts:
        """The parts of our own formats; raises ValueError for a table of levels that is not theirs."""
        grid = fmt.grid
        if not isinstance(grid, nf4.FlatBlocks):
            return stored
        for name, levels in zip(_MAPS, (grid.codebook.levels, dynamic_map()), strict=True):
            if name in stored and not torch.equal(stored[name], levels):
                raise ValueError(f"{name} holds other levels than those of {fmt.name}")
        state = _as_json(stored[_STATE + grid.codebook.name])
        own = {name: part for name, part in stored.items() if name not in _MAPS and not name.startswith(_STATE)}
        if grid.double_quant:
            own["weight.nested_offset"] = torch.tensor(float(state["nested_offset"]))
        return own


def _as_tensor(state: dict[str, Any]) -> Tensor:
    """JSON as bytes uint8, as the library packs it."""
    return torch.tensor(list(json.dumps(state).encode("utf-8")), dtype=torch.uint8)


def _as_json(octets: Tensor) -> dict[str, Any]:
    state = json.loads(bytes(octets.tolist()).decode("utf-8"))
    if not isinstance(state, dict):
        raise ValueError("quant_state is no JSON object")
    return state
