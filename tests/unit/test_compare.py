"""`quantlab compare` from end to end on the bundled model, and each way in which it can go wrong."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import Ended
from random_llama import write_llama

from quantlab.assets import bundled
from quantlab.backends import bitsandbytes, llama_cpp
from quantlab.backends.quantizers.libraries import Library
from quantlab.backends.quantizers.text import cut
from quantlab.errors import QuantlabError, UsageError
from quantlab.evaluate import compare as compare_module
from quantlab.evaluate import recipes
from quantlab.evaluate.candidates import Candidate, Subject
from quantlab.evaluate.compare import Comparison, compare
from quantlab.evaluate.logits import Baseline, TorchLogits
from quantlab.evaluate.names import AT_BITS, DEFAULT_FORMATS, spelled
from quantlab.evaluate.passport import Passport
from quantlab.evaluate.quality import measure
from quantlab.evaluate.recipes import RECIPES, recipe
from quantlab.evaluate.report import Row
from quantlab.evaluate.windows import evaluation_texts, make_windows
from quantlab.formats.catalog import get
from quantlab.layout import layout
from quantlab.models.calibration import Calibration
from quantlab.models.load import LoadedModel, load
from quantlab.models.quantize import quantize
from quantlab.models.walk import linear_layers, parameters

KEYS = {
    "name", "format", "method", "backend", "bits_per_weight", "nbytes", "perplexity", "kl_mean", "kl_stderr",
    "top1_agreement", "task_accuracy", "quantize_s",
}  # fmt: skip
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four of the bundled stories: enough to see differences, quick to measure."""
    path = tmp_path_factory.mktemp("text") / "stories.jsonl"
    lines = bundled("assets/stories/evaluate.jsonl").read_text(encoding="utf-8").splitlines()[:4]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen of the bundled calibration texts: as little as statistics may rest on."""
    path = tmp_path_factory.mktemp("text") / "seen.jsonl"
    lines = bundled("assets/stories/calibrate.jsonl").read_text(encoding="utf-8").splitlines()[:16]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of random weights, made in no time, whose rows 128 does not divide."""
    return write_llama(
        tmp_path_factory.mktemp("model") / "small", hidden_size=192, intermediate_size=320, head_dim=48,
        max_position_embeddings=512,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _few_endings(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Six items instead of 60, except where all are asked for."""
    if request.node.name != "test_the_library_call_takes_a_loaded_model":
        whole = compare_module.read_choices
        monkeypatch.setattr(compare_module, "read_choices", lambda *args: whole(*args)[:6])


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go during this test (torch makes a cache folder of its own there)."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_from_end_to_end(
    run_cli: Callable[..., Ended],
    stories: Path,
    tmp_path: Path,
    temporary: Path,
    tiny_folder: Path,
    llama_cpp: ModuleType,
) -> None:
    out, picture = tmp_path / "out.json", tmp_path / "out.png"
    formats = "int8,int2_g128,nf4,f16,q4_k_m"
    done = run_cli("compare", "tiny", "--formats", formats, "--text", stories, "--json", out, "--picture", picture)
    assert done.code == 0, done
    whole = json.loads(out.read_text())
    assert set(whole) == {"model", "passport", "task", "speed", "front", "advice", "rows"}
    assert whole["task"] == {"name": "story endings", "items": 6}
    assert (whole["speed"], whole["front"], whole["advice"]) == (None, [], "")
    assert whole["model"] == "tiny"
    assert set(whole["passport"]) == {"tokenizer", "text", "context", "stride", "bos", "tokens"}
    assert [row["format"] for row in whole["rows"]] == ["bf16", *formats.split(",")]
    rows = {row["format"]: row for row in whole["rows"]}
    for row in whole["rows"]:
        assert set(row) >= KEYS
        assert row["format"] in done.out
    _check_quality(rows)
    _check_sizes(rows, tiny_folder)
    assert "Q4_K" in rows["q4_k_m"]["note"]
    assert str(out) in done.out.replace("\n", "")
    assert picture.read_bytes().startswith(PNG)
    assert not list(temporary.glob("quantlab-*")), "temporary files are gone"


def _check_quality(rows: dict[str, Any]) -> None:
    base = rows["bf16"]
    assert (base["kl_mean"], base["kl_stderr"], base["top1_agreement"], base["perplexity_change"]) == (0, 0, 1, 0)
    assert 1 < base["perplexity"] < 4096
    assert rows["f16"]["kl_mean"] < 1e-5, "the engine alone changes next to nothing"
    assert rows["int8"]["kl_mean"] < 0.01 < rows["int2_g128"]["kl_mean"]
    assert rows["int8"]["kl_mean"] < rows["q4_k_m"]["kl_mean"] < rows["nf4"]["kl_mean"] < rows["int2_g128"]["kl_mean"]
    for row in rows.values():
        assert 0 <= row["kl_stderr"] < 0.5 * row["kl_mean"] + 1e-9
        assert 0 <= row["task_accuracy"] <= 1
        assert row["perplexity"] == pytest.approx(base["perplexity"] * (1 + row["perplexity_change"]))
        assert row["quantize_s"] > 0 or row["format"] == "bf16"


def _check_sizes(rows: dict[str, Any], folder: Path) -> None:
    weights = (folder / "model.safetensors").stat().st_size
    assert rows["bf16"]["nbytes"] == pytest.approx(weights, rel=0.001)
    assert rows["f16"]["nbytes"] == pytest.approx(weights, rel=0.02), "as many bytes, and the tokenizer"
    assert rows["bf16"]["bits_per_weight"] == rows["f16"]["bits_per_weight"] == 16
    assert rows["nf4"]["bits_per_weight"] == layout("nf4").bits_per_weight
    shapes = pytest.approx(layout("int2_g128").bits_per_weight, rel=0.002)  # 16 bytes a matrix hold its shape
    assert rows["int2_g128"]["bits_per_weight"] == shapes
    assert 8 < rows["int8"]["bits_per_weight"] < 8.1
    assert 4.5 < rows["q4_k_m"]["bits_per_weight"] < 5.2
    sizes = [rows[fmt]["nbytes"] for fmt in ("bf16", "int8", "nf4", "int2_g128")]
    assert sizes == sorted(sizes, reverse=True)


def test_the_library_call_takes_a_loaded_model(tiny: LoadedModel, stories: Path) -> None:
    before = {name: layer.weight.clone() for name, layer in linear_layers(tiny.model)}
    shares: list[float] = []
    result = compare(tiny, ["int4_g32"], text=stories, progress=lambda what, share: shares.append(share))
    assert isinstance(result, Comparison)
    assert [row.format for row in result.rows] == ["bf16", "int4_g32"]
    assert result.baseline is result.rows[0]
    assert result.row("int4_g32").kl_mean > 0  # type: ignore[operator]
    kept = 2 * (parameters(tiny.model).total - parameters(tiny.model).linear)
    expected = sum(layout("int4_g32").matrix_bytes(*W.shape) for W in before.values()) + kept
    assert result.row("int4_g32").nbytes == expected
    assert json.loads(result.to_json()) == result.to_dict()
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert len(shares) > 2 * (4 + 60), "a step for each window and each item"
    for name, layer in linear_layers(tiny.model):
        assert torch.equal(layer.weight, before[name]), "the model is left as it was"


def test_the_default_formats_are_those_of_the_course() -> None:
    assert set(DEFAULT_FORMATS) <= set(RECIPES)
    assert {"bf16", "int8", "int4_g128", "int4_g32", "int3_g128", "int2_g128", "nf4", "q8_0", "q4_k_m", "q2_k"} <= set(
        DEFAULT_FORMATS
    )
    backends = {RECIPES[name].backend for name in DEFAULT_FORMATS}
    assert backends == {"transformers", "quantlab", "bitsandbytes", "llama.cpp"}


def test_rows_that_no_block_divides(tmp_path: Path, stories: Path, llama_cpp: ModuleType) -> None:
    """192 is not a multiple of 128 or 256: quantlab says so, llama.cpp takes other types and that is said too."""
    folder = write_llama(
        tmp_path / "narrow", hidden_size=192, intermediate_size=320, head_dim=48, max_position_embeddings=512
    )
    result = compare(str(folder), ["int4_g128", "int4_g32", "int8", "nf4", "q4_k_m", "q8_0"], text=stories)
    refused = result.row("int4_g128")
    assert refused.perplexity is refused.nbytes is refused.kl_mean is None
    assert refused.note.startswith("not applied: rows of 192 and 320 weights do not divide into groups of 128")
    assert "rows of 192 and 320 do not divide into blocks of 256" in result.row("q4_k_m").note
    assert "Q5_0" in result.row("q4_k_m").note
    assert "divide" not in result.row("q8_0").note
    for fmt in ("int4_g32", "int8", "nf4", "q4_k_m", "q8_0"):
        assert result.row(fmt).kl_mean > 0, fmt  # type: ignore[operator]
    text = _printed(result)
    assert "int4_g128" in text
    assert json.loads(result.to_json())["rows"][1]["perplexity"] is None


def test_a_family_that_cannot_be_written_as_gguf(tmp_path: Path, stories: Path, llama_cpp: ModuleType) -> None:
    from transformers import GemmaConfig, GemmaForCausalLM

    folder = write_llama(tmp_path / "model")
    config = GemmaConfig(
        vocab_size=276, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=512,
    )  # fmt: skip
    GemmaForCausalLM(config).bfloat16().save_pretrained(folder)
    result = compare(str(folder), ["int4_g32", "q8_0"], text=stories)
    assert "GemmaForCausalLM" in result.row("q8_0").note
    assert result.row("q8_0").perplexity is None
    assert result.row("int4_g32").perplexity is not None


def test_without_llama_cpp(tiny: LoadedModel, stories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "DEFAULT_FORMATS", ("bf16", "int8", "q8_0", "q2_k"))
    monkeypatch.setattr(llama_cpp, "available", lambda: "llama-cpp-python is not installed; install it")
    result = compare(tiny, text=stories)
    assert [row.format for row in result.rows] == ["bf16", "int8"]
    sentence = "Left out (q8_0, q2_k): llama-cpp-python is not installed; install it."
    assert sentence in result.notes()
    with pytest.raises(QuantlabError, match="q8_0 cannot be measured: llama-cpp-python is not installed"):
        compare(tiny, ["int8", "q8_0"], text=stories)


def test_what_available_says_when_a_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'quantlab[llamacpp]'" in str(llama_cpp.available())
    assert "pip install bitsandbytes" in str(bitsandbytes.available())
    with pytest.raises(QuantlabError, match="not installed"):
        llama_cpp.quantize_gguf(Path("a.gguf"), Path("b.gguf"), "q8_0")
    with pytest.raises(QuantlabError, match="not installed"):
        bitsandbytes.quantize(torch.ones(1, 64))


@contextmanager
def _nan(subject: Subject) -> Iterator[Candidate]:
    broken = {f"{name}.weight": torch.full_like(W, torch.nan) for name, W in subject.linear.items()}
    yield Candidate(TorchLogits(subject.loaded.model, broken), 1, 1, 1, 0.0)


def test_a_format_that_breaks_the_model_is_a_row(
    tiny: LoadedModel, stories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = replace(RECIPES["int8"], name="broken", make=_nan)
    monkeypatch.setitem(recipes.RECIPES, "broken", broken)
    result = compare(tiny, ["broken", "int8"], text=stories)
    assert result.row("broken").perplexity is None
    assert "not finite" in result.row("broken").note
    assert result.row("int8").perplexity is not None


@pytest.mark.parametrize("at", ["f16", "q8_0"])
def test_an_interrupt_leaves_nothing(
    at: str, tiny: LoadedModel, stories: Path, temporary: Path, llama_cpp: ModuleType
) -> None:
    seen: list[list[str]] = []

    def interrupt(what: str, share: float) -> None:
        if what == at and list(temporary.rglob("*.gguf")):
            seen.append(sorted(path.name for path in temporary.rglob("*.gguf")))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(tiny, ["f16", "q8_0"], text=stories, progress=interrupt)
    assert "model-bf16.gguf" in seen[0]
    assert not list(temporary.glob("quantlab-*"))


@pytest.mark.usefixtures("llama_cpp")
def test_a_full_disk(tiny: LoadedModel, stories: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    with pytest.raises(QuantlabError, match="MiB are free"):
        compare(tiny, ["q8_0"], text=stories)
    assert not list(temporary.glob("quantlab-*"))


def test_usage_errors(run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    run_cli("compare", "tiny", "--formats", "int8,q4km").must_say(2, "unknown format 'q4km'", "did you mean 'q4_k_m'")
    run_cli("compare", "tiny", "--formats", " , ").must_say(2, "names no format")
    run_cli("compare", "tiny", "--picture", tmp_path / "a.pdf").must_say(2, "a.png")
    run_cli("compare", "tiny", "--formats", "int8", "--context", "4096").must_say(2, "at most 512 tokens")
    run_cli("compare", "tiny", "--context", "3").must_say(2, "--context")
    run_cli("compare").must_say(2, "MODEL")


def test_failures_come_before_the_work(run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    run_cli("compare", "tiny", "--json", tmp_path / "no" / "out.json").must_say(1, "there is no folder", "no")
    run_cli("compare", "tiny", "--json", tmp_path).must_say(1, "it is a folder")
    run_cli("compare", "tiny", "--picture", tmp_path / "no" / "out.png").must_say(1, "there is no folder")
    run_cli("compare", "tiny", "--text", tmp_path / "no.txt").must_say(1, "cannot read the text")
    run_cli("compare", tmp_path / "no-model").must_say(1, "no-model")
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_in_the_library() -> None:
    with pytest.raises(UsageError, match="did you mean 'int4_g128'"):
        compare("tiny", ["int4g128"])


def _printed(result: Comparison, width: int = 120) -> str:
    from rich.console import Console

    console = Console(width=width, record=True, file=open("/dev/null", "w"), highlight=False)  # noqa: SIM115
    console.print(result.table(wide=width >= 100))
    return console.export_text()


PASSPORT = Passport("a" * 64, "b" * 64, 512, 511, True, 17840)


def _row(fmt: str, backend: str = "llama.cpp", **changes: Any) -> Row:
    """A row whose figures are as wide as they come."""
    figures = {
        "bits_per_weight": 16.0, "nbytes": 123_400_000, "perplexity": 1234.56, "perplexity_change": 12.3456,
        "perplexity_change_stderr": 0.0432, "kl_mean": 2.861e-07, "kl_stderr": 3.1e-09, "top1_agreement": 1.0,
        "task_accuracy": 1.0, "task_stderr": 0.0627, "quantize_s": 123.4, "note": "28 x F16",
    }  # fmt: skip
    return Row(fmt, fmt, "k-quant search", backend, **(figures | changes))


def test_the_table_fits_and_cuts_nothing_off() -> None:
    result = Comparison(
        "tiny", PASSPORT, (_row("bf16", "transformers"), _row("int4_g128"), Row("q2_k", "q2_k", "rtn", "x"))
    )
    for width in (80, 120):
        lines = _printed(result, width).splitlines()
        assert max(map(len, lines)) <= width
        assert "…" not in "".join(lines)
        cells = next(line for line in lines if line.startswith("int4_g128"))
        for figure in ("16.00", "123.4", "1,234.56", "+1234.6 ± 4.3", "2.86e-07 ± 3e-09", "100.0", "100 ± 6"):
            assert figure in cells, figure
        assert ("llama.cpp, k-quant search" in cells) == (width == 120)
        assert "±" not in next(line for line in lines if line.startswith("q2_k"))


def test_the_notes_say_what_the_figures_mean() -> None:
    notes = Comparison("tiny", PASSPORT, (_row("bf16"), _row("q8_0")), ("Left out: nothing.",)).notes()
    assert "17,840 tokens, windows of at most 512 starting with BOS" in notes[0]
    assert "bbbbbbbbbbbb" in notes[0]
    assert "clustered by story" in notes[1]
    assert any("rounds activations" in note for note in notes)
    assert notes[-2:] == ["q8_0: 28 x F16.", "Left out: nothing."]
    assert not any("rounds activations" in note for note in Comparison("m", PASSPORT, (_row("x", "quantlab"),)).notes())


def test_figures_that_are_not_numbers_become_null() -> None:
    rows = (
        Row("bf16", "bf16", "none", "transformers", perplexity=float("inf")),
        Row("x", "x", "rtn", "y", kl_mean=float("nan")),
    )
    comparison = Comparison("m", PASSPORT, rows)
    found = json.loads(comparison.to_json())["rows"]
    assert found[0]["perplexity"] is found[1]["kl_mean"] is None


def test_names_are_read_or_refused() -> None:
    assert spelled("llm-compressor:gptq:int4_g128").backend == "llm-compressor"
    for name, row in {
        "gptq:int4_g64": ("quantlab", "gptq", "int4_g64"),
        "quantlab:awq_gptq:awq_int4_g128": ("quantlab", "awq_gptq", "awq_int4_g128"),
        "quantlab:q4_0": ("quantlab", "rtn", "q4_0"),
        "int3_g128_asym": ("quantlab", "rtn", "int3_g128_asym"),
        "autoawq:int4_g128": ("autoawq", "awq", "awq_int4_g128"),
        "autoawq:awq:awq_int4_g64": ("autoawq", "awq", "awq_int4_g64"),
        "llm-compressor:gptq:int4_g128_asym": ("llm-compressor", "gptq", "int4_g128"),
        "gptqmodel:gptq:int3_g128": ("gptqmodel", "gptq", "gptq_int3_g128"),
        "llama.cpp:imatrix:q4_k_m": ("llama.cpp", "imatrix", "q4_k_m"),
        "imatrix:q4_k_m": ("llama.cpp", "imatrix", "q4_k_m"),
    }.items():
        found = recipe(name)
        assert (found.backend, found.method, found.format) == row, name
        assert found.name == name
    assert recipe("llama.cpp:q4_k_m") is RECIPES["q4_k_m"]
    for name, words in {
        "gptqq:int4_g128": "did you mean 'gptq'",
        "awq:int4g128": "did you mean 'int4_g128'",
        "autoawqq:awq:int4_g128": "unknown backend 'autoawqq'; did you mean 'autoawq'",
        "quantlab:awq:x:int4_g128": "BACKEND:METHOD:FORMAT",
        "awq:": "BACKEND:METHOD:FORMAT",
        "autoawq:gptq:int4_g128": "autoawq does not make gptq",
        "autoawq:int3_g128": "the nearest is --backend autoawq --method awq --bits 4",
        "awq:awq_int4_g128_asym": "leaves no choice of zero points",
        "awq:nf4_asym": "leaves no choice of zero points",
    }.items():
        with pytest.raises(QuantlabError, match=words):
            recipe(name)


def test_what_competes_at_equal_bits_can_be_read() -> None:
    for bits, names in AT_BITS.items():
        recipes_ = [recipe(name.replace("{g}", "64")) for name in names]
        assert {one.backend for one in recipes_} >= {"quantlab", "llama.cpp"}, bits
        assert len({one.name for one in recipes_}) == len(names)
    four = {(one.backend, one.method) for one in map(recipe, (name.replace("{g}", "128") for name in AT_BITS[4]))}
    assert four >= {
        *(("quantlab", method) for method in ("rtn", "hqq", "awq", "gptq", "awq_gptq")), ("autoawq", "awq"),
        ("llm-compressor", "gptq"), ("gptqmodel", "gptq"), ("bitsandbytes", "rtn"), ("llama.cpp", "imatrix"),
    }  # fmt: skip


def test_methods_are_measured_as_quantize_makes_them(tmp_path: Path, stories: Path, seen: Path) -> None:
    """Each row against the model itself, quantized in place; afterwards it is as it was."""
    folder = write_llama(
        tmp_path / "model", hidden_size=256, intermediate_size=256, head_dim=64, max_position_embeddings=512
    )
    model = load(str(folder))
    before = {name: p.detach().clone() for name, p in model.model.named_parameters()}
    cases = {
        "smoothquant:int8": ("smoothquant", "int8"),  # folds scales into norms
        "gptq:int3_g64_asym": ("gptq", get("int3_g64", symmetric=False)),
        "imatrix:q4_k": ("imatrix", "q4_k"),
    }
    result = compare(model, list(cases), text=stories, calibration=seen)
    windows = make_windows(evaluation_texts(stories), model.tokenizer, model.source.folder, 512)
    baseline = Baseline(TorchLogits(model.model), windows, 276, limit=2**40)
    list(baseline)  # the original's logits, before anything is quantized
    calibration = Calibration(cut(model, evaluation_texts(seen)), at_least=1)
    for name, (method, fmt) in cases.items():
        done = quantize(model, method, fmt, calibration)
        expected = measure(TorchLogits(model.model), baseline)
        done.undo()
        row = result.row(name)
        assert (row.kl_mean, row.perplexity) == (expected.kl_mean, expected.perplexity), name
        assert row.bits_per_weight == done.bits_per_weight
        assert row.nbytes == done.nbytes
        assert row.quantize_s is not None
        assert row.peak_bytes is not None
        assert row.quantize_s > 0
        assert row.peak_bytes > 0
        assert f"calibrated on {done.tokens:,} tokens" in row.note
    for name, p in model.model.named_parameters():
        assert torch.equal(p, before[name]), name


def test_a_method_that_cannot_is_a_row(tiny: LoadedModel, stories: Path) -> None:
    result = compare(tiny, ["gptq:nf4", "rtn:int4_g128"], text=stories)
    refused = result.row("gptq:nf4")
    assert refused.perplexity is refused.behind is None
    assert refused.note.startswith("not applied: model.layers.0")
    assert result.row("rtn:int4_g128").behind == 0


def test_the_best_is_marked_and_so_is_what_cannot_be_told_apart_from_it(small: Path, tmp_path: Path) -> None:
    """Ten stories: with four, chance alone gives one sign to all of them too often."""
    lines = bundled("assets/stories/evaluate.jsonl").read_text(encoding="utf-8").splitlines()[:10]
    text = tmp_path / "ten.jsonl"
    text.write_text("\n".join(lines), encoding="utf-8")
    result = compare(str(small), methods=["rtn", "quantlab:rtn"], formats=["int8", "int3_g64"], text=text)
    assert [row.name for row in result.rows[1:]] == [
        "rtn:int8",
        "quantlab:rtn:int8",
        "rtn:int3_g64",
        "quantlab:rtn:int3_g64",
    ]
    best, twin, far = result.rows[1:4]
    assert best.behind == twin.behind == 0
    assert best.tied
    assert twin.tied
    assert far.behind == pytest.approx((far.kl_mean or 0) - (best.kl_mean or 0))
    assert far.behind_p == 2 / 2**10, "all ten stories agree"
    assert not far.tied
    assert result.baseline.behind is None
    printed = _printed(result).splitlines()
    assert [line.split()[-1] for line in printed].count("-") >= 1  # no peak was looked at
    assert sum(" * " in line for line in printed) == 2
    assert any("cannot be told apart" in note for note in result.notes())


def test_a_library_makes_its_checkpoint_in_a_process_of_its_own(
    tiny: LoadedModel, stories: Path, temporary: Path, tiny_folder: Path
) -> None:
    """bitsandbytes writes NF4 with double quantization: what is in its file is what quantlab's own format gives."""
    told: list[str] = []
    result = compare(
        tiny, ["bitsandbytes:nf4_dq", "nf4_dq"], text=stories, progress=lambda what, share: told.append(what)
    )
    theirs, ours = result.row("bitsandbytes:nf4_dq"), result.row("nf4_dq")
    assert theirs.note.startswith("bitsandbytes 0.50")
    assert (theirs.kl_mean, theirs.perplexity, theirs.nbytes) == (ours.kl_mean, ours.perplexity, ours.nbytes)
    assert theirs.peak_bytes is not None
    assert theirs.peak_bytes > (tiny_folder / "model.safetensors").stat().st_size
    assert theirs.tied
    assert "bitsandbytes:nf4_dq: " in "\n".join(told)
    assert not list(temporary.glob("quantlab-*"))


def test_llama_cpp_with_importance(tiny: LoadedModel, stories: Path, seen: Path, llama_cpp: ModuleType) -> None:
    """Importance of the calibration text: another file, and a better one."""
    names = ["q4_0", "llama.cpp:imatrix:q4_0"]
    result = compare(tiny, names, text=stories, calibration=seen)
    plain, weighed = (result.row(name) for name in names)
    assert plain.bits_per_weight == weighed.bits_per_weight
    assert 0 < weighed.kl_mean < plain.kl_mean  # type: ignore[operator]
    assert "calibrated on" in weighed.note


def test_libraries_that_are_absent_or_fail(
    tiny: LoadedModel, stories: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise QuantlabError("the process of AutoAWQ was killed (SIGKILL), as the system does when memory runs out")

    absent = "GPTQModel lives in an environment of its own; make it with `quantlab env create gptqmodel`"
    monkeypatch.setattr(Library, "missing", lambda self: absent if self.name == "gptqmodel" else None)
    monkeypatch.setattr("quantlab.evaluate.made_by_libraries.quantize", fails)
    names = ("rtn:int4_g{g}_asym", "autoawq:awq:int4_g{g}_asym", "gptqmodel:gptq:int4_g{g}_asym")
    monkeypatch.setattr(compare_module, "AT_BITS", {4: names})
    result = compare(tiny, bits=4, text=stories)
    assert [row.name for row in result.rows] == ["bf16", "rtn:int4_g128_asym", "autoawq:awq:int4_g128_asym"]
    assert result.rows[2].note.startswith("not applied: the process of AutoAWQ was killed")
    assert result.rows[2].perplexity is None
    assert f"Left out (gptqmodel:gptq:int4_g128_asym): {absent}." in result.notes()
    with pytest.raises(QuantlabError, match="gptqmodel:gptq:int4_g64 cannot be measured: GPTQModel lives in"):
        compare(tiny, ["gptqmodel:gptq:int4_g64"], text=stories)
    assert not list(temporary.glob("quantlab-*"))


def test_groups_follow_the_model(small: Path, stories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "AT_BITS", {4: ("hqq:int4_g{g}_asym",)})
    result = compare(str(small), bits=4, text=stories)
    assert result.rows[1].name == "hqq:int4_g64_asym"
    assert result.rows[1].bits_per_weight == pytest.approx(4.3125, rel=0.01)


def test_the_table_of_methods_fits_and_cuts_nothing_off() -> None:
    worst = {
        "method": "k-quant search",
        "backend": "llm-compressor",
        "format": "gptq_int4_g128",
        "peak_bytes": 12_345_000_000,
    }
    rows = (
        _row("bf16", "transformers"),
        replace(_row("x", behind=0.0, behind_p=1.0), **worst),
        Row("y", "y", "rtn", "z"),
    )
    result = Comparison("tiny", PASSPORT, rows, by_method=True)
    for width in (80, 120):
        lines = _printed(result, width).splitlines()
        assert max(map(len, lines)) <= width
        assert "…" not in "".join(lines)
        cells = next(line for line in lines if line.startswith("k-quant search llm-compressor"))
        for figure in ("gptq_int4_g128", "16.00", "2.86e-07 ± 3e-09 *"):
            assert figure in cells, figure
        for figure in ("1,234.56", "12,345"):
            assert (figure in cells) == (width == 120), figure


def test_the_command_line_crosses_methods_and_formats(
    run_cli: Callable[..., Ended], small: Path, stories: Path, tmp_path: Path
) -> None:
    out, picture = tmp_path / "out.json", tmp_path / "out.png"
    asked = ("--methods", "rtn,HQQ", "--formats", "int4_g64_asym,int3_g64_asym")
    done = run_cli("compare", small, *asked, "--text", stories, "--json", out, "--picture", picture)
    assert done.code == 0, done
    rows = json.loads(out.read_text())["rows"]
    assert [row["name"] for row in rows[1:]] == [
        f"{method}:int{bits}_g64_asym" for bits in (4, 3) for method in ("rtn", "hqq")
    ]
    assert {row["method"] for row in rows[1:]} == {"rtn", "hqq"}
    assert [row["tied"] for row in rows].count(True) >= 1
    assert picture.read_bytes().startswith(PNG)
    assert done.err.count(f"{small}: ") == len(rows) + 2, "a line a row, not one a block"


def test_usage_errors_of_methods(run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    run_cli("compare", "tiny", "--methods", "awqq").must_say(2, "unknown method 'awqq'", "did you mean 'awq'")
    run_cli("compare", "tiny", "--methods", ",").must_say(2, "--methods names no method")
    run_cli("compare", "tiny", "--bits", "5").must_say(2, "--bits")
    run_cli("compare", "tiny", "--bits", "4", "--formats", "int8").must_say(2, "leave out --bits or --formats")
    run_cli("compare", "tiny", "--methods", "awq", "--calibration", tmp_path / "no.txt").must_say(1, "calibration text")
    (tmp_path / "short.txt").write_text("Too short.")
    run_cli("compare", "tiny", "--methods", "awq", "--calibration", tmp_path / "short.txt").must_say(1, "too few")
    with pytest.raises(UsageError, match="bits must be one of 2, 3, 4, 8"):
        compare("tiny", bits=5)
