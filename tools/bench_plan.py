"""Predicted against real, term by term: writes docs/planning_errors.md, to which docs/planning.md refers.

    python tools/bench_plan.py               every table; a minute, because checkpoints are written and models loaded
    python tools/bench_plan.py --resident    prints "planned resident" bytes of SmolLM2 in bf16, loaded in this process

Published figures come from quantlab.plan.published; checkpoints are written, and a model is loaded, on this machine.
`accelerate estimate-memory` is run on the same local config.json files.
"""

from __future__ import annotations

import argparse
import gc
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from markdown_rows import row

from quantlab.plan.engines import ENGINES
from quantlab.plan.memory import GIB, kv_bytes_per_token, weights_bytes
from quantlab.plan.models import MODELS, shape_of
from quantlab.plan.published import (
    GGUF_FILES,
    KV_KIB,
    LLAMA_CPP_COMPUTE_MIB,
    LLAMA_CPP_README,
    LOGS,
    PARAMETERS,
    ServerLog,
)
from quantlab.plan.spellings import KV_BITS
from quantlab.plan.split import kv_on_one, weights_on_one

PAGE = Path(__file__).resolve().parent.parent / "docs/planning_errors.md"
OWN_CHECKPOINTS = ("int4_g128", "int8", "fp8_e4m3_channel", "nvfp4", "awq_int4_g128", "gptq_int4_g128")
ACCELERATE = ("llama-3.1-8b", "qwen3-4b", "gemma-2-2b")


def error(predicted: float, real: float) -> str:
    return f"{predicted / real - 1:+.2%}"


def logs() -> Iterator[str]:
    """vLLM's logs: weights, activations, the KV cache's tokens, and what is left for it."""
    yield row("log", "term", "predicted GiB", "printed GiB", "error")
    yield row("---", "---", "---:", "---:", "---:")
    for log in LOGS:
        shape = replace(shape_of(log.model), tied=False) if log.untied else shape_of(log.model)
        weights = weights_on_one(shape, log.fmt, log.gpus) / GIB
        activations = ENGINES["vLLM"].activations(shape, log.gpus) / GIB
        overhead = ENGINES["vLLM"].overhead(shape, log.gpus) / GIB
        for term, predicted, real in (
            ("weights", weights, log.weights),
            ("activations", activations, log.activations),
            ("left for KV", _left(log, weights + overhead), log.kv),
            ("tokens, in GiB", _tokens(log), log.kv if log.tokens else None),
        ):
            if real is not None:
                off = f"{predicted - real:+.2f} GiB" if term == "left for KV" else error(predicted, real)
                note = f" ({log.unlike})" if log.unlike and term == "left for KV" else ""
                yield row(log.source, term, f"{predicted:.3f}", f"{real:.3f}", off + note)


def _left(log: ServerLog, beside: float) -> float:
    return (log.total or 0) * (log.utilization or 0) - beside


def _tokens(log: ServerLog) -> float:
    return kv_on_one(shape_of(log.model), log.gpus, log.tokens or 1, 1, KV_BITS[log.kv_dtype], 16) / GIB


def counts() -> Iterator[str]:
    """Parameters, KV bytes a token, GGUF files."""
    yield row("figure", "source", "predicted", "real", "error")
    yield row("---", "---", "---:", "---:", "---:")
    exact = sum(MODELS[name].parameters == count for name, count in PARAMETERS.items())
    yield row("parameters", f"Hub, {len(PARAMETERS)} models", f"{exact} exact", len(PARAMETERS), "0")
    for model, kib in KV_KIB.items():
        ours = kv_bytes_per_token(model) / 1024
        yield row("KV cache, KiB a token", model, f"{ours:g}", f"{kib:g}", error(ours, kib))
    for fmt, (bits, _) in LLAMA_CPP_README.items():
        ours = 8 * weights_bytes("llama-3.1-8b", fmt) / MODELS["llama-3.1-8b"].parameters
        yield row(
            "bits a weight", f"llama.cpp's README, Llama-3.1-8B {fmt}", f"{ours:.4f}", f"{bits:.4f}", error(ours, bits)
        )
    for (model, fmt), real in GGUF_FILES.items():
        ours = weights_bytes(model, fmt)
        yield row("bytes of a GGUF file, with tokenizer", f"{model} {fmt}", f"{ours:,}", f"{real:,}", error(ours, real))
    for model, mib in LLAMA_CPP_COMPUTE_MIB.items():
        ours = ENGINES["llama.cpp"].activations(shape_of(model)) / 2**20
        yield row("llama.cpp's compute buffer, MiB", model, f"{ours:.2f}", f"{mib:.2f}", error(ours, mib))


def checkpoints() -> Iterator[str]:
    """What our own writers put on the disk, against the plan; beside it, accelerate's figure for such a model."""
    yield row("tiny in", "planned bytes", "bytes of the tensors in the file", "error")
    yield row("---", "---:", "---:", "---:")
    for fmt in OWN_CHECKPOINTS:
        with tempfile.TemporaryDirectory() as folder:
            real = tensor_bytes(written(Path(folder) / "made", fmt))
        yield row(fmt, f"{weights_bytes('tiny', fmt):,}", f"{real:,}", error(weights_bytes("tiny", fmt), real))


