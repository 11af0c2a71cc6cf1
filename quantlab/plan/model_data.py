"""The numbers of real models, from the config.json of each: data for quantlab.plan.models, built when it is asked for.

Each row is (layers, hidden, intermediate, heads, kv heads, head_dim, vocab, context), the Hub's repository, the month
it was released, and what its family adds. Read 2025 and 2026 in copies of these files on GitHub and in
Lightning-AI/litgpt's litgpt/config.py; a test recounts the parameters of each against the total that the Hub states.
Contexts of Qwen2.5 are those of the Instruct models (32,768; the base models of 7B and more say 131,072).
"""

from __future__ import annotations

from typing import Any

from quantlab.plan.shapes import Experts, Latent

_QWEN2 = {"biased": ("q_proj", "k_proj", "v_proj")}
_QWEN3 = {"qk_norm": True}
_TIED = {"tied": True}
_SIGLIP = 416_866_032  # Gemma 3's vision tower; its projection into the text model comes on top


def _gemma2(layers: int) -> dict[str, Any]:
    return {"tied": True, "window": 4096, "full_layers": layers // 2, "post_norms": True}


def _gemma3(layers: int, window: int = 1024, hidden: int | None = None) -> dict[str, Any]:
    vision = _SIGLIP + 1152 * hidden + 1152 if hidden else 0
    return {"tied": True, "window": window, "full_layers": layers // 6, "post_norms": True, "qk_norm": True,
            "vision": vision}  # fmt: skip


def _phi3(window: int | None = None, tied: bool = False) -> dict[str, Any]:
    return {"fused": True, "window": window, "tied": tied}


Dims = tuple[int, int, int, int, int, int, int, int]
ROWS: dict[str, tuple[Dims, str, str, dict[str, Any]]] = {
    #                   layers hidden inter. heads kv   d   vocab   context
    "llama-2-7b":      ((32,  4096, 11008,  32,  32, 128,  32000,   4096), "meta-llama/Llama-2-7b-hf", "2023-07", {}),
    "llama-2-13b":     ((40,  5120, 13824,  40,  40, 128,  32000,   4096), "meta-llama/Llama-2-13b-hf", "2023-07", {}),
    "llama-2-70b":     ((80,  8192, 28672,  64,   8, 128,  32000,   4096), "meta-llama/Llama-2-70b-hf", "2023-07", {}),
    "codellama-34b":   ((48,  8192, 22016,  64,   8, 128,  32000,  16384), "codellama/CodeLlama-34b-hf", "2023-08", {}),
    "llama-3-8b":      ((32,  4096, 14336,  32,   8, 128, 128256,   8192), "meta-llama/Meta-Llama-3-8B", "2024-04", {}),
    "llama-3-70b":     ((80,  8192, 28672,  64,   8, 128, 128256,   8192), "meta-llama/Meta-Llama-3-70B",
                        "2024-04", {}),
    "llama-3.1-8b":    ((32,  4096, 14336,  32,   8, 128, 128256, 131072), "meta-llama/Llama-3.1-8B", "2024-07", {}),
    "llama-3.1-70b":   ((80,  8192, 28672,  64,   8, 128, 128256, 131072), "meta-llama/Llama-3.1-70B", "2024-07", {}),
    # some copies of this config.json say 16 KV heads, which doubles the KV cache
    "llama-3.1-405b":  ((126, 16384, 53248, 128,  8, 128, 128256, 131072), "meta-llama/Llama-3.1-405B", "2024-07", {}),
    "llama-3.2-1b":    ((16,  2048,  8192,  32,   8,  64, 128256, 131072), "meta-llama/Llama-3.2-1B", "2024-09", _TIED),
    "llama-3.2-3b":    ((28,  3072,  8192,  24,   8, 128, 128256, 131072), "meta-llama/Llama-3.2-3B", "2024-09", _TIED),
    "llama-3.3-70b":   ((80,  8192, 28672,  64,   8, 128, 128256, 131072), "meta-llama/Llama-3.3-70B-Instruct",
                        "2024-12", {}),
    "mistral-7b":      ((32,  4096, 14336,  32,   8, 128,  32000,  32768), "mistralai/Mistral-7B-v0.1", "2023-09",
                        {"window": 4096}),
    "mistral-7b-v0.3": ((32,  4096, 14336,  32,   8, 128,  32768,  32768), "mistralai/Mistral-7B-v0.3", "2024-05", {}),
    "mixtral-8x7b":    ((32,  4096, 14336,  32,   8, 128,  32000,  32768), "mistralai/Mixtral-8x7B-v0.1", "2023-12",
                        {"experts": Experts(8, 2, 14336)}),
    "mixtral-8x22b":   ((56,  6144, 16384,  48,   8, 128,  32000,  65536), "mistralai/Mixtral-8x22B-v0.1", "2024-04",
                        {"experts": Experts(8, 2, 16384)}),
    "qwen2.5-0.5b":    ((24,   896,  4864,  14,   2,  64, 151936,  32768), "Qwen/Qwen2.5-0.5B-Instruct", "2024-09",
                        _QWEN2 | _TIED),
    "qwen2.5-1.5b":    ((28,  1536,  8960,  12,   2, 128, 151936,  32768), "Qwen/Qwen2.5-1.5B-Instruct", "2024-09",
                        _QWEN2 | _TIED),
    "qwen2.5-3b":      ((36,  2048, 11008,  16,   2, 128, 151936,  32768), "Qwen/Qwen2.5-3B-Instruct", "2024-09",
                        _QWEN2 | _TIED),
    "qwen2.5-7b":      ((28,  3584, 18944,  28,   4, 128, 152064,  32768), "Qwen/Qwen2.5-7B-Instruct",
                        "2024-09", _QWEN2),
    "qwen2.5-14b":     ((48,  5120, 13824,  40,   8, 128, 152064,  32768), "Qwen/Qwen2.5-14B-Instruct", "2024-09",
                        _QWEN2),
    "qwen2.5-32b":     ((64,  5120, 27648,  40,   8, 128, 152064,  32768), "Qwen/Qwen2.5-32B-Instruct", "2024-09",
                        _QWEN2),
    "qwen2.5-72b":     ((80,  8192, 29568,  64,   8, 128, 152064,  32768), "Qwen/Qwen2.5-72B-Instruct", "2024-09",
                        _QWEN2),
    "qwen3-0.6b":      ((28,  1024,  3072,  16,   8, 128, 151936,  40960), "Qwen/Qwen3-0.6B",
                        "2025-04", _QWEN3 | _TIED),
    "qwen3-1.7b":      ((28,  2048,  6144,  16,   8, 128, 151936,  40960), "Qwen/Qwen3-1.7B",
                        "2025-04", _QWEN3 | _TIED),
    "qwen3-4b":        ((36,  2560,  9728,  32,   8, 128, 151936,  40960), "Qwen/Qwen3-4B", "2025-04", _QWEN3 | _TIED),
    "qwen3-8b":        ((36,  4096, 12288,  32,   8, 128, 151936,  40960), "Qwen/Qwen3-8B", "2025-04", _QWEN3),
    "qwen3-14b":       ((40,  5120, 17408,  40,   8, 128, 151936,  40960), "Qwen/Qwen3-14B", "2025-04", _QWEN3),
    "qwen3-32b":       ((64,  5120, 25600,  64,   8, 128, 151936,  40960), "Qwen/Qwen3-32B", "2025-04", _QWEN3),
    "qwen3-30b-a3b":   ((48,  2048,  6144,  32,   4, 128, 151936,  40960), "Qwen/Qwen3-30B-A3B", "2025-04",
                        _QWEN3 | {"experts": Experts(128, 8, 768)}),
    "qwen3-235b-a22b": ((94,  4096, 12288,  64,   4, 128, 151936,  40960), "Qwen/Qwen3-235B-A22B", "2025-04",
                        _QWEN3 | {"experts": Experts(128, 8, 1536)}),
    "gemma-2-2b":      ((26,  2304,  9216,   8,   4, 256, 256000,   8192), "google/gemma-2-2b", "2024-07", _gemma2(26)),
    "gemma-2-9b":      ((42,  3584, 14336,  16,   8, 256, 256000,   8192), "google/gemma-2-9b", "2024-06", _gemma2(42)),
    "gemma-2-27b":     ((46,  4608, 36864,  32,  16, 128, 256000,   8192), "google/gemma-2-27b",
                        "2024-06", _gemma2(46)),
    "gemma-3-1b":      ((26,  1152,  6912,   4,   1, 256, 262144,  32768), "google/gemma-3-1b-it", "2025-03",
                        _gemma3(26, 512)),
    "gemma-3-4b":      ((34,  2560, 10240,   8,   4, 256, 262208, 131072), "google/gemma-3-4b-it", "2025-03",
                        _gemma3(34, hidden=2560)),
    "gemma-3-12b":     ((48,  3840, 15360,  16,   8, 256, 262208, 131072), "google/gemma-3-12b-it", "2025-03",
                        _gemma3(48, hidden=3840)),
    "gemma-3-27b":     ((62,  5376, 21504,  32,  16, 128, 262208, 131072), "google/gemma-3-27b-it", "2025-03",
                        _gemma3(62, hidden=5376)),
    "phi-3-mini":      ((32,  3072,  8192,  32,  32,  96,  32064,   4096), "microsoft/Phi-3-mini-4k-instruct",
                        "2024-04",
                        _phi3(2047)),
    "phi-3-medium":    ((40,  5120, 17920,  40,  10, 128,  32064,   4096), "microsoft/Phi-3-medium-4k-instruct",
                        "2024-05", _phi3(2047)),
    "phi-4":           ((40,  5120, 17920,  40,  10, 128, 100352,  16384), "microsoft/phi-4", "2024-12", _phi3()),
    "phi-4-mini":      ((32,  3072,  8192,  24,   8, 128, 200064, 131072), "microsoft/Phi-4-mini-instruct", "2025-02",
                        _phi3(262144, tied=True)),
    # without the module that predicts one token further (14 billion parameters more in the repository's files)
    "deepseek-v3":     ((61,  7168, 18432, 128, 128, 192, 129280, 163840), "deepseek-ai/DeepSeek-V3", "2024-12",
                        {"experts": Experts(256, 8, 2048, shared=2048, dense=(0, 1, 2), corrected=True),
                         "latent": Latent(512, 1536, 128, 64, 128)}),
    "smollm2-135m":    ((30,   576,  1536,   9,   3,  64,  49152,   8192), "HuggingFaceTB/SmolLM2-135M",
                        "2024-10", _TIED),
    "smollm2-360m":    ((32,   960,  2560,  15,   5,  64,  49152,   8192), "HuggingFaceTB/SmolLM2-360M",
                        "2024-10", _TIED),
    "smollm2-1.7b":    ((24,  2048,  8192,  32,  32,  64,  49152,   8192), "HuggingFaceTB/SmolLM2-1.7B",
                        "2024-10", _TIED),
}  # fmt: skip

ALIASES = {  # what old guides write, and the models whose config it is
    "7b": "llama-2-7b",
    "13b": "llama-2-13b",
    "34b": "codellama-34b",
    "70b": "llama-2-70b",
    "8b": "llama-3.1-8b",
    "405b": "llama-3.1-405b",
    "llama-7b": "llama-2-7b",
    "llama-13b": "llama-2-13b",
    "llama-70b": "llama-2-70b",
    "smollm2": "smollm2-135m",
    "mixtral": "mixtral-8x7b",
    "mistral-7b-v0.1": "mistral-7b",
    "deepseek-r1": "deepseek-v3",
}
