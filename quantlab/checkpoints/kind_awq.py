"""AutoAWQ's checkpoints, "GEMM" version: every model called -AWQ.

    "quantization_config": {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": 128, "zero_point": true,
                            "modules_to_not_convert": null}

    LAYER.qweight, LAYER.qzeros, LAYER.scales       the bytes are in quantlab.formats.awq_pack

`group_size` -1 is a whole row. A name in `modules_to_not_convert` leaves out every layer that it is a part of; null is
what AutoAWQ writes where all layers of the blocks are quantized. (vLLM and transformers follow it; GPTQModel 7.7's own
loader does not, and computes nonsense with the layers that were left out.)

Source: AutoAWQ 0.2.9, `AwqConfig.to_transformers_dict` and `save_quantized`. Not as there: the rest of the model keeps
its own type, where AutoAWQ turns all of it into float16 unless told otherwise.
"""

from __future__ import annotations

from typing import Any

from quantlab.checkpoints.kind import FLOATS, Found, Kind, NotReadHereError, Part, Scope, Settings, group_of, named
from quantlab.core import Format
from quantlab.formats import awq_pack
from quantlab.formats.int_affine import IntAffine


class Awq(Kind):
    """AutoAWQ's qweight, qzeros and scales."""

    name = "awq"
    loaded_by = "vLLM; transformers with gptqmodel"
    packings = (awq_pack.AwqGemm,)
    parts = ("qweight", "qzeros", "scales")

    def settings(self, fmt: Format, scope: Scope) -> dict[str, Any]:
        """As AutoAWQ writes them."""
        grid = fmt.grid
        assert isinstance(grid, IntAffine)
        return {
            "quant_method": self.name,
            "version": "gemm",
            "bits": grid.bits,
            "group_size": grid.group or -1,
            "zero_point": True,
            "modules_to_not_convert": list(scope.left_out) or None,
        }

    def layer(self, settings: Settings, found: Found) -> tuple[Format, tuple[int, int]]:
        """Its group from the settings, its shape from qweight."""
        version = str(settings.get("version", "gemm")).lower()
        what = f"AWQ is read in version gemm of 4 bits, not {version} of {settings['bits']}"
        if version != "gemm":
            raise NotReadHereError(what)
        if settings["bits"] != 4:
            raise ValueError(what)
        k, words = found.matrix("qweight")
        group = group_of(settings)
        return awq_pack.build(named("awq_int4", group), group=group), (words * 8, k)

    def expected(self, fmt: Format, shape: tuple[int, int]) -> dict[str, Part]:
        """Transposed: k, then n."""
        n, k = shape
        assert isinstance(fmt.grid, IntAffine)
        groups = k // (fmt.grid.group or k)
        return {
            "qweight": Part(("I32",), (k, n // 8)),
            "qzeros": Part(("I32",), (groups, n // 8), groups=0),
            "scales": Part(FLOATS, (groups, n), groups=0),
        }
