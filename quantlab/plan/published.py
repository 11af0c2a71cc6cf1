"""Figures that others published, each with its source: what the planner is held against.

Tests recompute every one of them, and tools/bench_plan.py prints the errors to docs/planning.md. Numbers here are typed
from their sources, nothing is computed.
"""

from __future__ import annotations

from dataclasses import dataclass

# model -> parameters: `safetensors.total` of the Hub's API, in copies of it on GitHub (keras-hub presets, kvfit, and
# others), 2026-11. Where the files also hold a tied output head (Qwen3-0.6B and 1.7B) or a rotary table (Llama 2), that
# is left out. DeepSeek-V3 without its module for a second token (the Hub's total: 684,531,386,000).
PARAMETERS = {
    "llama-2-7b": 6_738_415_616, "llama-2-13b": 13_015_864_320, "llama-2-70b": 68_976_648_192,
    "codellama-34b": 33_743_970_304, "llama-3-8b": 8_030_261_248, "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248, "llama-3.1-70b": 70_553_706_496, "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400, "llama-3.2-3b": 3_212_749_824, "llama-3.3-70b": 70_553_706_496,
    "mistral-7b": 7_241_732_096, "mistral-7b-v0.3": 7_248_023_552, "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112, "qwen2.5-0.5b": 494_032_768, "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688, "qwen2.5-7b": 7_615_616_512, "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352, "qwen2.5-72b": 72_706_203_648, "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976, "qwen3-4b": 4_022_468_096, "qwen3-8b": 8_190_735_360, "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264, "qwen3-30b-a3b": 30_532_122_624, "qwen3-235b-a22b": 235_093_634_560,
    "gemma-2-2b": 2_614_341_888, "gemma-2-9b": 9_241_705_984, "gemma-2-27b": 27_227_128_320,
    "gemma-3-1b": 999_885_952, "gemma-3-4b": 4_300_079_472, "gemma-3-12b": 12_187_325_040,
    "gemma-3-27b": 27_432_406_640, "phi-3-mini": 3_821_079_552, "phi-3-medium": 13_960_238_080,
    "phi-4": 14_659_507_200, "phi-4-mini": 3_836_021_760, "deepseek-v3": 671_026_419_200,
    "smollm2-135m": 134_515_008, "smollm2-360m": 361_821_120, "smollm2-1.7b": 1_711_376_384,
}  # fmt: skip

# model -> KiB of KV cache a token in 16 bits: vLLM's and llama.cpp's logs and the models' papers (DeepSeek-V3's report,
# section 2.1.1: 512 + 64 numbers in each of 61 layers)
KV_KIB = {
    "llama-3.1-8b": 128, "mistral-7b": 128, "llama-3-70b": 320, "llama-3.1-405b": 504, "qwen3-4b": 144, "qwen3-8b": 144,
    "llama-2-13b": 800, "llama-2-7b": 512, "deepseek-v3": 68.625,
}  # fmt: skip

# file type -> (bits a weight, GiB) of Llama-3.1-8B: llama.cpp, tools/quantize/README.md
LLAMA_CPP_README = {
    "q2_k": (3.1593, 2.95), "q3_k_m": (3.9960, 3.74), "q4_k_s": (4.6672, 4.36), "q4_k_m": (4.8944, 4.58),
    "q5_k_m": (5.7036, 5.33), "q6_k": (6.5633, 6.14), "q8_0": (8.5008, 7.95), "fp16": (16.0005, 14.96),
}  # fmt: skip

