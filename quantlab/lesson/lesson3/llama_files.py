"""Our Q4_K blocks against llama.cpp's own, in files of the whole story model."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

from quantlab.formats.catalog import get
from quantlab.lesson.lesson2.story import story_model


@lru_cache(maxsize=4)
def same_as_llama_cpp(ftype: str, fmt: str = "q4_k") -> str:
    """How many of the matrices that llama.cpp puts in `fmt`, in a file of type `ftype`, are ours byte for byte."""
    from gguf import GGMLQuantizationType, GGUFReader

    from quantlab.backends.llama_cpp import quantize_gguf
    from quantlab.checkpoints.gguf import write_gguf

    model, kind = story_model(), GGMLQuantizationType[fmt.upper()]
    source = model.loaded.source.folder
    with tempfile.TemporaryDirectory(prefix="quantlab-lesson3-") as place:
        folder = Path(place)
        layers = {name: get(fmt).quantize(W) for name, W in model.layers.items()}
        ours = write_gguf(source, folder / "ours.gguf", quantized=layers)
        theirs = quantize_gguf(write_gguf(source, folder / "bf16.gguf"), folder / "theirs.gguf", ftype)
        mine, its = ({t.name: t for t in GGUFReader(path).tensors} for path in (ours, theirs))
        shared = [name for name, tensor in its.items() if tensor.tensor_type == kind == mine[name].tensor_type]
        equal = sum(mine[name].data.tobytes() == its[name].data.tobytes() for name in shared)
    return f"{equal} of {len(shared)} matrices in {fmt.upper()} are llama.cpp's own, byte for byte"
