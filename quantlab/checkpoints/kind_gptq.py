"""GPTQ's checkpoints: every model called -GPTQ, as GPTQModel writes them and AutoGPTQ did.

    "quantization_config": {"quant_method": "gptq", "checkpoint_format": "gptq", "bits": 4, "group_size": 128,
                            "desc_act": false, "sym": true, ...}

    LAYER.qweight, LAYER.qzeros, LAYER.scales, LAYER.g_idx      the bytes are in quantlab.formats.gptq_pack

`checkpoint_format` is "gptq" where the file holds z - 1 (version 1, which every program reads) and "gptq_v2" where it
holds z. Asymmetric grids are written as version 2 only: a zero point of 0 has no predecessor in its field, and
GPTQModel refuses an asymmetric version 1 that it did not make itself. Layers left out are named in `dynamic`, whose
rules are regular expressions; "-:" in front means "not this one" (GPTQModel and vLLM follow them; transformers, through
optimum 2.3, does not, and fails to load). quantize_config.json repeats the settings for older loaders.

Source: GPTQModel 7.7.0, `BaseQuantizeConfig.to_dict` and `save_quantized`; its `meta` about how the calibration ran is
its own, ours names who made the file.
"""

from __future__ import annotations

import re
from typing import Any

from quantlab import __version__
from quantlab.checkpoints.kind import FLOATS, Found, Kind, NotReadHereError, Part, Scope, Settings, group_of, named
from quantlab.core import Format, Parts
from quantlab.errors import QuantlabError
from quantlab.formats import gptq_pack
from quantlab.formats.int_affine import IntAffine

VERSIONS = {"gptq": 1, "gptq_v2": 2}


class Gptq(Kind):
    """GPTQModel's qweight, qzeros, scales and g_idx."""

    name = "gptq"
    loaded_by = "vLLM; GPTQModel; transformers with optimum and gptqmodel"
    packings = (gptq_pack.GptqWords,)
    parts = ("qweight", "qzeros", "scales", "g_idx")
    settings_file = "quantize_config.json"

    def settings(self, fmt: Format, scope: Scope) -> dict[str, Any]:
        """As GPTQModel writes them."""
        grid, packing = fmt.grid, fmt.packing
        assert isinstance(grid, IntAffine)
        assert isinstance(packing, gptq_pack.GptqWords)
        if not grid.symmetric and packing.version == 1:
            raise QuantlabError(
                f"asymmetric {fmt.name} cannot be stored in version 1 of GPTQ, where a zero point of 0 has no place; "
                "quantize with version=2"
            )
        stored = next(name for name, version in VERSIONS.items() if version == packing.version)
        settings = {
            "quant_method": self.name,
            "method": self.name,
            "format": stored,
            "checkpoint_format": stored,
            "bits": grid.bits,
            "group_size": grid.group or -1,
            "desc_act": packing.desc_act,
            "sym": grid.symmetric,
            "lm_head": False,
            "pack_dtype": "int32",
            "meta": {"quantizer": [f"quantlab:{__version__}"]},
        }
        rules: dict[str, Any] = {f"-:^{re.escape(name)}$": {} for name in scope.left_out}
        return {**settings, "dynamic": rules} if rules else settings

    def layer(self, settings: Settings, found: Found) -> tuple[Format, tuple[int, int]]:
        """Its grid from the settings, its shape from qweight and g_idx."""
        stored = settings.get("checkpoint_format") or settings.get("format") or "gptq"
        if stored not in VERSIONS:
            raise NotReadHereError(f"GPTQ is read in checkpoint_format {' and '.join(VERSIONS)}, not {stored!r}")
        _, n = found.matrix("qweight")
        (k,) = found.entry("g_idx").shape
        bits, group = int(settings["bits"]), group_of(settings)
        fmt = gptq_pack.build(
            named(f"gptq_int{bits}", group), bits=bits, group=group, version=VERSIONS[stored],
            desc_act=bool(settings.get("desc_act", False)), symmetric=bool(settings.get("sym", True)),
        )  # fmt: skip
        return fmt, (n, k)

    def expected(self, fmt: Format, shape: tuple[int, int]) -> dict[str, Part]:
        """Transposed: k, then n."""
        n, k = shape
        assert isinstance(fmt.grid, IntAffine)
        bits, groups = fmt.grid.bits, k // (fmt.grid.group or k)
        return {
            "qweight": Part(("I32",), (k * bits // 32, n)),
            "qzeros": Part(("I32",), (groups, n * bits // 32), groups=0),
            "scales": Part(FLOATS, (groups, n), groups=0),
            "g_idx": Part(("I32",), (k,)),
        }

    def restore(self, fmt: Format, stored: Parts) -> Parts:
        """Every input must be in a group that exists."""
        low, high = (int(end) for end in stored["g_idx"].aminmax())
        if low < 0 or high >= len(stored["scales"]):
            raise ValueError(f"g_idx names group {low if low < 0 else high} of {len(stored['scales'])}")
        return stored
