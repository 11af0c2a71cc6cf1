"""Real models as data: the numbers of their config.json, from the Hub repository and date beside each.

>>> shape_of("llama-3.1-8b").parameters
8030261248
"""

from __future__ import annotations

from pathlib import Path

from quantlab.assets import bundled
from quantlab.errors import QuantlabError, unknown
from quantlab.plan.configs import read_config, shape_from_config
from quantlab.plan.shapes import KINDS, LINEAR, ModelShape, TensorSpec

__all__ = [
    "KINDS", "LINEAR", "MODELS", "TINY", "ModelShape", "TensorSpec",
    "model_names", "read_config", "shape_from_config", "shape_of",
]  # fmt: skip

TINY = "tiny"  # the bundled story-teller; its shape is read from its own config.json


def _model(
    name: str,
    dims: tuple[int, int, int, int, int, int, int, int],
    source: str,
    *,
    tied: bool = False,
    window: int | None = None,
    qk_norm: bool = False,
    biased: tuple[str, ...] = (),
) -> ModelShape:
    layers, hidden, intermediate, heads, kv_heads, head_dim, vocab, context = dims
    return ModelShape(
        name, layers, hidden, intermediate, heads, kv_heads, head_dim, vocab, context, tied, window, qk_norm, biased,
        f"config.json of {source}",
    )  # fmt: skip


_ALL = (
    #                        layers hidden  inter. heads kv  d    vocab   context
    _model("llama-2-7b",     (32,  4096,  11008,  32,  32, 128,  32000,   4096), "meta-llama/Llama-2-7b-hf, 2023-07"),
    _model("llama-2-13b",    (40,  5120,  13824,  40,  40, 128,  32000,   4096), "meta-llama/Llama-2-13b-hf, 2023-07"),
    _model("llama-2-70b",    (80,  8192,  28672,  64,   8, 128,  32000,   4096), "meta-llama/Llama-2-70b-hf, 2023-07"),
    _model("codellama-34b",  (48,  8192,  22016,  64,   8, 128,  32000,  16384), "codellama/CodeLlama-34b-hf, 2023-08"),
    _model("llama-3-8b",     (32,  4096,  14336,  32,   8, 128, 128256,   8192), "meta-llama/Meta-Llama-3-8B, 2024-04"),
    _model("llama-3-70b",    (80,  8192,  28672,  64,   8, 128, 128256,   8192),
           "meta-llama/Meta-Llama-3-70B, 2024-04"),
    _model("llama-3.1-8b",   (32,  4096,  14336,  32,   8, 128, 128256, 131072), "meta-llama/Llama-3.1-8B, 2024-07"),
    _model("llama-3.1-70b",  (80,  8192,  28672,  64,   8, 128, 128256, 131072), "meta-llama/Llama-3.1-70B, 2024-07"),
    # some copies of this config.json say 16 KV heads, which doubles the KV cache
    _model("llama-3.1-405b", (126, 16384, 53248, 128,   8, 128, 128256, 131072), "meta-llama/Llama-3.1-405B, 2024-07"),
    _model("llama-3.3-70b",  (80,  8192,  28672,  64,   8, 128, 128256, 131072),
           "meta-llama/Llama-3.3-70B-Instruct, 2024-12"),
    _model("mistral-7b",     (32,  4096,  14336,  32,   8, 128,  32000,  32768), "mistralai/Mistral-7B-v0.1, 2023-09",
           window=4096),
    _model("qwen2.5-7b",     (28,  3584,  18944,  28,   4, 128, 152064,  32768), "Qwen/Qwen2.5-7B-Instruct, 2024-09",
           biased=("q_proj", "k_proj", "v_proj")),
    _model("qwen3-4b",       (36,  2560,   9728,  32,   8, 128, 151936,  40960), "Qwen/Qwen3-4B, 2025-04",
           tied=True, qk_norm=True),
    _model("qwen3-8b",       (36,  4096,  12288,  32,   8, 128, 151936,  40960), "Qwen/Qwen3-8B, 2025-04",
           qk_norm=True),
    _model("smollm2-135m",   (30,   576,   1536,   9,   3,  64,  49152,   8192), "HuggingFaceTB/SmolLM2-135M, 2024-10",
           tied=True),
)  # fmt: skip
MODELS = {shape.name: shape for shape in _ALL}


def model_names() -> list[str]:
    """Every name that `shape_of` knows, smallest model first."""
    return [TINY, *sorted(MODELS, key=lambda name: MODELS[name].parameters)]


def shape_of(model: str | Path | ModelShape) -> ModelShape:
    """The shape of a model: a name such as `llama-3.1-8b` or `tiny`, a model's folder, or a config.json.

    Raises UsageError for an unknown name (with the nearest one), QuantlabError for a config that cannot be read.
    """
    if isinstance(model, ModelShape):
        return model
    name = str(model).strip().lower()
    if name == TINY:
        return read_config(bundled("assets/story-model"), TINY)
    if name in MODELS:
        return MODELS[name]
    path = Path(model)
    if path.exists():
        return read_config(path)
    if path.suffix == ".json":
        raise QuantlabError(f"there is no {path}; give a model's folder or its config.json")
    raise unknown("model", name, model_names())
