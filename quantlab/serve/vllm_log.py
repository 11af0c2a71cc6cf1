"""What vLLM says of itself when it starts, read from its log: memory, held against the plan; method and kernel.

    Checkpoint size: 0.02 GiB.                                            the files, before loading
    Model loading took 14.9889 GiB memory and 2.9 seconds                 weights, on a GPU
    Available KV cache memory: 53.29 GiB                                  what is left for the cache, on a GPU
    Explicitly set (1.0/12.59) GiB for KV cache on node 0.                the same on the CPU build, which is told
    GPU KV cache size: 83,488 tokens, Maximum concurrency for ...         tokens that it holds ("CPU" on the CPU build)
    Initializing a V1 LLM engine ... quantization=compressed-tensors, ...  how it reads the checkpoint; None: in 16 bits
    Using MarlinLinearKernel for CompressedTensorsWNA16                   what multiplies quantized weights

Read in vLLM 0.32 (`vllm/v1/worker/cpu_worker.py`, `gpu_worker.py`, `v1/core/kv_cache_utils.py`, `v1/engine/core.py`,
`model_executor/kernels/linear/__init__.py` and `layers/quantization/`); each worker says it, so that of several GPUs
the last line counts: all have the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from quantlab.plan.gpus import GIB

_LINES = {
    "weights": re.compile(r"Model loading took ([\d.]+) GiB"),
    "kv": re.compile(r"(?:Available KV cache memory: |Explicitly set \()([\d.]+)(?: GiB|/)"),
    "tokens": re.compile(r"KV cache size: ([\d,]+) tokens"),
    "method": re.compile(r"\bquantization=([\w-]+)"),
    "kernel": re.compile(r"(?:Using|Selected) (\w*Kernel\w*) for "),
}


@dataclass(frozen=True)
class Said:
    """GiB of weights and of KV cache on each GPU, and tokens that the cache holds; None where the log does not say.

    method: vLLM's name of the checkpoint's quantization, "None" for a model in 16 bits. kernel: the class that
    multiplies its quantized weights.
    """

    weights_gib: float | None = None
    kv_gib: float | None = None
    kv_tokens: int | None = None
    method: str | None = None
    kernel: str | None = None

    @property
    def bytes_per_token(self) -> float | None:
        """What one token takes in the cache, as the server counts it."""
        return None if self.kv_gib is None or not self.kv_tokens else self.kv_gib * GIB / self.kv_tokens

    def words(self, planned_weights: int | None = None) -> str:
        """The log in words, the weights against what was planned (bytes); what it does not say is left out.

        >>> Said(5.2, 11.0, 80_000, "awq", "MarlinLinearKernel").words(5 * 2**30)
        'read as awq, multiplied by MarlinLinearKernel; weights 5.20 GiB (+4.0% of the plan); room for 80,000 tokens'
        """
        parts = []
        if self.method is not None:
            said = "16 bits, not quantized" if self.method == "None" else self.method
            parts.append(f"read as {said}" + (f", multiplied by {self.kernel}" if self.kernel else ""))
        if self.weights_gib is not None:
            off = f" ({self.weights_gib * GIB / planned_weights - 1:+.1%} of the plan)" if planned_weights else ""
            parts.append(f"weights {self.weights_gib:.2f} GiB{off}")
        if self.kv_tokens is not None:
            parts.append(f"room for {self.kv_tokens:,} tokens")
        return "; ".join(parts)


def read(log: Path) -> Said:
    """The memory lines of a server's log.

    >>> parse("INFO 11-26 GPU KV cache size: 83,488 tokens").kv_tokens
    83488
    """
    return parse(log.read_text(encoding="utf-8", errors="replace"))


def parse(text: str) -> Said:
    """The same of its text."""
    last = {name: found[-1] for name, pattern in _LINES.items() if (found := pattern.findall(text))}
    weights, kv, tokens = (last.get(name) for name in ("weights", "kv", "tokens"))
    return Said(
        None if weights is None else float(weights),
        None if kv is None else float(kv),
        None if tokens is None else int(tokens.replace(",", "")),
        last.get("method"),
        last.get("kernel"),
    )
