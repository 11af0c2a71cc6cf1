"""How much memory, how fast, how dear: arithmetic on a model's config and a GPU's data sheet. Standard library only.

- `plan.models`: shapes of real models, tensor by tensor: `models.shape_of("llama-3.1-8b")`
- `plan.gpus`: memory, bandwidth and prices of real GPUs: `gpus.gpu("a10")`
- `plan.recipes`: which format each tensor of a checkpoint has: `recipes.format_names()`
- `plan.memory`: weights + KV cache + overhead, and what fits: `memory.memory("llama-3-70b", "int4_g128", 4096)`
"""

from quantlab.plan import gpus, memory, models, recipes

__all__ = ["gpus", "memory", "models", "recipes"]
