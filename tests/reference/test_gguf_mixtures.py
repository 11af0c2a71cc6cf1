"""Whole files by quantlab's quantizers against llama.cpp's: every byte of the file, with and without importance."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from llama_cpp_imatrix import collect_by_llama_cpp
from random_llama import write_model

from quantlab.backends.llama_cpp import IMPORTANCE_FTYPES, Logits, quantize_gguf
from quantlab.checkpoints.gguf import write_gguf
from quantlab.checkpoints.gguf_imatrix import ImportanceMatrix, imatrix_of, read_imatrix, write_imatrix
from quantlab.checkpoints.gguf_mixtures import quantize_mixture, tensor_types
from quantlab.checkpoints.gguf_read import tensors
from quantlab.core import QuantizedTensor
from quantlab.errors import QuantlabError, UsageError
from quantlab.formats.gguf_file import open_gguf, save_gguf
from quantlab.models.calibration import collect
from quantlab.models.load import LoadedModel, load
from quantlab.models.samples import Calibration, stories
from quantlab.models.smollm2 import smollm2_folder
from quantlab.plan.mixtures import MIXTURES

DEPLOYED = ("q4_k_m", "q4_0", "q8_0", "q6_k", "q5_k_m", "q3_k_m", "q2_k", "iq4_xs", "iq4_nl")


@pytest.fixture(scope="module")
def tiny_gguf(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tiny_folder, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def slice_of_tiny(tiny_gguf: Path) -> Path:
    """The first rows of each matrix: all of its kinds of weights, in a tenth of the time."""
    file = open_gguf(tiny_gguf)
    rows = {name: file.tensor(name) for name in file.tensors}
    cut = {name: W[:64] if isinstance(W, torch.Tensor) and W.ndim == 2 else W for name, W in rows.items()}
    return save_gguf(tiny_gguf.with_name("slice.gguf"), file.values, cut)


@pytest.fixture(scope="module")
def imatrix(tiny: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> ImportanceMatrix:
    """Of a few stories, through a file, as everybody's would come."""
    found = imatrix_of(collect(tiny, Calibration(tuple(stories()[:8]), window=512)), ("stories",))
    return read_imatrix(write_imatrix(tmp_path_factory.mktemp("imatrix") / "imatrix.gguf", found))


def _same(ours: Path, theirs: Path) -> None:
    """Equal byte for byte; where not, say which tensor first."""
    a, b = open_gguf(ours), open_gguf(theirs)
    assert list(a.values.items()) == list(b.values.items())
    assert list(a.tensors.values()) == list(b.tensors.values())
    for name in a.tensors:
        assert torch.equal(a.raw(name), b.raw(name)), name
    assert ours.read_bytes() == theirs.read_bytes()


def test_the_whole_model(tiny_gguf: Path, tmp_path: Path, llama_cpp: ModuleType) -> None:
    ours = quantize_mixture(tiny_gguf, tmp_path / "ours.gguf", "q4_k_m")
    _same(ours, quantize_gguf(tiny_gguf, tmp_path / "theirs.gguf", "q4_k_m"))


@pytest.mark.parametrize("ftype", [name for name, mixture in MIXTURES.items() if not mixture.needs_importance])
def test_the_same_file_as_llama_cpp(ftype: str, slice_of_tiny: Path, tmp_path: Path, llama_cpp: ModuleType) -> None:
    ours = quantize_mixture(slice_of_tiny, tmp_path / "ours.gguf", ftype)
    _same(ours, quantize_gguf(slice_of_tiny, tmp_path / "theirs.gguf", ftype))


@pytest.mark.parametrize("ftype", MIXTURES)
def test_the_same_file_with_importance(
    ftype: str, slice_of_tiny: Path, imatrix: ImportanceMatrix, tmp_path: Path, llama_cpp: ModuleType
) -> None:
    ours = quantize_mixture(slice_of_tiny, tmp_path / "ours.gguf", ftype, imatrix)
    _same(ours, quantize_gguf(slice_of_tiny, tmp_path / "theirs.gguf", ftype, imatrix))
    if ftype not in ("q8_0", "q2_k_s"):  # has no use for it; is not made without
        plain = quantize_gguf(slice_of_tiny, tmp_path / "plain.gguf", ftype)
        assert ours.read_bytes() != plain.read_bytes()


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_the_importance_that_llama_cpp_collects(family: str, tmp_path: Path, llama_cpp: ModuleType) -> None:
    """Sums of 200 squares in float32, in another order, of inputs that differ by 1e-5 already."""
    folder = write_model(tmp_path / "model", family)
    rng = torch.Generator().manual_seed(3)
    texts = tuple(tuple(torch.randint(2, 270, (100,), generator=rng).tolist()) for _ in range(2))
    stats = collect(load(str(folder)), Calibration(texts, window=128, at_least=2))
    ours = imatrix_of(stats)
    sums, counts = collect_by_llama_cpp(llama_cpp, write_gguf(folder, tmp_path / "model.gguf", "f32"), texts)
    assert ours.counts == counts == dict.fromkeys(ours.sums, 200)
    assert len(ours.sums) == 14
    for name, expected in sums.items():
        torch.testing.assert_close(ours.sums[name], expected, rtol=1e-4, atol=1e-4 * float(expected.max()), msg=name)


