"""gptq_int*_g* against GPTQModel: its quantizer and its packer, whose bytes tests/golden/make_gptq_pack.py keeps."""

from __future__ import annotations

import warnings

import pytest
import torch
from golden.gptq_cases import CASES, Case, digest, to_text, weights
from int_references import golden, same_as_gptqmodel
from int_weights import adversarial, real

from quantlab.formats.catalog import get, quantize_tensor
from quantlab.formats.gptq_pack import GptqWords
from quantlab.formats.int_affine import IntAffine
from quantlab.formats.int_rounding import rounding

every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def grid_of(case: Case, stored: torch.dtype = torch.float32) -> IntAffine:
    return IntAffine(case.bits, case.group, case.symmetric, stored, rounding("gptq"))


def test_the_golden_bytes_are_of_the_version_we_name() -> None:
    assert golden()["made by"]["gptqmodel"] == get("gptq_int4_g128").reference.version
    assert golden()["cases"].keys() == {case.name for case in CASES}


@every_case
def test_scales_zeros_weights_and_bytes_are_theirs(case: Case) -> None:
    """In float32, as their quantizer works: codes for the scale before it is stored."""
    packing = GptqWords(case.bits, case.group, case.version, case.desc_act)
    assert golden()["cases"][case.name].keys() == weights(case.bits).keys()
    for name, W in weights(case.bits).items():
        same_as_gptqmodel(case, name, W, grid_of(case), packing)


@every_case
def test_the_format_has_their_scales_and_the_nearest_codes_for_them(case: Case) -> None:
    """gptq_int*: the scale is stored first, then the codes are chosen."""
    stored = grid_of(case, torch.float16)
    for name, W in (weights(case.bits) | adversarial()).items():
        p, exact = stored.fit(W), grid_of(case).fit(W)
        assert torch.equal(p["zero"], exact["zero"]), name
        assert (p["zero"] == p["zero"].clamp(0, 2**case.bits - 1).round()).all(), name
        rounded = exact["scale"].half().float()
        assert torch.equal(p["scale"], rounded.masked_fill(rounded == 0, 2.0**-24)), name
        # the line that chooses codes, in gptqmodel.quantization.quantizer.quantize
        scale, zero = (p[part].repeat_interleave(case.group, 1) for part in ("scale", "zero"))
        theirs = scale * ((W.float() / scale).round().add(zero).clamp(0, 2**case.bits - 1) - zero)
        assert torch.equal(stored.decode(stored.encode(W, p), p), theirs), name


def test_real_layers_survive_and_share_awq_values() -> None:
    """One grid, several packings: the codes of a real layer, whichever packing holds them."""
    for name, W in real().items():
        for fmt in (get("gptq_int4_g64"), get("gptq_int3_g64"), get("gptq_int4_g64", version=2, symmetric=False)):
            Q = fmt.quantize(W)
            p = fmt.grid.fit(W)
            q = fmt.grid.encode(W, p)
            assert torch.equal(Q.dequantize(), fmt.grid.decode(q, p)), name
        q, p = get("awq_int4_g64").packing.unpack(quantize_tensor(W, "awq_int4_g64").parts, (W.shape[0], W.shape[1]))
        assert torch.equal(
            get("gptq_int4_g64", version=2).store(q, p).dequantize(), quantize_tensor(W, "awq_int4_g64").dequantize()
        ), name


def test_codes_as_gptqmodel_chooses_them_can_be_asked_for() -> None:
    """scale_dtype="float32": the bytes of their round to nearest, scales still stored in float16."""
    case = CASES[0]
    assert (case.bits, case.group, case.symmetric, case.version, case.desc_act) == (2, 32, True, 1, False)
    W = weights(2)["random"]
    fmt = get("gptq_int4_g32", bits=2, scale_dtype="float32")
    theirs = golden()["cases"][case.name]["random"]
    for part, value in fmt.quantize(W).parts.items():
        assert theirs[part] in (digest(value), to_text(value)), part


def test_one_sided_symmetric_groups_lose_their_upper_half_there_and_here() -> None:
    """The surprise that int_rounding speaks of; the hashes above hold it too ("all positive", symmetric)."""
    W = torch.linspace(0.1, 1.5, 32).repeat(32, 1)
    W_hat = quantize_tensor(W, "gptq_int4_g32").dequantize()
    assert W_hat.max() < 0.75
    assert quantize_tensor(-W, "gptq_int4_g32").dequantize().min() < -1.4


def test_autoawq_turns_its_own_bytes_into_ours() -> None:
    """A packer that runs here: AutoAWQ repacks a layer for ExLlama, and that layout is GPTQ's version 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from awq.utils.packing_utils import unpack_reorder_pack
    for W in (*adversarial().values(), *list(real().values())[::4]):
        awq = get("awq_int4_g64").quantize(W / 2)
        theirs = unpack_reorder_pack(awq.parts["qweight"], awq.parts["qzeros"], 4)
        ours = get("gptq_int4_g64").packing.pack(*awq.fmt.packing.unpack(awq.parts, awq.shape))
        assert torch.equal(ours["qweight"], theirs[0])
        assert torch.equal(ours["qzeros"], theirs[1])
