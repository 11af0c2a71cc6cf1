"""A run on a GPU, RECORDED: Llama-3.1-8B's shape on one H200 through vLLM, transformers and the course's own kernel.

`tools/record_gpu.py` writes the file; nothing here is typed by hand. The weights are random: what a model takes and how
fast it runs do not depend on what they say (`tools/random_checkpoint.py`). Quality is never recorded so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from statistics import median
from typing import Any

from quantlab.assets import bundled
from quantlab.serve.batching import Measured, StepCost
from quantlab.serve.vllm_log import Said

FILE = "assets/recorded/h200-llama-3.1-8b.json"
MODEL, CARD = "llama-3.1-8b", "h200"  # as the planner names them
Speeds = Mapping[int, tuple[float, float, float]]


@lru_cache(maxsize=1)
def kept() -> dict[str, Any]:
    """The whole file: where, vLLM's options, and what was measured."""
    found: dict[str, Any] = json.loads(bundled(FILE).read_text(encoding="utf-8"))
    return found


def formats() -> tuple[str, ...]:
    """Formats that vLLM served, the original first."""
    return tuple(kept()["vllm"])


def planned(fmt: str) -> str:
    """The planner's name of a format that vLLM served."""
    return {"fp8_e4m3": "fp8_e4m3_channel"}.get(fmt, fmt)


def vllm(fmt: str) -> Speeds:
    """Texts at once -> tokens a second of all of them together: slowest, median and fastest run.

    >>> vllm("int4_g128")[1][1] > vllm("bf16")[1][1]
    True
    """
    return _speeds(kept()["vllm"][fmt]["rows"])


def step_ms(fmt: str) -> Mapping[int, float]:
    """Texts at once -> milliseconds between two tokens of one text, the median."""
    return {row["batch"]: median(row["tpot_ms"]) for row in kept()["vllm"][fmt]["rows"]}


def said(fmt: str) -> Said:
    """vLLM's own lines on its memory."""
    return Said(**kept()["vllm"][fmt]["said"])


def generate() -> Speeds:
    """The same of transformers' `generate` in bf16: one text at a time, and static batches."""
    return _speeds(kept()["generate"])


def kernel(batch: int = 1) -> list[dict[str, Any]]:
    """The course's W4A16 kernel beside torch's product in float16, a row a matrix, with its share of the roof.

    The roof is what the card reads of its memory in the same run, not the data sheet's figure.
    """
    found = kept()["kernel"]
    rows = [row for row in found["rows"] if row["batch"] == batch]
    return [row | {"roof": row["w4a16_gb_per_s"] / found["read_gb_per_s"]} for row in rows]


def provenance() -> str:
    """The day, the machine, the versions, and that the weights are random.

    >>> provenance().startswith("RECORDED on 20")
    True
    """
    where = kept()["where"]
    versions = ", ".join(f"{name} {where['versions'][name]}" for name in ("vllm", "transformers", "torch"))
    name = where["device"].split(",")[0]
    return f"RECORDED on {where['date']} on one {name} ({versions}), Llama-3.1-8B's shape with random weights"


def _speeds(rows: list[dict[str, Any]]) -> Speeds:
    return {
        row["batch"]: (min(row["tokens_per_s"]), median(row["tokens_per_s"]), max(row["tokens_per_s"])) for row in rows
    }


def step_cost(fmt: str = "bf16") -> StepCost:
    """The cost of vLLM's steps there, for the simulator: a step for each batch, and all prompts of the largest in one.

    (One prompt alone would not do: most of its 30 ms are the way to the server and back.)
    """
    measured = kept()
    prompt, output = measured["prompt_tokens"], measured["output_tokens"]
    rows = measured["vllm"][fmt]["rows"]
    texts = [Measured(0, row["batch"], row["batch"] * (prompt + output // 2), median(row["tpot_ms"]) / 1e3)
             for row in rows]  # fmt: skip
    return StepCost.fit([*texts, Measured(rows[-1]["batch"] * prompt, 0, 0, median(rows[-1]["ttft_ms"]) / 1e3)])