def written(folder: Path, fmt: str) -> Path:
    """A checkpoint of the bundled model in this format, rounded to nearest."""
    from safetensors.torch import load_file

    from quantlab.checkpoints.fused import fused_absmax
    from quantlab.checkpoints.write import write_checkpoint
    from quantlab.formats.catalog import get
    from quantlab.models.bundled import tiny_folder

    tensors = load_file(tiny_folder() / "model.safetensors")
    weights = {name.removesuffix(".weight"): W for name, W in tensors.items() if name.endswith("proj.weight")}
    top = fused_absmax(weights) if fmt == "nvfp4" else {}  # projections that share an input share its largest value
    same = {"scale_dtype": "bfloat16"} if fmt == "int4_g128" else {}  # the model's own type, as the writer asks
    options = {name: {"absmax": top[name]} if top else same for name in weights}
    layers = {name: get(fmt, **options[name]).quantize(W) for name, W in weights.items()}
    return write_checkpoint(tiny_folder(), folder, layers)


def tensor_bytes(folder: Path) -> int:
    """Bytes of all tensors in a folder's safetensors files, without their headers."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            header = int.from_bytes(stream.read(8), "little")
        total += file.stat().st_size - 8 - header
    return total


def resident() -> tuple[int, int]:
    """(planned, resident) bytes of SmolLM2 in bf16, loaded here and read through once.

    A quantized model is no fair measure of this kind: transformers keeps the file of the original mapped, and its pages
    count as resident. tests/unit/test_loading.py weighs those tensor by tensor.
    """
    import psutil
    import torch
    from transformers import AutoModelForCausalLM

    from quantlab.models.bundled import tiny_folder
    from quantlab.models.smollm2 import smollm2_folder

    def load(folder: Path) -> torch.nn.Module:
        model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, local_files_only=True
        )
        for tensor in model.parameters():
            tensor.count_nonzero()  # a mapped file is not resident before it is read
        return model

    def now() -> int:
        gc.collect()
        return int(psutil.Process().memory_info().rss)

    folder, warm = smollm2_folder(), load(tiny_folder())  # libraries are in memory now
    before = now()
    model = load(folder)
    after = now()
    del warm, model
    return weights_bytes("smollm2", "bf16"), after - before


def residents() -> Iterator[str]:
    yield row("loaded", "planned bytes", "resident bytes more", "error")
    yield row("---", "---:", "---:", "---:")
    run = subprocess.run([sys.executable, __file__, "--resident"], capture_output=True, text=True, check=True)
    planned, real = map(int, run.stdout.split()[-2:])
    yield row("SmolLM2-135M in bf16", f"{planned:,}", f"{real:,}", error(planned, real))


def accelerates() -> Iterator[str]:
    """`accelerate estimate-memory` on the same configs: weights only, without scales."""
    yield row("model", "16 bits: ours", "accelerate", "4 bits: ours (AWQ checkpoint)", "accelerate int4")
    yield row("---", "---:", "---:", "---:", "---:")
    for model in ACCELERATE:
        half, four = accelerate_bytes(model)
        ours = [weights_bytes(model, fmt) for fmt in ("bf16", "awq_int4_g128")]
        yield row(
            model, f"{ours[0] / GIB:.2f} GiB", f"{half / GIB:.2f} GiB ({error(half, ours[0])})",
            f"{ours[1] / GIB:.2f} GiB", f"{four / GIB:.2f} GiB ({error(four, ours[1])})",
        )  # fmt: skip


def accelerate_bytes(model: str) -> tuple[int, int]:
    """What accelerate's estimator says of a model's weights in float16 and int4, from its config alone."""
    import torch
    from accelerate.utils import calculate_maximum_sizes  # type: ignore[import-untyped]
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = shape_of(model)
    kind = "gemma2" if shape.post_norms else "qwen3" if shape.qk_norm else "llama"
    config = AutoConfig.for_model(
        kind, num_hidden_layers=shape.layers, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim,
        vocab_size=shape.vocab, tie_word_embeddings=shape.tied,
    )  # fmt: skip
    with torch.device("meta"):
        total, _ = calculate_maximum_sizes(AutoModelForCausalLM.from_config(config))
    return total // 2, total // 8  # its command divides float32's bytes by 2 and 8


SECTIONS: tuple[tuple[str, Callable[[], Iterator[str]]], ...] = (
    ("What vLLM printed", logs),
    ("What others published", counts),
    ("Checkpoints written here", checkpoints),
    ("A model in memory, on this CPU", residents),
    ("Beside `accelerate estimate-memory`", accelerates),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resident", action="store_true", help="load SmolLM2 here and print two numbers")
    args = parser.parse_args()
    if args.resident:
        print(*resident())
        return
    where = f"{platform.machine()}, Python {platform.python_version()}"
    page = [
        "# The planner's errors",
        "",
        f"Written by `python tools/bench_plan.py` on {time.strftime('%Y-%m-%d')}: {where}.",
    ]
    for title, table in SECTIONS:
        print(title, file=sys.stderr, flush=True)
        page += ["", f"## {title}", "", *table()]
    PAGE.write_text("\n".join(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