# (model, file type) -> bytes of a whole GGUF file on the Hub (unsloth's and bartowski's), tokenizer and settings
# included: 4 to 8 million bytes that a plan does not count. Read 2026-09-30 in a listing on GitHub.
GGUF_FILES = {
    ("qwen3-0.6b", "q4_k_m"): 396_705_472, ("qwen3-0.6b", "q8_0"): 639_447_744,
    ("llama-3.2-3b", "q4_k_m"): 2_019_377_696, ("llama-3.2-3b", "q5_k_m"): 2_322_154_016,
    ("llama-3.2-3b", "q6_k"): 2_643_853_856, ("llama-3.2-3b", "q8_0"): 3_421_899_296,
    ("qwen3-4b", "q4_k_m"): 2_497_281_120, ("qwen3-4b", "q5_k_m"): 2_889_514_080, ("qwen3-4b", "q6_k"): 3_306_261_600,
    ("qwen3-4b", "q8_0"): 4_280_405_600, ("qwen3-14b", "q4_k_m"): 9_001_753_984,
    ("qwen3-14b", "q5_k_m"): 10_514_570_624, ("qwen3-14b", "q6_k"): 12_121_938_304,
    ("qwen3-14b", "q8_0"): 15_698_534_784, ("phi-4", "q6_k"): 12_030_251_456, ("phi-4", "q8_0"): 15_580_500_416,
}  # fmt: skip


@dataclass(frozen=True)
class ServerLog:
    """What a vLLM server printed, in GiB on each GPU; None where the log does not say.

    `other` is what CUDA took outside PyTorch, `activations` PyTorch's peak, `kv` what was left for the KV cache and
    `tokens` how many it holds. `unlike` names what is not as in the planner's model.
    """

    source: str
    model: str
    fmt: str
    gpus: int = 1
    total: float | None = None
    utilization: float | None = None
    weights: float | None = None
    other: float | None = None
    activations: float | None = None
    kv: float | None = None
    tokens: int | None = None
    kv_dtype: str = "bf16"
    untied: bool = False
    unlike: str = ""


LOGS = (
    ServerLog("vLLM issue 13882", "qwen2.5-7b", "awq_int4_g128", total=8.00, utilization=0.70, weights=5.2032,
              other=0.03, activations=1.42, kv=-1.05),
    ServerLog("vLLM pull request 10511, Llama-3-8B", "llama-3-8b", "bf16", total=79.22, utilization=0.90, weights=14.96,
              other=1.79, activations=1.26, kv=53.29, unlike="1.79 GiB outside PyTorch: a development machine's"),
    ServerLog("vLLM issue 12529, DeepSeek-R1-Distill-Qwen-1.5B", "qwen2.5-1.5b", "bf16", total=7.75, utilization=0.90,
              weights=3.34, other=0.04, activations=1.39, kv=2.20, tokens=5148 * 16, untied=True),
    ServerLog("vLLM issue 15815, Qwen2.5-32B on 2 L40S", "qwen2.5-32b", "bf16", gpus=2, total=44.42, utilization=0.90,
              weights=30.71, other=0.30, activations=1.26, kv=7.71, tokens=3947 * 16),
    ServerLog("a public vLLM log of 2025-09, Qwen3-8B-FP8 on 24 GB", "qwen3-8b", "fp8_e4m3_block128", total=23.53,
              utilization=0.80, weights=8.8, other=0.02, activations=1.40, kv=9_232_221_491 / 2**30),
    ServerLog("vLLM's page on the quantized KV cache, Qwen3-4B on an L4", "qwen3-4b", "bf16", total=22.03,
              utilization=0.92, kv=11.47, tokens=83_488),
    ServerLog("the same with --kv-cache-dtype fp8", "qwen3-4b", "bf16", total=22.03, utilization=0.92, kv=11.47,
              tokens=166_992, kv_dtype="fp8"),
)  # fmt: skip

# llama.cpp's log for Llama-3-8B at 512 tokens a step: "CUDA0 compute buffer size = 258.50 MiB" (public logs of 2024
# and 2025), and "KV self size = 256.00 MiB" for 2,048 tokens in f16
LLAMA_CPP_COMPUTE_MIB = {"llama-3-8b": 258.50}
LLAMA_CPP_KV_MIB = {("llama-3-8b", 2048): 256.00, ("llama-3-8b", 512): 64.00}
