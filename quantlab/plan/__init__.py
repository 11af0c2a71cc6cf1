"""How much memory, how fast, how dear: arithmetic on a model's config and a GPU's data sheet. Standard library only.

- `plan.models`: shapes of real models, tensor by tensor: `models.shape_of("llama-3.1-8b")`
- `plan.gpus`: memory, bandwidth and prices of real GPUs: `gpus.gpu("a10")`
- `plan.recipes`: which format each tensor of a checkpoint has: `recipes.format_names()`
- `plan.memory`: weights + KV cache + overhead, and what fits: `memory.memory("llama-3-70b", "int4_g128", 4096)`
- `plan.split`, `plan.stages`: what one of several GPUs holds, tensor and pipeline parallel; `plan.engines`: what a
  server needs beside weights and KV cache
- `plan.inverse`: the longest context, the most texts, the smallest GPU, the best format, the cheapest ways out
- `plan.roofline`, `plan.speed`: the time of a step, and from which batch a small format stops paying
- `plan.capacity`, `plan.cost`: users, and dollars a day; `plan.detect`: the GPU of this machine
- `plan.lab_recipes`: which model and which formats the labs take on each GPU: `lab_recipes.recipe("l4")`
- `plan.report`: all of it for one question: `report.plan("llama-3.3-70b", "a10", "awq", 4096)`

Each module is imported when it is first used, so that `import quantlab.plan` costs next to nothing.
"""

from __future__ import annotations

import importlib

__all__ = [
    "capacity", "cost", "detect", "engines", "gpus", "inverse", "lab_recipes", "memory", "models", "recipes", "report",
    "roofline", "speed", "split", "stages", "support",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'quantlab.plan' has no attribute {name!r}")
    return importlib.import_module(f"quantlab.plan.{name}")


def __dir__() -> list[str]:
    return __all__
