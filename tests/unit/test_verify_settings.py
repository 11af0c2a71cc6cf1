"""config.json against the weights: group, bits, sizes, types, and what is left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from verify_cases import CASES, LAYER, Made, change, change_all, copy_of, edit, make, must_find, renew

from quantlab.checkpoints.verify import verify
from quantlab.checkpoints.verify.left_out import cheap, left_out, matches

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def made(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tiny_folder, tmp_path_factory.mktemp("made"))


@pytest.fixture
def broken(made: Made, tmp_path: Path) -> Path:
    return made.copy("packed", tmp_path)


def _group(value: int) -> Edit:
    """Another group size, however the kind spells it."""

    def do(config: dict[str, Any]) -> None:
        settings = config["quantization_config"]
        if "config_groups" in settings:
            weights = settings["config_groups"]["group_0"]["weights"]
            weights |= {"group_size": value, "strategy": "group"}
        else:
            settings["group_size"] = value

    return do


GROUPED = ("awq", "gptq", "gptq-v2-asymmetric", "gptq-3bit", "packed", "packed-asymmetric", "packed-3bit")


@pytest.mark.parametrize("wrong", [32, 256])
@pytest.mark.parametrize("case", GROUPED)
def test_the_wrong_group(made: Made, tmp_path: Path, case: str, wrong: int) -> None:
    folder = made.copy(case, tmp_path)
    edit(folder, "config.json", _group(wrong))
    right = 64 if case == "packed-3bit" else 128
    must_find(folder, "shapes", f"a scale for each {right}", f"groups of {wrong}", "6 more", quick=True)


@pytest.mark.parametrize(("case", "wrong"), [("mxfp4", 16), ("nvfp4", 32), ("int8", 128), ("fp8-square", 64)])
def test_the_wrong_group_where_the_kind_allows_one(made: Made, tmp_path: Path, case: str, wrong: int) -> None:
    folder = made.copy(case, tmp_path)
    edit(folder, "config.json", _group(wrong))
    found = verify(folder, quick=True)
    first = next(check for check in found.checks if check.passed is False)
    assert first.name in ("settings", "shapes"), found.to_json()


@pytest.mark.parametrize("case", ["nf4", "nf4-double", "fp4"])
def test_the_wrong_block_of_bitsandbytes(made: Made, tmp_path: Path, case: str) -> None:
    folder = made.copy(case, tmp_path)
    kind = CASES[case][0].removesuffix("_dq")

    def other(state: torch.Tensor) -> torch.Tensor:
        text = bytes(state.tolist()).decode().replace('"blocksize": 64', '"blocksize": 128')
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    change(folder, f"weight.quant_state.bitsandbytes__{kind}", other)
    must_find(folder, "shapes", LAYER, "absmax", quick=True)


@pytest.mark.parametrize("case", ["fp8-row", "fp8-tensor", "int8"])
def test_scales_of_another_reach(made: Made, tmp_path: Path, case: str) -> None:
    folder = made.copy(case, tmp_path)

    def other(config: dict[str, Any]) -> None:
        weights = config["quantization_config"]["config_groups"]["group_0"]["weights"]
        weights["strategy"] = "channel" if case == "fp8-tensor" else "tensor"

    edit(folder, "config.json", other)
    must_find(folder, "shapes", "weight_scale", "6 more", quick=True)


@pytest.mark.parametrize(("case", "key", "value"), [("gptq", "bits", 8), ("awq", "bits", 8), ("gptq-3bit", "bits", 4)])
def test_the_wrong_bits(made: Made, tmp_path: Path, case: str, key: str, value: int) -> None:
    folder = made.copy(case, tmp_path)
    edit(folder, "config.json", lambda config: config["quantization_config"].update({key: value}))
    found = verify(folder, quick=True)
    assert next(check for check in found.checks if check.passed is False).name in ("settings", "shapes")


def test_the_wrong_bits_of_compressed_tensors(broken: Path) -> None:
    def other(config: dict[str, Any]) -> None:
        config["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"] = 8

    edit(broken, "config.json", other)
    must_find(broken, "shapes", LAYER, "weight_packed", quick=True)


@pytest.mark.parametrize(
    ("case", "method"), [("awq", "gptq"), ("gptq", "awq"), ("packed", "awq"), ("nf4", "compressed-tensors")]
)
def test_another_kind_than_config_says(made: Made, tmp_path: Path, case: str, method: str) -> None:
    folder = made.copy(case, tmp_path)
    edit(folder, "config.json", lambda config: config["quantization_config"].update(quant_method=method))
    assert not verify(folder, quick=True).ok


def test_no_settings_at_all(broken: Path) -> None:
    edit(broken, "config.json", lambda config: config.pop("quantization_config"))
    must_find(broken, "settings", "no quantization_config", "load noise", quick=True)


def test_settings_for_a_model_that_is_not_quantized(made: Made, tmp_path: Path) -> None:
    folder = copy_of(made.block, tmp_path / "plain")
    (folder / "config.json").write_bytes((made("packed") / "config.json").read_bytes())
    must_find(folder, "settings", "no layer is stored in codes", quick=True)


def test_a_method_that_is_not_read_here_is_no_fault(broken: Path) -> None:
    edit(broken, "config.json", lambda config: config["quantization_config"].update(quant_method="hqq"))
    found = verify(broken)
    assert found.ok
    assert any(c.name == "settings" and c.passed is None and '"hqq"' in c.what for c in found.checks)


@pytest.mark.parametrize(
    ("case", "how", "words"),
    [
        ("awq", lambda settings: settings.update(version="gemv"), "gemv"),
        ("gptq", lambda settings: settings.update(checkpoint_format="marlin"), "marlin"),
        ("packed", lambda settings: settings["config_groups"].update(group_1={}), "2 groups"),
        ("packed", lambda settings: settings["config_groups"]["group_0"].update(format="mxfp8-quantized"), "mxfp8"),
    ],
)
def test_a_variant_that_is_not_read_here_is_no_fault(
    made: Made, tmp_path: Path, case: str, how: Edit, words: str
) -> None:
    folder = made.copy(case, tmp_path)
    edit(folder, "config.json", lambda config: how(config["quantization_config"]))
    found = verify(folder)
    assert found.ok, found.to_json()
    assert any(check.passed is None and words in check.what for check in found.checks)


@pytest.mark.parametrize("settings", [3, [], "awq", {"quant_method": ["awq"]}, {"bits": 4}])
def test_settings_without_sense(broken: Path, settings: object) -> None:
    edit(broken, "config.json", lambda config: config.update(quantization_config=settings))
    found = verify(broken, quick=True)
    assert settings == "awq" or not found.ok


@pytest.mark.parametrize("value", [0, -1, 1.5, "512", [512], 2**40, True, float("inf")])
@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
def test_sizes_without_sense(broken: Path, key: str, value: object) -> None:
    edit(broken, "config.json", lambda config: config.update({key: value}))
    must_find(broken, "config", key, "no size of a model", quick=True)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("num_hidden_layers", 2, "model.layers.1"),
        ("num_hidden_layers", 10**6, "1,000,000 layers"),
        ("hidden_size", 256, "config.json implies"),
        ("intermediate_size", 2048, "config.json implies"),
        ("num_key_value_heads", 4, "k_proj"),
        ("vocab_size", 5000, "model.embed_tokens.weight"),
    ],
)
def test_the_config_of_another_model(broken: Path, key: str, value: int, words: str) -> None:
    edit(broken, "config.json", lambda config: config.update({key: value}))
    must_find(broken, "shapes", words, quick=True)


def test_more_blocks_than_config_says(tiny_folder: Path, tmp_path: Path) -> None:
    folder = make(tiny_folder, tmp_path / "four", "packed")
    edit(folder, "config.json", lambda config: config.update(num_hidden_layers=3))
    must_find(folder, "shapes", "model.layers.3", "no place", quick=True)


def test_an_unknown_family_is_no_fault(broken: Path) -> None:
    edit(broken, "config.json", lambda config: config.update(model_type="nemo", architectures=["NemoForCausalLM"]))
    found = verify(broken, quick=True)
    assert found.ok
    assert any(c.name == "shapes" and c.passed is None and '"nemo"' in c.what for c in found.checks)


@pytest.mark.parametrize("dtype", [torch.int32, torch.float64, torch.bool, torch.float8_e4m3fn])
def test_the_wrong_type(broken: Path, dtype: torch.dtype) -> None:
    change(broken, "model.norm.weight", lambda tensor: tensor.to(dtype), layer="")
    must_find(broken, "types", "model.norm.weight", "is stored as", quick=True)


def test_scales_of_the_wrong_type(broken: Path) -> None:
    change_all(broken, "weight_scale", lambda scale: scale.double())
    must_find(broken, "shapes", "weight_scale", "F64", "6 more", quick=True)


def test_codes_of_the_wrong_type(broken: Path) -> None:
    change(broken, "weight_packed", lambda words: words.float())
    must_find(broken, "shapes", f"{LAYER}.weight_packed", "F32", quick=True)


def test_a_layer_in_16_bits_that_config_does_not_leave_out(made: Made, broken: Path) -> None:
    plain = load_file(made.block / "model.safetensors")[f"{LAYER}.weight"]
    tensors = {n: t for n, t in load_file(broken / "model.safetensors").items() if not n.startswith(f"{LAYER}.")}
    save_file({**tensors, f"{LAYER}.weight": plain}, broken / "model.safetensors", metadata={"format": "pt"})
    renew(broken)
    must_find(broken, "settings", LAYER, "not quantized", quick=True)
    edit(broken, "config.json", lambda config: config["quantization_config"]["ignore"].append(LAYER))
    assert verify(broken, quick=True).ok


@pytest.mark.parametrize(
    ("case", "how"),
    [
        ("packed", lambda settings: settings["ignore"].append("re:.*down_proj")),
        ("awq", lambda settings: settings.update(modules_to_not_convert=["mlp"])),
        ("gptq", lambda settings: settings.update(dynamic={r"-:.*mlp\..*": {}})),
        ("nf4", lambda settings: settings.update(llm_int8_skip_modules=["down_proj"])),
    ],
)
def test_a_layer_in_codes_that_config_leaves_out(made: Made, tmp_path: Path, case: str, how: Edit) -> None:
    folder = made.copy(case, tmp_path)
    edit(folder, "config.json", lambda config: how(config["quantization_config"]))
    must_find(folder, "settings", "leaves it out", quick=True)


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|a)*b", "(.*)*x", r"(\w+\s?)*$", "a" * 300, "((a))+", "(?=a)*", "a*b*c*d*"]
)
def test_patterns_that_may_take_years_are_not_followed(pattern: str) -> None:
    assert not cheap(pattern)
    assert matches(pattern, "a" * 60) is None
    settings = {"config_groups": {"group_0": {"targets": ["Linear"]}}, "ignore": [f"re:{pattern}"]}
    assert left_out("compressed-tensors", settings, "a" * 60) is None


@pytest.mark.parametrize("pattern", [r"model\.layers\.\d+\.mlp\..*", "^lm_head$", "re", "(q|k)_proj", ".*down_proj"])
def test_usual_patterns_are_followed(pattern: str) -> None:
    assert matches(pattern, "model.layers.0.mlp.up_proj") is not None


def test_a_pattern_that_is_none() -> None:
    assert matches("[", "a") is None