_PLANNED = re.compile(r"\] +(\S+) +- \[[^\]]*\], type = +\w+, size = +[\d.]+ MiB -> +[\d.]+ MiB \((\w+)\)")


def _planned(llama_cpp: ModuleType, source: Path, ftype: str, importance: bool = False) -> dict[str, str]:
    """Tensors that llama.cpp would quantize and to what, from what it says in a dry run."""
    said: list[str] = []
    keep = llama_cpp.llama_log_callback(lambda level, text, data: said.append(text.decode()))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.dry_run = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{ftype.upper()}"), 1, True
    entries = (llama_cpp.llama_model_imatrix_data * 2)()  # one of no weight, and the end
    entries[0].name = b"none"
    if importance:
        params.imatrix = entries
    llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
    try:
        assert llama_cpp.llama_model_quantize(os.fsencode(source), b"never written", ctypes.byref(params)) == 0
    finally:
        llama_cpp.llama_log_set(llama_cpp._logger.llama_log_callback, ctypes.c_void_p(0))
    return {name: kind.lower() for name, kind in _PLANNED.findall("".join(said))}


def _compare_types(llama_cpp: ModuleType, source: Path, ftype: str, importance: bool) -> None:
    file = open_gguf(source)
    matrix = {name: torch.ones(info.shape[-1]) for name, info in file.tensors.items() if info.name.startswith("blk.")}
    given = ImportanceMatrix(matrix, dict.fromkeys(matrix, 1)) if importance else None
    chosen = tensor_types(file, ftype, given)
    quantized = {name: kind for name, kind in chosen.items() if kind != file.tensors[name].type}
    assert quantized == _planned(llama_cpp, source, ftype, importance), (ftype, importance)


SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "many blocks": ("llama", {"num_hidden_layers": 20, "num_attention_heads": 8, "num_key_value_heads": 2}),
    "a head of its own": ("mistral", {"num_hidden_layers": 3, "tie_word_embeddings": False}),
    "odd rows": ("qwen2", {"num_hidden_layers": 2, "hidden_size": 80, "intermediate_size": 120}),
    "norms of heads": ("qwen3", {"num_hidden_layers": 9, "tie_word_embeddings": False, "intermediate_size": 288}),
    "the 70B model": ("llama", {"num_hidden_layers": 80, "head_dim": 4, "intermediate_size": 32}),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_types_for_other_shapes(shape: str, tmp_path: Path, llama_cpp: ModuleType) -> None:
    """Every mixture, on rows of 256 where nothing says otherwise, with and without importance."""
    family, changes = SHAPES[shape]
    folder = write_model(tmp_path / "model", family, **{"hidden_size": 256, "intermediate_size": 256, **changes})
    source = write_gguf(folder, tmp_path / "model.gguf", "f32")
    for ftype, mixture in MIXTURES.items():
        for importance in (True,) if mixture.needs_importance else (False, True):
            _compare_types(llama_cpp, source, ftype, importance)


def test_the_same_types_for_smollm2(tmp_path: Path, llama_cpp: ModuleType) -> None:
    """Its rows of 576 are no multiple of 256."""
    source = write_gguf(smollm2_folder(), tmp_path / "smollm2.gguf")
    for ftype in DEPLOYED:
        _compare_types(llama_cpp, source, ftype, importance=False)
    assert set(tensor_types(open_gguf(source), "q4_k_m").values()) == {"f32", "q4_k", "q5_0", "q6_k", "q8_0"}


