"""Lab 3's own machinery: what is made once, how a file is judged and served as it is, the model that a machine gets."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gguf import GGUFReader

from quantlab.backends.quantizers.making import Text
from quantlab.backends.quantizers.offers import Wish
from quantlab.backends.quantizers.order import Made
from quantlab.checkpoints.read import dequantized
from quantlab.checkpoints.write import write_checkpoint
from quantlab.core import QuantizedTensor
from quantlab.evaluate.rounded import Judge
from quantlab.finetune.examples import encode, read_examples
from quantlab.finetune.stages import Stages, loss_of
from quantlab.formats.catalog import quantize_tensor
from quantlab.lesson import lab, lab3
from quantlab.models.load import LoadedModel
from quantlab.models.walk import linear_layers

GIB = 2**30


# ------------------------------------------------------------------------------------------- the model
def live(name: str) -> lab.Setting:
    return lab.Setting(lab.Mode.LIVE, name, lab.CANDIDATES[name], "cuda", 80 * GIB)


@pytest.mark.parametrize(
    ("gib", "planned"), [(256, "qwen3-8b"), (60, "qwen3-4b"), (16, "smollm2-135m"), (0.5, "smollm2-135m")]
)
def test_a_gpu_gets_a_model_that_the_machine_can_judge(
    monkeypatch: pytest.MonkeyPatch, gib: float, planned: str
) -> None:
    monkeypatch.setattr(lab, "setting", lambda: live("qwen3-8b"))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=int(gib * GIB)))
    here = lab3.setting()
    assert (here.planned, here.model) == (planned, lab.CANDIDATES[planned])
    assert here.mode is lab.Mode.LIVE


def test_a_smaller_gpu_never_gets_a_larger_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "setting", lambda: live("smollm2-135m"))
    assert lab3.setting().planned == "smollm2-135m"


# ------------------------------------------------------------------------------------------- made once
@pytest.fixture
def ordered(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would have been asked of the libraries, which take their time: each writes an empty file instead."""
    asked: list[dict[str, Any]] = []

    def instead(model: str, wish: Wish, out: Path, *, calibration: Text, clip: bool) -> Made:
        asked.append({"wish": wish, "text": calibration, "clip": clip})
        out.mkdir()
        return Made(out, wish.library, "awq", "f", 10, 4.5, 1.5, 100, "cpu", 30, {"torch": "2"}, {"b": 4}, ("told",))

    monkeypatch.setattr(lab3, "quantize", instead)
    return asked


def test_a_second_run_finds_what_the_first_made(ordered: list[dict[str, Any]], tmp_path: Path) -> None:
    text = Text(["one", "two"], 64)
    first, second = (lab3.make("tiny", Wish("autoawq"), tmp_path, text, clip=False) for _ in range(2))
    assert first == second
    assert [one["clip"] for one in ordered] == [False]
    assert first.path == tmp_path / "autoawq-awq-awq_int4_g128"


@pytest.mark.parametrize("change", [{"text": Text(["one", "three"], 64)}, {"text": Text(["one", "two"], 32)}, {}])
def test_another_text_or_clipping_is_made_again(
    ordered: list[dict[str, Any]], tmp_path: Path, change: dict[str, Text]
) -> None:
    lab3.make("tiny", Wish("autoawq"), tmp_path, Text(["one", "two"], 64), clip=False)
    lab3.make("tiny", Wish("autoawq"), tmp_path, change.get("text", Text(["one", "two"], 64)), clip=not change)
    assert len(ordered) == 2


def test_what_looks_at_no_text_gets_none_and_what_cannot_leave_clipping_out_keeps_it(
    ordered: list[dict[str, Any]], tmp_path: Path
) -> None:
    for text in (Text(["one"]), Text(["two"])):
        lab3.make("tiny", Wish("bitsandbytes", format="nf4"), tmp_path, text, clip=False)
    assert ordered == [{"wish": Wish("bitsandbytes", format="nf4"), "text": Text(), "clip": True}]


