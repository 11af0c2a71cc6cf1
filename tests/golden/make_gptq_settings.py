"""Make gptq_settings.json: how GPTQModel spells the settings of a checkpoint.

It lives in an environment of its own, as make_gptq_pack.py says, and there this is run once:

    GPTQMODEL_CPU_WORKERS=2 CUDA_VISIBLE_DEVICES= python tests/golden/make_gptq_settings.py
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from gptqmodel.quantization import QuantizeConfig

CASES = {
    "gptq": {"bits": 4, "group_size": 128},
    "gptq, act order": {"bits": 4, "group_size": 128, "desc_act": True},
    "gptq, 3 bits": {"bits": 3, "group_size": 64},
    "gptq, whole rows": {"bits": 8, "group_size": -1},
    "gptq_v2": {"bits": 4, "group_size": 128, "format": "gptq_v2"},
    "gptq_v2, asymmetric": {"bits": 4, "group_size": 64, "sym": False, "format": "gptq_v2"},
    "a layer left out": {"bits": 4, "group_size": 128, "dynamic": {r"-:^model\.layers\.0\.mlp\.down_proj$": {}}},
}


def main() -> None:
    made_by = {"script": Path(__file__).name, "gptqmodel": version("gptqmodel")}
    cases = {name: QuantizeConfig(**options).to_dict() for name, options in CASES.items()}
    for settings in cases.values():
        del settings["meta"]  # how its own run went, temporary folders included
    text = json.dumps({"made by": made_by, "cases": cases}, indent=1, sort_keys=True)
    (Path(__file__).parent / "gptq_settings.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
