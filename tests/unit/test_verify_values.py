"""What the tensors hold: a broken number in each kind of checkpoint is found, and named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from verify_cases import (
    CODES,
    LAYER,
    SCALES,
    Made,
    change,
    change_all,
    copy_of,
    edit,
    make,
    must_find,
    put,
)

from quantlab.checkpoints.verify import verify

BAD = {"not a number": float("nan"), "infinite": float("inf"), "negative": -0.5, "zero": 0.0}
LAYERS = [f"model.layers.0.{name}" for name in ("mlp.up_proj", "mlp.gate_proj", "mlp.down_proj", "self_attn.o_proj")]


@pytest.fixture(scope="module")
def made(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tiny_folder, tmp_path_factory.mktemp("made"))


def _possible(case: str, part: str) -> dict[str, float]:
    """What can be wrong with a scale of this kind: E8M0 has neither a sign nor a zero, FP8 no infinity."""
    if case == "mxfp4":
        return {"not a number": 255}
    fp8 = case == "nvfp4" and part == "weight_scale"
    may_be_zero = part == "weight.nested_absmax"  # 256 scales that are alike
    return {w: x for w, x in BAD.items() if not (fp8 and w == "infinite") and not (may_be_zero and w == "zero")}


@pytest.mark.parametrize(("case", "part"), [(case, part) for case, parts in SCALES.items() for part in parts])
def test_bad_scales(made: Made, tmp_path: Path, case: str, part: str) -> None:
    """One of each in a layer of its own; each is told, by its layer."""
    folder = made.copy(case, tmp_path)
    bad = dict(zip(LAYERS, _possible(case, part).items(), strict=False))
    for layer, (_, value) in bad.items():
        change(folder, part, put((3, 0), value), layer=layer)
    found = must_find(folder, "scales", "quantize the layer again")
    for layer, (what, _) in bad.items():
        assert any(f"{layer}.{part} holds a scale that is {what}" in fault for fault in found.faults), found.faults


def test_a_scale_of_zero_where_the_weights_are_zero(made: Made, tmp_path: Path) -> None:
    """bitsandbytes stores it, and nothing is wrong with it."""

    def no_output(name: str, W: Tensor) -> Tensor:
        W = W.clone()
        if name == LAYER:
            W[5] = 0
        return W

    for case in ("nf4", "llm-int8"):
        folder = make(made.block, tmp_path / case, case, no_output)
        scale = load_file(folder / "model.safetensors")[f"{LAYER}.{SCALES[case][0]}"]
        assert (scale == 0).any()
        found = verify(folder)
        assert not [check for check in found.checks if check.name == "scales" and not check.passed], found.to_json()


@pytest.mark.parametrize("case", CODES)
def test_all_codes_the_same(made: Made, tmp_path: Path, case: str) -> None:
    folder = made.copy(case, tmp_path)
    same = 0x11 if case not in ("fp8-tensor", "fp8-row", "fp8-square") else 0x38  # 1.0
    change(folder, CODES[case], lambda t: torch.full_like(t.view(torch.uint8), same).view(t.dtype))
    must_find(folder, "codes", LAYER)


@pytest.mark.parametrize("case", ["awq", "gptq", "packed", "nf4", "int8", "llm-int8"])
def test_a_hole_of_zero_bytes(made: Made, tmp_path: Path, case: str) -> None:
    """What an interrupted download leaves in a file whose room was reserved."""
    folder = made.copy(case, tmp_path)

    def hole(codes: Tensor) -> Tensor:
        octets = codes.clone().view(torch.uint8).flatten()
        octets[len(octets) // 2 : len(octets) // 2 + 16384] = 0
        return octets.view(codes.dtype).reshape(codes.shape)

    change(folder, CODES[case], hole)
    if case in ("int8", "llm-int8"):  # a zero byte is the weight 0 there: pruned, for all that anybody can say
        told = [check for check in verify(folder).checks if check.name == "codes" and check.passed is None]
        assert "rows are zero throughout" in told[0].what
        return
    must_find(folder, "codes", LAYER, "the same code throughout", "download")


@pytest.mark.parametrize("case", ["fp8-tensor", "fp8-row", "fp8-square"])
def test_an_fp8_code_that_is_no_number(made: Made, tmp_path: Path, case: str) -> None:
    folder = made.copy(case, tmp_path)
    change(folder, "weight", put((7, 7), float("nan")))
    must_find(folder, "codes", LAYER, "no numbers")


@pytest.mark.parametrize(("value", "words"), [(float("nan"), "NaN"), (float("inf"), "infinite")])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.embed_tokens.weight"])
def test_a_parameter_that_is_not_finite(made: Made, tmp_path: Path, name: str, value: float, words: str) -> None:
    folder = made.copy("packed", tmp_path)
    change(folder, name, put((5,) if "norm" in name else (4000, 511), value), layer="")
    must_find(folder, "values", name, words)


def test_a_plain_matrix_that_was_not_filled(tiny_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_folder, tmp_path / "plain")
    change(folder, "model.layers.1.mlp.up_proj.weight", torch.zeros_like, layer="")
    must_find(folder, "values", "model.layers.1.mlp.up_proj.weight", "all zeros")


def test_weights_beyond_the_type_that_config_asks_for(made: Made, tmp_path: Path) -> None:
    folder = made.copy("packed", tmp_path)
    change(folder, "model.norm.weight", put((5,), 70000.0), layer="")
    assert verify(folder).ok
    edit(folder, "config.json", lambda config: config.update(dtype="float16"))
    must_find(folder, "values", "model.norm.weight", "float16", "bfloat16")


def test_gptq_of_the_other_version(made: Made, tmp_path: Path) -> None:
    """One step: what version 1 subtracts and version 2 does not."""
    folder = made.copy("gptq", tmp_path)
    edit(folder, "config.json", lambda config: config["quantization_config"].update(checkpoint_format="gptq_v2"))
    must_find(folder, "codes", "1.0 steps", "checkpoint_format", "6 more")
    other = made.copy("gptq-v2-asymmetric", tmp_path)
    edit(other, "config.json", lambda config: config["quantization_config"].update(checkpoint_format="gptq"))
    must_find(other, "codes", "steps", "checkpoint_format")


def test_signs_in_the_wrong_place(made: Made, tmp_path: Path) -> None:
    folder = made.copy("packed", tmp_path)
    change(folder, "weight_packed", lambda words: (words.view(torch.uint8) ^ 0x88).view(torch.int32))
    must_find(folder, "codes", LAYER, "of the largest of their group")


@pytest.mark.parametrize("case", ["awq", "gptq", "packed", "nvfp4"])
def test_scales_of_another_layer(made: Made, tmp_path: Path, case: str) -> None:
    """gate's scales under up's codes: both of the same shape, and both plausible."""
    folder = made.copy(case, tmp_path)
    part = SCALES[case][0]
    theirs = load_file(folder / "model.safetensors")[f"model.layers.0.mlp.gate_proj.{part}"]
    change(folder, part, lambda _: theirs, layer="model.layers.0.mlp.up_proj")
    must_find(folder, "codes", "up_proj", "do not belong to its codes")


def test_act_order_that_was_lost(made: Made, tmp_path: Path) -> None:
    """Groups were made of inputs far apart, and g_idx says that they are neighbours."""
    scattered = torch.randperm(1024, generator=torch.Generator().manual_seed(0))

    def act_order(name: str, W: Tensor) -> Tensor:
        return W[:, scattered] if name == LAYER else W

    folder = make(made.block, tmp_path / "act", "gptq", act_order)
    g_idx = torch.empty(1024, dtype=torch.int32)
    g_idx[scattered] = torch.arange(1024, dtype=torch.int32) // 128

    def put_back(words: Tensor) -> Tensor:
        from quantlab.formats.words import pack_words, unpack_words

        codes = torch.empty(512, 1024, dtype=torch.uint8)
        codes[:, scattered] = unpack_words(words.T, 4, 1024)
        return pack_words(codes, 4).T

    change(folder, "qweight", put_back)
    must_find(folder, "codes", LAYER, "scales")
    change(folder, "g_idx", lambda _: g_idx)
    edit(folder, "config.json", lambda config: config["quantization_config"].update(desc_act=True))
    assert verify(folder).ok


def test_a_g_idx_that_names_no_group(made: Made, tmp_path: Path) -> None:
    folder = made.copy("gptq", tmp_path)
    change(folder, "g_idx", lambda g_idx: g_idx + 1)
    must_find(folder, "codes", LAYER, "g_idx names group 8 of 8")


def test_groups_of_unequal_size(made: Made, tmp_path: Path) -> None:
    folder = made.copy("gptq", tmp_path)
    change(folder, "g_idx", lambda g_idx: torch.where(torch.arange(1024) < 130, 0, g_idx).int())
    must_find(folder, "codes", LAYER, "130 inputs into group 0")


def test_a_table_of_levels_that_is_not_the_kinds(made: Made, tmp_path: Path) -> None:
    folder = made.copy("nf4", tmp_path)
    change(folder, "weight.quant_map", lambda levels: levels.flip(0))
    must_find(folder, "codes", LAYER, "other levels")


@pytest.mark.parametrize("case", ["gptq-v2-asymmetric", "packed-asymmetric", "awq"])
def test_zero_points_of_other_rows(made: Made, tmp_path: Path, case: str) -> None:
    folder = made.copy(case, tmp_path)
    part = "weight_zero_point" if case.startswith("packed") else "qzeros"
    change_all(folder, part, lambda zeros: zeros.roll(1, 0) if case.startswith("packed") else zeros.roll(1, 1))
    must_find(folder, "codes", "zero points", "do not belong to its codes")
