"""K-quants against llama.cpp's C code, every byte of every block: real layers, and weights that find wrong last bits.

The build of llama.cpp for x86-64 multiplies, rounds, adds, rounds, and so do we. Another build may fuse the two: it
then fails `test_this_build_makes_the_golden_bytes` alone, and the other tests compare with the golden bytes or bound
how many super-blocks differ and by how much (`_same`).
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import torch
from ggml_oracle import Ggml
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from golden.kquant_cases import CASES, TYPES, importances
from safetensors import safe_open
from torch import Tensor

from quantlab.core import QuantizedTensor
from quantlab.formats.catalog import FORMATS, quantize_tensor
from quantlab.models.load import LoadedModel
from quantlab.models.smollm2 import smollm2_folder
from quantlab.models.walk import linear_layers

_FILE = Path(__file__).parents[1] / "golden" / "kquant_blocks.json"
GOLDEN: dict[str, str] = json.loads(_FILE.read_text())["blocks"]
every_type = pytest.mark.parametrize("name", TYPES)
every_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def layers(tiny: LoadedModel) -> dict[str, Tensor]:
    """Rows of every linear layer of one block of the bundled model, and of SmolLM2's only layers whose rows divide."""
    found = {name: layer.weight.detach()[:64] for name, layer in list(linear_layers(tiny.model))[:7]}
    with safe_open(smollm2_folder() / "model.safetensors", "pt") as file:
        for i in (0, 15, 29):
            name = f"model.layers.{i}.mlp.down_proj.weight"
            found[f"smollm2 {name}"] = file.get_slice(name)[:48]
    return found


@pytest.fixture(scope="module")
def unfused(ggml: Ggml) -> bool:
    """Whether this build of llama.cpp rounds every product, as that for x86-64 does."""
    return all(torch.equal(ggml.quantize(kind, CASES["bell"]()), _golden(kind, "bell", "none")) for kind in TYPES)


def _golden(kind: str, case: str, importance: str) -> Tensor:
    raw = bytearray(base64.b64decode(GOLDEN[f"{kind} | {case} | {importance}"]))
    return torch.frombuffer(raw, dtype=torch.uint8).reshape(len(CASES[case]()), -1)


def _same(ours: QuantizedTensor, theirs: Tensor, W: Tensor, ggml: Ggml, unfused: bool) -> None:
    """Byte for byte; on a build that fuses, four super-blocks of ten may differ, the squared error by 2%."""
    if unfused:
        assert torch.equal(ours.parts["blocks"], theirs)
        return
    a, b = (blocks.reshape(-1, int(ours.fmt.layout.nbytes)) for blocks in (ours.parts["blocks"], theirs))
    assert (a != b).any(1).float().mean() < 0.4
    error, expected = ((x - W).square().sum() for x in (ours.dequantize(), _values(ggml, ours, theirs)))
    assert abs(error / expected - 1) < 0.02


def _values(ggml: Ggml, Q: QuantizedTensor, blocks: Tensor) -> Tensor:
    return ggml.dequantize(Q.fmt.name, blocks, Q.shape[1])


def test_this_build_makes_the_golden_bytes(ggml: Ggml) -> None:
    for key in GOLDEN:
        kind, case, importance = key.split(" | ")
        assert torch.equal(
            ggml.quantize(kind, CASES[case](), importances()[importance]), _golden(kind, case, importance)
        )


@every_type
@every_case
def test_golden_bytes(name: str, case: str) -> None:
    """No library needed: the bytes lie beside the script that made them."""
    for importance in ("none", "many zero"):
        Q = quantize_tensor(CASES[case](), name, importance=importances()[importance])
        assert torch.equal(Q.parts["blocks"], _golden(name, case, importance)), importance


@every_type
@every_case
def test_made_up_weights_at_every_importance(name: str, case: str, ggml: Ggml, unfused: bool) -> None:
    W = CASES[case]()
    for key, importance in importances().items():
        theirs = ggml.quantize(name, W, importance)
        if not torch.isfinite(ggml.dequantize(name, theirs, W.shape[1])).all():
            assert key == "extreme"
            with pytest.raises(ValueError, match="beyond a float16 scale"):
                quantize_tensor(W, name, importance=importance)
        elif unfused:
            assert torch.equal(quantize_tensor(W, name, importance=importance).parts["blocks"], theirs), key


@every_type
def test_real_layers(name: str, layers: dict[str, Tensor], ggml: Ggml, unfused: bool) -> None:
    for W in layers.values():
        _same(quantize_tensor(W, name), ggml.quantize(name, W.float()), W, ggml, unfused)


@every_type
def test_real_layers_with_importance(name: str, layers: dict[str, Tensor], ggml: Ggml, unfused: bool) -> None:
    for W in layers.values():
        importance = torch.randn(W.shape[1], generator=torch.Generator().manual_seed(W.shape[1])).mul(2).exp()
        theirs = ggml.quantize(name, W.float(), importance)
        _same(quantize_tensor(W, name, importance=importance), theirs, W, ggml, unfused)


@every_type
def test_any_bytes_mean_what_they_mean_to_c(name: str, ggml: Ggml) -> None:
    """Dequantized to the last bit by llama.cpp and by gguf: blocks of random bytes, with scales that are finite."""
    fmt = FORMATS[name]
    size = int(fmt.layout.nbytes)
    blocks = torch.randint(0, 256, (40, 2 * size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    _, p = fmt.packing.unpack({"blocks": blocks}, (40, 512))
    finite = torch.stack([p[key] for key in ("d", "dmin") if key in p]).isfinite().all(0).all(1)
    assert finite.sum() > 20
    blocks = blocks[finite]
    got = QuantizedTensor(fmt, {"blocks": blocks}, (len(blocks), 512)).dequantize()
    assert torch.equal(got, ggml.dequantize(name, blocks, 512))
    theirs = dequantize(blocks.numpy(), GGMLQuantizationType[name.upper()])
    assert torch.equal(got, torch.from_numpy(theirs).reshape(got.shape))


@every_type
@pytest.mark.parametrize("weight", [3e38, -3e38, 1e30, 2e9])
def test_where_c_would_store_something_else(name: str, weight: float, ggml: Ggml) -> None:
    """Infinite scales; or, where its sums overflow to infinity / infinity, zeros in place of huge weights."""
    W = CASES["bell"]()
    W[2, 32:80] = weight
    values = ggml.dequantize(name, ggml.quantize(name, W), W.shape[1])[2, 32:80]
    assert ((values == 0) | ~torch.isfinite(values)).all()
    with pytest.raises(ValueError, match="beyond a float16 scale"):
        quantize_tensor(W, name)


@every_type
def test_the_end_of_float16(name: str, ggml: Ggml, unfused: bool) -> None:
    """The largest weights whose scale C still stores as finite, and the next ones: refused exactly there."""
    W = CASES["bell"]()[:1]
    below, above = 1.0, 1e12
    while above / below > 1 + 1e-6:
        middle = (below * above) ** 0.5
        finite = torch.isfinite(ggml.dequantize(name, ggml.quantize(name, W * middle), W.shape[1])).all()
        below, above = (middle, above) if finite else (below, middle)
    _same(quantize_tensor(W * below, name), ggml.quantize(name, W * below), W * below, ggml, unfused)
    if unfused:
        with pytest.raises(ValueError, match="beyond a float16 scale"):
            quantize_tensor(W * above, name)