def test_an_interrupted_run_is_made_again(ordered: list[dict[str, Any]], tmp_path: Path) -> None:
    """A folder without its facts: the cell was stopped between the two."""
    (tmp_path / "autoawq-awq-awq_int4_g128").mkdir()
    lab3.make("tiny", Wish("autoawq"), tmp_path, Text(["one"]))
    assert len(ordered) == 1


# ------------------------------------------------------------------------------------------- judged and served
def rounded(tiny: LoadedModel) -> dict[str, QuantizedTensor]:
    return {name: quantize_tensor(layer.weight.detach(), "awq_int4_g128") for name, layer in linear_layers(tiny.model)}


@pytest.fixture(scope="module")
def folder(tiny: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model's layers in 4 bits, as AutoAWQ stores them."""
    return write_checkpoint(tiny.source.folder, tmp_path_factory.mktemp("lab3") / "awq", rounded(tiny))


def made(path: Path) -> Made:
    return Made(path, "quantlab", "awq", "awq_int4_g128", 1, 4.156, 1.0, 1, "cpu", 0)


def test_the_file_is_what_is_judged(folder: Path, tiny: LoadedModel) -> None:
    judge = Judge(tiny, stories=2)
    assert lab3.quality(judge, tiny, made(folder)).kl_mean == pytest.approx(
        judge.quality(rounded(tiny)).kl_mean, rel=1e-6
    )


def test_a_gguf_file_is_judged_by_llama_cpp(folder: Path, tiny: LoadedModel, llama_cpp: object) -> None:
    judge = Judge(tiny, stories=2)
    values = lab3.serving(folder, tiny, vllm=False).path
    by_torch, by_llama_cpp = (lab3.quality(judge, tiny, made(path)).kl_mean for path in (folder, values))
    assert by_llama_cpp == pytest.approx(by_torch, rel=0.1)  # bfloat16, and llama.cpp's arithmetic


def test_each_file_gets_the_engine_that_can_serve_it(folder: Path, tiny: LoadedModel) -> None:
    values = lab3.serving(folder, tiny, vllm=False)
    assert lab3.serving(folder, tiny, vllm=True) == ("vllm", folder, "as it is")
    assert lab3.serving(values.path, tiny, vllm=True) == ("llama.cpp", values.path, "as it is")
    assert (values.engine, values.what) == ("llama.cpp", "its values in bfloat16")


def test_the_values_are_those_of_the_file_and_are_written_once(folder: Path, tiny: LoadedModel) -> None:
    path = lab3.serving(folder, tiny, vllm=False).path
    written = path.stat().st_mtime_ns
    assert lab3.serving(folder, tiny, vllm=False).path.stat().st_mtime_ns == written
    tensor = next(t for t in GGUFReader(path).tensors if t.name == "blk.1.ffn_down.weight")
    W = dequantized(folder)["model.layers.1.mlp.down_proj.weight"]
    assert tensor.data.tobytes() == W.bfloat16().contiguous().view(torch.uint8).numpy().tobytes()
    assert sorted(file.name for file in folder.parent.iterdir()) == ["awq", "awq-values.gguf"]


def test_a_folder_that_was_made_anew_has_its_values_written_anew(folder: Path, tiny: LoadedModel) -> None:
    path = lab3.serving(folder, tiny, vllm=False).path
    before = path.stat().st_mtime_ns
    (folder / "touched").touch()
    (folder / "touched").unlink()
    assert lab3.serving(folder, tiny, vllm=False).path.stat().st_mtime_ns > before


def test_what_is_deployed_is_the_last_stage(folder: Path, tiny: LoadedModel) -> None:
    last = lab3.deployed(Stages("tiny", ()), made(folder), tiny).stages[-1]
    held = [encode(tiny.tokenizer, one, 512) for one in read_examples().held_out]
    assert last.loss.mean == pytest.approx(loss_of(lab3.stored_in(folder, tiny), held).mean)
    assert (last.name, last.bits) == ("merged, then awq_int4_g128", 4.156)


def test_remove_takes_files_and_folders_and_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    lab3.remove(tmp_path / "file", tmp_path / "folder", tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []
