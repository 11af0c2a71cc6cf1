"""quantlab: every quantization format from scratch, equal to the one you deploy.

`import quantlab` is instant: torch and transformers load with the first function that needs them.

>>> import quantlab
>>> quantlab.__version__
'0.1.0'
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # type checkers take it as true; importing `typing` for it would be most of `import quantlab`
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"

# public name -> module that defines it, imported when first asked for (PEP 562)
_HOME = {
    "quantize_tensor": "quantlab.formats.catalog",
    "compare": "quantlab.evaluate.compare",
    "load": "quantlab.models.load",
    "quantize": "quantlab.models.quantize",
    "Server": "quantlab.serve.server",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'quantlab' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
