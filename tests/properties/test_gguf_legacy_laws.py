"""Laws of llama.cpp's blocks of 32 on weights that nobody thought of."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantlab.formats.catalog import FORMATS
from quantlab.formats.gguf_blocks import join_bits, join_nibbles, split_bits, split_nibbles

few = settings(max_examples=60, deadline=None)
names = st.sampled_from(["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl"])
STEPS = {"q4_0": 16, "q4_1": 15, "q5_0": 32, "q5_1": 31, "q8_0": 254}


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    """[n, k] of finite float32 within float16's scales, of very different sizes; k a multiple of 32."""
    n, blocks = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    number = st.floats(-6e4, 6e4, width=32) | st.sampled_from([0.0, -0.0, 1e-45, -1e-30, 1.0, 0.5, 2.0**-24])
    values = draw(st.lists(number, min_size=n * blocks * 32, max_size=n * blocks * 32))
    return torch.tensor(values, dtype=torch.float32).reshape(n, -1)


@given(matrices(), st.sampled_from(sorted(STEPS)))
@few
def test_error_is_at_most_a_step_and_the_rounding_of_the_scale(W: Tensor, name: str) -> None:
    """A whole step, not half: Q4_0 and Q5_0 cut what lies opposite the largest weight."""
    x = W.reshape(len(W), -1, 32)
    error = (FORMATS[name].quantize(W).dequantize().reshape(x.shape) - x).abs()
    span = x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True) if "1" in name else 2 * x.abs().amax(-1, keepdim=True)
    share = 1.0 if name.endswith("_0") and name != "q8_0" else 0.5
    lost = (span + x.abs().amax(-1, keepdim=True)) * 2**-10 + STEPS[
        name
    ] * 2.0**-24  # float16: relative, and at the bottom
    assert (error <= span / STEPS[name] * share * (1 + 1e-5) + lost).all()


@given(matrices(), names)
@few
def test_what_is_stored_unpacks_and_packs(W: Tensor, name: str) -> None:
    fmt = FORMATS[name]
    Q = fmt.quantize(W)
    q, p = fmt.packing.unpack(Q.parts, Q.shape)
    assert torch.equal(fmt.packing.pack(q, p)["blocks"], Q.parts["blocks"])
    assert Q.nbytes == fmt.layout.matrix_bytes(*W.shape)


@given(matrices(), names)
@few
def test_a_matrix_is_its_blocks(W: Tensor, name: str) -> None:
    """Each block of 32 is quantized as if it were alone, unless there is an importance matrix."""
    alone = FORMATS[name].quantize(W.reshape(-1, 32)).parts["blocks"]
    assert torch.equal(FORMATS[name].quantize(W).parts["blocks"].flatten(), alone.flatten())


@given(matrices(), names, st.integers(-6, 6))
@few
def test_powers_of_two_pass_through(W: Tensor, name: str, exponent: int) -> None:
    """Scaling by 2^e scales W_hat and leaves the codes, where float16 scales stay normal and sums do not underflow."""
    sizes = W.reshape(-1, 32).abs()
    if sizes.amax(-1).min() < 0.5 or sizes.max() > 900 or ((W != 0) & (W.abs() < 1e-6)).any():
        return
    fmt, factor = FORMATS[name], math.ldexp(1.0, exponent)
    if name in ("q4_1", "q5_1") and (W.reshape(-1, 32).amax(-1) - W.reshape(-1, 32).amin(-1)).min() < 0.5:
        return
    a, b = fmt.quantize(W), fmt.quantize(W * factor)
    (q, p), (q2, p2) = (fmt.packing.unpack(each.parts, each.shape) for each in (a, b))
    if any((number.abs() < 2.0**-8).logical_and(number != 0).any() for number in p.values()):
        return
    assert torch.equal(q, q2)
    assert all(torch.equal(p[key] * factor, p2[key]) for key in p)


@given(st.lists(st.integers(0, 15), min_size=32, max_size=32))
@few
def test_nibbles_are_the_definition(codes: list[int]) -> None:
    q = torch.tensor(codes, dtype=torch.uint8)
    packed = join_nibbles(q)
    assert packed.tolist() == [codes[j] + 16 * codes[j + 16] for j in range(16)]
    assert torch.equal(split_nibbles(packed), q)


@given(st.lists(st.integers(0, 1), min_size=32, max_size=32))
@few
def test_fifth_bits_are_the_definition(bits: list[int]) -> None:
    octets = join_bits(torch.tensor(bits, dtype=torch.uint8))
    assert int.from_bytes(bytes(octets.tolist()), "little") == sum(bit << j for j, bit in enumerate(bits))
    assert split_bits(octets).tolist() == bits
