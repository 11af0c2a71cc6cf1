"""NF4 and FP4 against bitsandbytes on the CPU, bit for bit: codes, absmax, nested state, dequantized weights."""

from __future__ import annotations

import bitsandbytes
import pytest
import torch
from bitsandbytes_oracle import DTYPES, dequantized_by_rows, difference
from codebook_cases import boundary_blocks, hard_weights, real_layers, short_blocks

from quantlab.core import Format
from quantlab.formats.catalog import get
from quantlab.formats.codebook import FP4, NF4, normal_levels
from quantlab.formats.double_quant import compress, dynamic_map, expand
from quantlab.formats.nf4 import BLOCKS

NAMES = ("nf4", "fp4", "nf4_dq", "fp4_dq")
every_name = pytest.mark.parametrize("name", NAMES)
every_block = pytest.mark.parametrize("block", BLOCKS)


def _levels(fmt: Format) -> torch.Tensor:
    return (NF4 if fmt.name.startswith("nf4") else FP4).midpoints


def test_it_is_the_version_we_name() -> None:
    assert bitsandbytes.__version__ == get("nf4").reference.version


@every_name
def test_real_layers(name: str) -> None:
    layers = real_layers()
    assert len(layers) > 40
    for layer, W in layers.items():
        assert difference(get(name), W) is None, layer


@every_name
@every_block
def test_hard_weights(name: str, block: int) -> None:
    for case, W in hard_weights().items():
        if name.endswith("_dq") and case == "huge":  # the mean of the absmax values overflows: refused
            continue
        assert difference(get(name, block=block), W) is None, case


@every_name
@every_block
def test_every_boundary_and_its_neighbours(name: str, block: int) -> None:
    fmt = get(name, block=block)
    for case, W in boundary_blocks(_levels(fmt), block, 1.0):
        assert difference(fmt, W) is None, case


@every_name
@pytest.mark.parametrize("block", [64, 1024])
def test_every_boundary_in_a_short_block(name: str, block: int) -> None:
    fmt = get(name, block=block)
    for case, W in short_blocks(_levels(fmt), block):
        assert difference(fmt, W) is None, case


@every_name
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block", [32, 64, 256, 4096])
def test_blocks_that_end_anywhere(name: str, block: int, dtype: torch.dtype) -> None:
    """One weight, an odd number of them, a short last block, of zeros too."""
    generator = torch.Generator().manual_seed(block)
    for shape in ((1, 1), (1, 2), (3, 5), (5, 7), (2, 65), (3, 100), (7, block // 2 + 2), (1, block + 1), (33, 97)):
        W = torch.randn(shape, generator=generator).to(dtype)
        for case in (W, torch.zeros_like(W), torch.where(torch.arange(shape[1]) % 2 == 0, 0, W)):
            assert difference(get(name, block=block), case) is None, shape


@pytest.mark.parametrize("codebook", [NF4, FP4], ids=lambda c: c.name)
def test_tables_are_the_librarys(codebook: object) -> None:
    name = codebook.name  # type: ignore[attr-defined]
    theirs = bitsandbytes.functional.get_4bit_type(name, device="cpu")
    assert torch.equal(get(name).grid.codebook.levels, theirs)  # type: ignore[attr-defined]


def test_nf4_is_made_of_normal_quantiles() -> None:
    assert torch.equal(normal_levels(), NF4.levels)
    assert pytest.approx(1 - (1 / 30 + 1 / 32) / 2, abs=1e-7) == 0.9677083


def test_dynamic_map_is_the_librarys() -> None:
    assert torch.equal(dynamic_map(), bitsandbytes.functional.create_dynamic_map())


@pytest.mark.parametrize("n", [1, 5, 255, 256, 257, 5000])
def test_double_quantization_of_any_scales(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    uniform, bell = torch.rand(n, generator=generator), torch.randn(n, generator=generator)
    for absmax in (uniform, bell.exp(), bell.abs() * 1e-40, uniform * 1e-38, torch.zeros(n), torch.full((n,), 1e-45)):
        offset = absmax.mean()
        codes, state = bitsandbytes.functional.quantize_blockwise(absmax - offset, blocksize=256)
        p = compress(absmax)
        assert torch.equal(p["absmax8"], codes)
        assert torch.equal(p["absmax2"], state.absmax)
        assert torch.equal(expand(p), bitsandbytes.functional.dequantize_blockwise(codes, state) + offset)


def test_double_quantization_at_every_point_of_the_librarys_table() -> None:
    """Halfway between two of its 65,536 points, and one ulp to either side; a block holds x and -x: the mean is 0."""
    halfway = ((torch.arange(65_535, dtype=torch.float64) + 0.5) / 65_535 * 2 - 1).float()
    for far in (0, 9, -9):
        x = halfway if far == 0 else torch.nextafter(halfway, torch.tensor(float(far)))
        x = torch.nn.functional.pad(x, (0, -len(x) % 127)).reshape(-1, 127)
        ones = torch.ones(len(x), 1)
        pairs = torch.stack([torch.cat([ones, x], 1), torch.cat([-ones, -x], 1)], -1).flatten()
        assert pairs.mean() == 0
        codes, _ = bitsandbytes.functional.quantize_blockwise(pairs, blocksize=256)
        assert torch.equal(compress(pairs)["absmax8"], codes)


@pytest.mark.parametrize(("k", "block"), [(288, 64), (576, 128), (256, 512), (64, 128)])
def test_the_librarys_fault_with_rows_of_half_blocks(k: int, block: int) -> None:
    """On AVX-512 its dequantization counts k // block scales for each row. Anywhere else it gives what we give."""
    W = torch.randn(6, k, generator=torch.Generator().manual_seed(k))
    fmt = get("nf4", block=block)
    same = torch.equal(dequantized_by_rows(fmt, W), fmt.quantize(W).dequantize())
    assert same == (torch.backends.cpu.get_cpu_capability() != "AVX512")