def test_types_that_need_importance_are_made_with_it(tmp_path: Path, llama_cpp: ModuleType) -> None:
    folder = write_model(tmp_path / "model", "llama", hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    base, sizes = write_gguf(folder, tmp_path / "base.gguf"), {}
    sums = {name: torch.rand(info.shape[-1]) for name, info in open_gguf(base).tensors.items() if name[:4] == "blk."}
    imatrix = ImportanceMatrix(sums, dict.fromkeys(sums, 1))
    for ftype in ("iq3_m", "iq2_xs"):
        path = quantize_gguf(base, tmp_path / f"{ftype}.gguf", ftype, imatrix)
        with Logits(path, 4) as source:
            assert torch.isfinite(next(source([[0, 50, 60, 70]]))).all(), ftype
        sizes[ftype] = sum(tensor.nbytes for tensor in tensors(path) if tensor.is_linear)
    assert sizes["iq2_xs"] < sizes["iq3_m"]
    plans = {ftype: tuple(_planned(llama_cpp, base, ftype, importance=True).values()) for ftype in IMPORTANCE_FTYPES}
    assert len(set(plans.values())) > 8, "a wrong number would plan the same file twice"
    assert all(any(kind[:3] == ftype[:3] for kind in plan) for ftype, plan in plans.items() if ftype != "q2_k_s")


def test_importance_lowers_the_error_that_it_weighs(
    slice_of_tiny: Path, imatrix: ImportanceMatrix, tmp_path: Path, llama_cpp: ModuleType
) -> None:
    name = "blk.2.ffn_down.weight"
    W, importance = open_gguf(slice_of_tiny).tensor(name), imatrix.importance(name)
    assert isinstance(W, torch.Tensor)
    assert importance is not None
    errors = []
    for given in (None, imatrix):
        Q = open_gguf(quantize_gguf(slice_of_tiny, tmp_path / "q.gguf", "q2_k", given)).tensor(name)
        assert isinstance(Q, QuantizedTensor)
        errors.append((((Q.dequantize() - W.float()) ** 2) * importance).sum().item())
    assert errors[1] < 0.9 * errors[0]


def test_what_cannot_be_made(slice_of_tiny: Path, tmp_path: Path, llama_cpp: ModuleType) -> None:
    out = tmp_path / "out.gguf"
    for ftype in IMPORTANCE_FTYPES:
        with pytest.raises(QuantlabError, match="with an importance matrix only"):
            quantize_gguf(slice_of_tiny, out, ftype)
    with pytest.raises(QuantlabError, match="with an importance matrix only"):
        quantize_mixture(slice_of_tiny, out, "q2_k_s")
    with pytest.raises(UsageError, match="did you mean 'q4_k_m'"):
        quantize_mixture(slice_of_tiny, out, "q4km")
    wrong = ImportanceMatrix({"blk.0.ffn_up.weight": torch.ones(7)}, {"blk.0.ffn_up.weight": 1})
    for quantize in (quantize_gguf, quantize_mixture):
        with pytest.raises(QuantlabError, match=r"has 7 values for blk\.0\.ffn_up\.weight, but"):
            quantize(slice_of_tiny, out, "q4_0", wrong)
    with pytest.raises(QuantlabError, match=r"holds token_embd\.weight as q8_0; start from"):
        quantize_mixture(quantize_mixture(slice_of_tiny, tmp_path / "q8_0.gguf", "q8_0"), out, "q4_0")
    foreign = save_gguf(tmp_path / "foreign.gguf", {"general.architecture": "bert"}, {"w": torch.ones(2, 32)})
    with pytest.raises(QuantlabError, match="is of the family 'bert'"):
        quantize_mixture(foreign, out, "q4_0")
    silent = save_gguf(tmp_path / "silent.gguf", {"general.architecture": "llama"}, {"w": torch.ones(2, 32)})
    with pytest.raises(QuantlabError, match=r"does not say llama\.block_count"):
        quantize_mixture(silent, out, "q4_0")
    said = {"general.architecture": "llama", "llama.block_count": 1, "llama.attention.head_count": 1}
    huge = save_gguf(tmp_path / "huge.gguf", said, {"blk.0.ffn_up.weight": torch.full((2, 32), 3e38)})
    with pytest.raises(QuantlabError, match=r"blk\.0\.ffn_up\.weight: a block needs .* beyond a float16 scale"):
        quantize_mixture(huge, out, "q4_0")
    assert not list(tmp_path.glob("*out.gguf*")), "nothing half-written stays"


def test_progress_is_told(slice_of_tiny: Path, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    quantize_mixture(
        slice_of_tiny, tmp_path / "out.gguf", "q8_0", progress=lambda name, share: told.append((name, share))
    )
    assert [name for name, _ in told] == list(open_gguf(tmp_path / "out.gguf").tensors)
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert 0 == shares[0] < shares[-1] < 1
