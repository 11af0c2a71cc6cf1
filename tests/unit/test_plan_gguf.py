"""The planner against llama.cpp: the type and the bytes of every tensor in the files that it really writes."""

import ctypes
from pathlib import Path
from types import ModuleType

import gguf
import pytest

from quantlab.checkpoints.gguf import write_gguf
from quantlab.checkpoints.gguf_llama import gguf_name
from quantlab.plan.memory import weights_bytes
from quantlab.plan.models import shape_of
from quantlab.plan.recipes import layout_of

FILE_TYPES = {"q8_0": 7, "q2_k": 10, "q3_k_m": 12, "q4_k_s": 14, "q4_k_m": 15, "q5_k_m": 17}  # enum llama_ftype


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    return write_gguf(tiny_folder, tmp_path_factory.mktemp("gguf") / "full.gguf", dtype="f16")


@pytest.mark.parametrize("fmt", FILE_TYPES)
def test_every_tensor_has_the_planned_type_and_bytes(full: Path, fmt: str, llama_cpp: ModuleType) -> None:
    written = full.with_name(f"{fmt}.gguf")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = FILE_TYPES[fmt], 2
    assert llama_cpp.llama_model_quantize(str(full).encode(), str(written).encode(), ctypes.byref(params)) == 0

    real = {t.name: (t.tensor_type.name.lower(), t.n_bytes) for t in gguf.GGUFReader(written).tensors}
    tiny, planned = shape_of("tiny"), {}
    for tensor in tiny.tensors():
        chosen = layout_of(tensor, tiny, fmt)
        columns = tensor.shape[-1]
        nbytes = chosen.matrix_bytes(tensor.weights // columns, columns)
        planned[gguf_name(tensor.name)] = (chosen.name.replace("fp32", "f32"), nbytes)
    assert planned == real
    assert weights_bytes("tiny", fmt) == sum(nbytes for _, nbytes in real.values())
