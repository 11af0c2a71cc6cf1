"""Our GPTQ checkpoint against GPTQModel: its settings here, its bytes in test_gptq_pack.

GPTQModel lives in an environment of its own, so what it writes was recorded: tests/golden/make_gptq_settings.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_cases import CASES, Layers, Weights, quantize, weights_of

from quantlab.checkpoints.write import write_checkpoint

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "gptq_settings.json").read_text())
MADE: dict[str, Callable[[Weights], Layers]] = {  # GPTQModel's settings -> our layers
    "gptq": CASES["gptq_int4_g128"][1],
    "gptq, act order": CASES["gptq, act order"][1],
    "gptq, 3 bits": CASES["gptq_int3_g64"][1],
    "gptq, whole rows": CASES["gptq, 8 bits, whole rows"][1],
    "gptq_v2": CASES["gptq_v2"][1],
    "gptq_v2, asymmetric": CASES["gptq_v2, asymmetric"][1],
    "a layer left out": lambda weights: quantize(
        {name: W for name, W in weights.items() if name != "model.layers.0.mlp.down_proj"}, "gptq_int4_g128"
    ),
}


def test_every_recorded_case_is_compared() -> None:
    assert GOLDEN["cases"].keys() == MADE.keys()


@pytest.mark.parametrize("case", MADE)
def test_gptqmodel_spells_the_same_settings(case: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tiny_folder, tmp_path / "out", MADE[case](weights_of(tiny_folder)))
    settings = json.loads((folder / "quantize_config.json").read_text())
    assert settings.pop("meta")["quantizer"][0].startswith("quantlab:")
    assert settings == GOLDEN["cases"][case]
