"""Bytes of every format: against llama.cpp's own table, and against the tensors that the GPU formats store."""

import gguf
import pytest

from quantlab.errors import UsageError
from quantlab.layout import LAYOUTS, layout


@pytest.mark.parametrize("name", [n for n in LAYOUTS if n.upper() in gguf.GGMLQuantizationType.__members__])
def test_gguf_blocks_equal_llama_cpp(name: str) -> None:
    block, nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name.upper()]]
    if name == "nvfp4":  # llama.cpp packs four blocks of 16 with their scales into one struct
        block, nbytes = block / 4, nbytes / 4
    assert (layout(name).block, layout(name).nbytes) == (block, nbytes)


def test_every_llama_cpp_type_of_the_course_was_compared() -> None:
    members = gguf.GGMLQuantizationType.__members__
    assert {"q4_0", "q8_0", "q2_k", "q4_k", "q6_k", "iq4_nl", "mxfp4"} <= {n for n in LAYOUTS if n.upper() in members}


def test_awq_equals_the_tensors_of_its_checkpoint() -> None:
    n, k, group = 1024, 4096, 128
    qweight = k * (n // 8) * 4  # int32, 8 codes each
    qzeros = (k // group) * (n // 8) * 4
    scales = (k // group) * n * 2  # float16
    assert layout("awq_int4_g128").matrix_bytes(n, k) == qweight + qzeros + scales
    assert layout("awq_int4_g128").bits_per_weight == 4.15625


def test_int8_has_a_float32_scale_for_each_row() -> None:
    assert layout("int8").matrix_bytes(1000, 64) == 1000 * (64 + 4)


def test_bits_per_weight() -> None:
    expected = {"bf16": 16, "int8": 8, "int4_g128": 4.125, "nf4": 4.5, "mxfp4": 4.25, "nvfp4": 4.5}
    assert {name: layout(name).bits_per_weight for name in expected} == expected


def test_rows_are_rounded_up_to_whole_blocks() -> None:
    assert layout("q8_0").bytes_for(33) == 2 * 34
    assert layout("q8_0").matrix_bytes(3, 33) == 3 * 2 * 34


def test_double_quantized_absmax_is_counted_exactly() -> None:
    assert layout("nf4_dq").bytes_for(64 * 256) == 64 * 256 // 2 + 256 + 4


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'nvfp4'"):
        layout("nvfp")
