"""The libraries on the whole story model, RECORDED: rows of docs/benchmarks_methods.json, with the day and the machine.

`tools/bench_methods.py` runs AutoAWQ, llm-compressor, GPTQModel and quantlab in processes of their own, on the same
tokens and groups, and writes both files; nothing here is typed by hand.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache

from quantlab.assets import bundled

FILE = "docs/benchmarks_methods"
MARK = "RECORDED"


@dataclass(frozen=True)
class Recorded:
    """One library on one model: KL divergence to the original, seconds of quantizing, MiB of its process at most."""

    model: str
    bits: int
    group: int
    method: str
    ours: bool
    kl: float
    kl_stderr: float
    quantize_s: float
    peak_mib: float

    @property
    def name(self) -> str:
        """Whose it is."""
        return f"{self.method} (quantlab)" if self.ours else self.method


@lru_cache(maxsize=1)
def rows() -> tuple[Recorded, ...]:
    """Every row that is kept."""
    kept = json.loads(bundled(f"{FILE}.json").read_text(encoding="utf-8"))
    names = Recorded.__dataclass_fields__
    return tuple(Recorded(**{name: row[name] for name in names}) for row in kept)


def of(model: str, bits: int) -> dict[str, Recorded]:
    """The rows of a model at a width, by the name of the method.

    >>> {"autoawq", "gptqmodel", "llmcompressor"} <= set(of("tiny", 4))
    True
    """
    return {row.method: row for row in rows() if (row.model, row.bits) == (model, bits)}


def provenance() -> str:
    """The day, the machine and the versions, as the tool wrote them.

    >>> provenance().startswith("RECORDED on 20")
    True
    """
    page = bundled(f"{FILE}.md").read_text(encoding="utf-8")
    found = re.search(r"Written by `tools/bench_methods.py` on (.+?)\.\n", page)
    assert found, f"{FILE}.md does not say when it was written"
    return f"{MARK} on {found[1]}"
