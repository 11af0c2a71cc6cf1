"""vLLM with and without a prefix cache, an FP8 cache and guesses, RECORDED: rows of `tools/record_serving.py`."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from quantlab.assets import bundled
from quantlab.lesson.lab5 import Row, Tried

FILE = "assets/recorded/cpu-vllm-variants.json"


@lru_cache(maxsize=1)
def kept() -> dict[str, Any]:
    """The whole file: where, and each variant's rows or the reason why it did not run there."""
    found: dict[str, Any] = json.loads(bundled(FILE).read_text(encoding="utf-8"))
    return found


def variants() -> Tried:
    """The rows as `lab5.measure` gave them.

    >>> "as it is" in variants()
    True
    """
    return {
        name: rows if isinstance(rows, str) else [Row(**row | {"texts": tuple(row["texts"])}) for row in rows]
        for name, rows in kept()["variants"].items()
    }


def provenance() -> str:
    """The day, the machine, and the versions."""
    where = kept()["where"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    return f"RECORDED on {where['date'][:10]} on {where['processor']} ({versions}), the bundled model"
