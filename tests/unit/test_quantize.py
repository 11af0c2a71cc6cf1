"""Quantizing a model: the report tells what happened, the way back is exact, and interrupted work goes on."""

from __future__ import annotations

import dataclasses
import json
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import random_families
import torch
from rich.console import Console
from torch import Tensor, nn

import quantlab
from quantlab.core import Format, LayerStats, QuantizedTensor
from quantlab.errors import QuantlabError, UsageError
from quantlab.formats import catalog as formats
from quantlab.methods.catalog import METHODS, Method
from quantlab.methods.rtn import rtn
from quantlab.models.activations import int8_per_token
from quantlab.models.calibration import Calibration, collect
from quantlab.models.load import LoadedModel, ModelSource
from quantlab.models.quantized import Quantized, layer_report
from quantlab.models.samples import stories
from quantlab.models.walk import linear_layers

CALIBRATION = Calibration(tuple(story[:200] for story in stories()[:12]))
IDS = torch.arange(3, 35)[None]


@pytest.fixture
def model(tiny: LoadedModel) -> Iterator[LoadedModel]:
    """The bundled model; a test that leaves it changed fails."""
    before = _state(tiny)
    yield tiny
    assert _same(before, _state(tiny)), "the test did not undo what it did"
    assert not any(module._forward_pre_hooks for module in tiny.model.modules())


def _state(loaded: LoadedModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in loaded.model.state_dict().items()}


def _same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def _logits(loaded: LoadedModel) -> Tensor:
    with torch.no_grad():
        logits: Tensor = cast(Any, loaded.model)(IDS, use_cache=False).logits
    return logits


def _random(model_type: str, **changes: Any) -> LoadedModel:
    network = random_families.make(model_type, **changes)
    return LoadedModel(
        network, SimpleNamespace(bos_token_id=None), ModelSource(cast(Any, None), model_type), network.config
    )


def _token_ids(count: int = 9, length: int = 24) -> tuple[tuple[int, ...], ...]:
    ids = torch.randint(3, 64, (count, length), generator=torch.Generator().manual_seed(1))
    return tuple(tuple(row) for row in ids.tolist())


def by_absmean(Ws: Sequence[Tensor], stats: LayerStats, fmt: Format, *, alpha: float = 0.5) -> Tensor:
    """A scale like AWQ's, without its search."""
    scale = stats.x_absmean.clamp(min=1e-4) ** alpha
    return scale / (scale.max() * scale.min()).sqrt()


SCALING = Method("scaling", "for these tests", "none", rtn, scale=by_absmean, needs_stats=True)


class TestWhatItDoes:
    def test_rounding_puts_the_formats_own_values_in_place(self, model: LoadedModel) -> None:
        before = {name: layer.weight.clone() for name, layer in linear_layers(model.model)}
        others = {name: value for name, value in _state(model).items() if name.removesuffix(".weight") not in before}
        done = quantlab.quantize(model, "rtn", "int4_g128")
        for name, layer in linear_layers(model.model):
            stored = quantlab.quantize_tensor(before[name], "int4_g128")
            assert torch.equal(layer.weight, stored.dequantize())
            assert done.tensors[name].to_bytes() == stored.to_bytes()
        assert _same(others, {name: _state(model)[name] for name in others})
        assert done.tensors.keys() == before.keys()
        assert (done.tokens, done.windows, done.scales) == (0, 0, {})
        done.undo()

    @pytest.mark.parametrize("method", METHODS)
    def test_every_method_and_the_way_back(self, model: LoadedModel, method: str) -> None:
        fmt = "q4_k" if method == "imatrix" else "int4_g128"
        before, logits = _state(model), _logits(model)
        done = quantlab.quantize(model, method, fmt, CALIBRATION)
        changed = (_logits(model) - logits).norm() / logits.norm()
        assert 0 < changed < 0.25
        assert len(done.layers) == 28
        for name, layer in linear_layers(model.model):
            assert torch.equal(layer.weight, done.tensors[name].dequantize())
        assert done.undo() is model
        assert _same(before, _state(model))
        assert torch.equal(_logits(model), logits)
        done.undo()  # a second time changes nothing

    def test_calibrated_methods_lose_less_at_the_output(self, model: LoadedModel) -> None:
        errors = {}
        for method in ("rtn", "gptq"):
            done = quantlab.quantize(model, method, "int3_g128", CALIBRATION)
            errors[method] = done.mean("output_error")
            done.undo()
        assert cast(float, errors["gptq"]) < 0.7 * cast(float, errors["rtn"])

    @pytest.mark.parametrize("model_type", random_families.CONFIGS)
    def test_every_family(self, model_type: str) -> None:
        loaded = _random(model_type)
        before, logits = _state(loaded), _logits(loaded)
        done = quantlab.quantize(loaded, SCALING, formats.get("int8"), Calibration(_token_ids(), window=24))
        assert done.scales.keys() >= {"model.layers.0.self_attn.qkv_proj" if model_type == "phi3" else
                                      "model.layers.0.self_attn.q_proj"}  # fmt: skip
        assert 0 < (_logits(loaded) - logits).norm() < 0.1 * logits.norm()
        done.undo()
        assert _same(before, _state(loaded))

    def test_a_model_of_no_known_family_needs_no_calibration(self) -> None:
        network = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 8))
        loaded = LoadedModel(network, None, ModelSource(cast(Any, None), "two layers"), None)
        done = quantlab.quantize(loaded, "rtn", "int8")
        assert list(done.tensors) == ["0", "1"]
        with pytest.raises(QuantlabError, match="'unknown' cannot be calibrated"):
            quantlab.quantize(loaded, "rtn", "int8", Calibration(_token_ids()))

    def test_sequential_and_one_shot_differ_after_the_first_input(self, model: LoadedModel) -> None:
        done = {}
        for sequential in (True, False):
            one = quantlab.quantize(model, "gptq", "int3_g128", CALIBRATION, sequential=sequential)
            done[sequential] = {name: stored.to_bytes() for name, stored in one.tensors.items()}
            one.undo()
        first = [f"model.layers.0.self_attn.{name}_proj" for name in "qkv"]
        assert all(done[True][name] == done[False][name] for name in first)
        assert all(done[True][name] != done[False][name] for name in done[True] if name not in first)

    @pytest.mark.parametrize("sequential", [True, False])
    def test_statistics_of_one_block_are_in_memory(self, sequential: bool) -> None:
        seen: list[weakref.ref[LayerStats]] = []
        alive: list[int] = []

        def watch(W: Tensor, stats: LayerStats | None, fmt: Format) -> QuantizedTensor:
            assert stats is not None
            if not any(one() is stats for one in seen):
                seen.append(weakref.ref(stats))
            alive.append(sum(one() is not None for one in seen))
            return rtn(W, stats, fmt)

        method = Method("watch", "for this test", "none", watch, needs_stats=True)
        loaded = _random("llama", num_hidden_layers=3)
        quantlab.quantize(loaded, method, "int8", Calibration(_token_ids(), window=24), sequential=sequential)
        assert len(seen) == 12
        assert max(alive) == (1 if sequential else 4)

    def test_activations_in_eight_bits(self, model: LoadedModel) -> None:
        before = _logits(model)
        weights_only = quantlab.quantize(model, "rtn", "int8")
        without = _logits(model)
        weights_only.undo()
        done = quantlab.quantize(model, "rtn", "int8", activations="int8")
        seen: list[Tensor] = []
        layer = model.model.get_submodule("model.layers.1.mlp.down_proj")
        hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        after = _logits(model)
        hook.remove()
        assert all(len(row.unique()) <= 256 for row in seen[0][0])
        assert 0 < (after - before).norm() < 0.1 * before.norm()
        assert (after - before).norm() > (without - before).norm()
        done.undo()
        assert torch.equal(_logits(model), before)

    def test_an_input_of_zeros_stays_zero(self) -> None:
        x = torch.tensor([[0.0, 0.0], [-2.0, 1.0]])
        torch.testing.assert_close(int8_per_token(x), torch.tensor([[0.0, 0.0], [-2.0, 64 * 2 / 127]]))


class TestScales:
    def test_the_stored_weights_are_the_scaled_ones(self) -> None:
        loaded = _random("llama")
        name = "model.layers.0.self_attn.q_proj"
        W = loaded.model.get_submodule(name).weight.clone()  # type: ignore[operator]
        done = quantlab.quantize(loaded, SCALING, "int8", Calibration(_token_ids(), window=24))
        scale = done.scales[name]
        assert scale.max() > 1.5 * scale.min()
        assert torch.equal(done.tensors[name].dequantize(), quantlab.quantize_tensor(W * scale, "int8").dequantize())

    def test_errors_are_told_on_the_scale_of_the_original_weights(self) -> None:
        """int8 of these: the error stays a rounding error however large the scale, for readers and makers alike."""
        loaded = _random("llama")
        done = quantlab.quantize(loaded, SCALING, "int8", Calibration(_token_ids(), window=24))
        assert len({report.kind for report in done.layers}) == 7
        assert all(report.weight_error < 3e-4 for report in done.layers)
        assert all(cast(float, report.output_error) < 3e-4 for report in done.layers)

    def test_norms_alone(self) -> None:
        loaded = _random("gemma2")
        method = dataclasses.replace(SCALING, norms_only=True)
        done = quantlab.quantize(loaded, method, "int8", Calibration(_token_ids(), window=24))
        assert {name.rpartition(".")[2] for name in done.scales} == {"q_proj", "gate_proj"}

    def test_a_scale_for_shared_value_heads_is_the_same_in_them(self) -> None:
        """And is taken where it helps: here some value channels are thirty times the others."""
        loaded = _random("llama", num_attention_heads=8, num_key_value_heads=2, head_dim=4)
        for layer in cast(Any, loaded.model).model.layers:
            layer.self_attn.v_proj.weight[::3] *= 100
        done = quantlab.quantize(loaded, SCALING, "int8", Calibration(_token_ids(), window=24))
        found = [scale for name, scale in done.scales.items() if name.endswith("o_proj")]
        assert found
        for scale in found:
            heads = scale.reshape(2, 4, 4)
            assert torch.equal(heads, heads[:, :1].expand_as(heads))
            assert scale.max() > 2 * scale.min()

    def test_a_scale_for_shared_value_heads_that_harms_is_left_out(self) -> None:
        loaded = _random("llama")
        method = dataclasses.replace(SCALING, scale=_absurd)
        done = quantlab.quantize(loaded, method, "int8", Calibration(_token_ids(), window=24))
        assert not any(name.endswith("o_proj") for name in done.scales)

    def test_an_option_reaches_the_scale(self) -> None:
        loaded = _random("llama")
        done = quantlab.quantize(loaded, SCALING, "int8", Calibration(_token_ids(), window=24), alpha=0.0)
        assert all(torch.equal(scale, torch.ones_like(scale)) for scale in done.scales.values())


def _absurd(Ws: Sequence[Tensor], stats: LayerStats, fmt: Format) -> Tensor:
    return by_absmean(Ws, stats, fmt, alpha=-3.0)


class TestTheReport:
    def test_errors_are_those_of_the_outputs(self, model: LoadedModel) -> None:
        """Against X of the original model in float64, since one-shot."""
        stats = collect(model, CALIBRATION)
        before = {name: layer.weight.clone() for name, layer in linear_layers(model.model)}
        done = quantlab.quantize(model, "rtn", "int4_g128", CALIBRATION, sequential=False)
        for report in done.layers:
            W, W_hat = before[report.name].double(), done.tensors[report.name].dequantize().double()
            H = stats[report.name].H.double()
            wrong = torch.trace((W - W_hat) @ H @ (W - W_hat).T).item()
            assert report.output_error == pytest.approx(wrong / torch.trace(W @ H @ W.T).item(), rel=1e-3)
            assert report.loss == pytest.approx(wrong / stats[report.name].n_tokens, rel=1e-3)
            assert report.weight_error == pytest.approx(((W - W_hat).norm() / W.norm()).item() ** 2, rel=1e-4)
            assert report.nbytes == done.tensors[report.name].nbytes
        done.undo()

    def test_bytes_of_the_whole_model(self, model: LoadedModel) -> None:
        done = quantlab.quantize(model, "rtn", "q8_0" if "q8_0" in formats.FORMATS else "int8")
        linear = sum(stored.nbytes for stored in done.tensors.values())
        kept = sum(
            p.numel() for name, p in model.model.named_parameters() if name.removesuffix(".weight") not in done.tensors
        )
        assert done.nbytes == linear + 2 * kept
        weights = sum(stored.shape[0] * stored.shape[1] for stored in done.tensors.values())
        assert done.bits_per_weight == 8 * linear / weights
        done.undo()

    def test_as_json_and_as_a_table(self, model: LoadedModel) -> None:
        done = quantlab.quantize(model, "rtn", "int4_g128", CALIBRATION)
        told = json.loads(done.to_json())
        assert (told["model"], told["method"], told["format"], told["windows"]) == ("tiny", "rtn", "int4_g128", 12)
        assert len(told["layers"]) == 28
        assert told["peak_bytes"] > 0
        text = _drawn(done)
        kinds = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "all"]
        assert [line.split()[0] for line in text[2:]] == kinds
        assert "model.layers.3.mlp.up_proj" in "\n".join(_drawn(done, every=True))
        done.undo()

    def test_without_data_there_are_no_output_errors(self, model: LoadedModel) -> None:
        done = quantlab.quantize(model, "rtn", "int8")
        assert done.mean("output_error") is None
        assert cast(float, done.mean("weight_error")) > 0
        assert " - " in _drawn(done)[2]
        done.undo()

    def test_a_layer_of_zeros_loses_nothing(self) -> None:
        W, stats = torch.zeros(4, 8), LayerStats(1, torch.eye(8), torch.ones(8), torch.ones(8))
        report = layer_report("it", W, W, quantlab.quantize_tensor(W, "int8"), stats, 0.0)
        assert (report.weight_error, report.output_error, report.loss) == (0, 0, 0)


def _drawn(done: Quantized, every: bool = False) -> list[str]:
    console = Console(width=120, file=None, record=True, quiet=False)
    with console.capture() as drawn:
        console.print(done.table(every))
    return drawn.get().splitlines()


class TestKeeping:
    @pytest.mark.parametrize("pattern", ["down_proj", "model.layers.0.*", "model.layers.1.mlp.up_proj"])
    def test_layers_that_are_kept(self, model: LoadedModel, pattern: str) -> None:
        before = {name: layer.weight.clone() for name, layer in linear_layers(model.model)}
        done = quantlab.quantize(model, "gptq", "int4_g128", CALIBRATION, keep=("embed_tokens", "lm_head", pattern))
        kept = before.keys() - done.tensors.keys()
        assert {len(kept)} <= {4, 7, 1}
        assert all(
            torch.equal(layer.weight, before[name]) == (name in kept) for name, layer in linear_layers(model.model)
        )
        done.undo()

    def test_a_name_that_is_not_there(self, model: LoadedModel) -> None:
        with pytest.raises(UsageError, match="unknown layer to keep 'model"):
            quantlab.quantize(model, "rtn", "int8", keep=("model.layers.9.mlp.up_proj",))

    def test_one_table_is_kept_or_quantized_as_a_whole(self, model: LoadedModel) -> None:
        with pytest.raises(UsageError, match="embed_tokens and lm_head are one table in this model"):
            quantlab.quantize(model, "rtn", "int8", keep=("lm_head",))
        done = quantlab.quantize(model, "rtn", "int8", keep=())
        assert len(done.layers) == 29
        vectors = sum(p.numel() for p in model.model.parameters() if p.ndim == 1)
        assert done.nbytes == sum(stored.nbytes for stored in done.tensors.values()) + 2 * vectors
        assert torch.equal(cast(Any, model.model).lm_head.weight, done.tensors[done.layers[-1].name].dequantize())
        done.undo()

    def test_an_output_head_of_its_own(self) -> None:
        loaded = _random("llama", tie_word_embeddings=False)
        done = quantlab.quantize(loaded, "rtn", "int8", keep=("embed_tokens",))
        assert [report.name for report in done.layers][-1] == "lm_head"
        assert "model.embed_tokens" not in done.tensors

    def test_nothing_left(self, model: LoadedModel) -> None:
        with pytest.raises(UsageError, match="nothing is left to quantize in tiny; keep fewer layers"):
            quantlab.quantize(model, "rtn", "int8", keep=("*",))


class TestBadRequests:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("gtpq", "int4_g128"), "unknown method 'gtpq'; did you mean 'gptq'"),
            (("rtn", "int4_g12"), "unknown format 'int4_g12'; did you mean 'int4_g128'"),
        ],
    )
    def test_unknown_names(self, model: LoadedModel, arguments: tuple[str, str], said: str) -> None:
        with pytest.raises(UsageError, match=said):
            quantlab.quantize(model, *arguments)

    def test_an_option_that_nobody_knows(self, model: LoadedModel) -> None:
        with pytest.raises(UsageError, match="unknown option of gptq and int4_g128 'dampp'; did you mean 'damp'"):
            quantlab.quantize(model, "gptq", "int4_g128", dampp=0.1)

    def test_an_unknown_rounding_of_activations(self, model: LoadedModel) -> None:
        with pytest.raises(UsageError, match="unknown rounding of activations 'int4'"):
            quantlab.quantize(model, "rtn", "int8", activations="int4")

    def test_rows_that_do_not_divide_name_the_layer(self) -> None:
        with pytest.raises(
            QuantlabError,
            match=r"model\.layers\.0\.self_attn\.q_proj has rows of 32 weights, which int4_g128 cannot divide",
        ):
            quantlab.quantize(_random("llama"), "rtn", "int4_g128")

    def test_what_a_method_refuses_names_the_layer(self, model: LoadedModel) -> None:
        with pytest.raises(QuantlabError, match=r"model\.layers\.0\.self_attn\.q_proj: .*importance"):
            quantlab.quantize(model, "imatrix", "int4_g128", CALIBRATION)

    def test_too_few_samples(self, model: LoadedModel) -> None:
        with pytest.raises(QuantlabError, match="2 calibration windows"):
            quantlab.quantize(model, "gptq", "int4_g128", Calibration(tuple(stories()[:2])))

    def test_weights_that_are_not_finite(self) -> None:
        loaded = _random("llama")
        cast(Any, loaded.model).model.layers[1].mlp.down_proj.weight[0, 3] = torch.nan
        with pytest.raises(QuantlabError, match=r"layers\.1\.mlp\.down_proj: weights must be finite, W\[0, 3\] is nan"):
            quantlab.quantize(loaded, "rtn", "int8")


class TestInterrupted:
    def _stopping(self, at: str) -> Any:
        def progress(what: str, share: float) -> None:
            if what == at:
                raise KeyboardInterrupt

        return progress

    @pytest.mark.parametrize("method", [SCALING, "gptq"])
    def test_ctrl_c_leaves_the_model_as_it_was(self, model: LoadedModel, method: Any) -> None:
        before = _state(model)
        with pytest.raises(KeyboardInterrupt):
            quantlab.quantize(
                model, method, "int4_g128", CALIBRATION, activations="int8", progress=self._stopping("model.layers.2")
            )
        assert _same(before, _state(model))

    @pytest.mark.parametrize(
        ("name", "sequential"), [("gptq", True), ("gptq", False), ("awq_gptq", True)], ids=["after", "once", "paired"]
    )
    def test_it_goes_on_where_it_stopped(self, model: LoadedModel, tmp_path: Path, name: str, sequential: bool) -> None:
        method = dataclasses.replace(METHODS[name], name="scaled", scale=by_absmean)
        arguments = (model, method, "int4_g128", CALIBRATION)
        whole = quantlab.quantize(*arguments, sequential=sequential)
        state = _state(model)
        whole.undo()
        with pytest.raises(KeyboardInterrupt):
            quantlab.quantize(
                *arguments, sequential=sequential, resume=tmp_path, progress=self._stopping("model.layers.2")
            )
        kept = sorted(tmp_path.glob("block-*"))
        times = [path.stat().st_mtime_ns for path in kept]
        assert [path.name for path in kept] == ["block-0000.safetensors", "block-0001.safetensors"]
        again = quantlab.quantize(*arguments, sequential=sequential, resume=tmp_path)
        assert _same(state, _state(model))
        assert [path.stat().st_mtime_ns for path in kept] == times
        assert again.tensors.keys() == whole.tensors.keys()
        assert all(again.tensors[name].to_bytes() == whole.tensors[name].to_bytes() for name in whole.tensors)
        assert all(torch.equal(again.scales[name], whole.scales[name]) for name in whole.scales)
        assert [dataclasses.replace(one, seconds=0) for one in again.layers] == [
            dataclasses.replace(one, seconds=0) for one in whole.layers
        ]
        again.undo()

    def test_other_settings_start_anew(self, model: LoadedModel, tmp_path: Path) -> None:
        quantlab.quantize(model, "rtn", "int4_g128", resume=tmp_path).undo()
        (tmp_path / "mine.txt").touch()
        done = quantlab.quantize(model, "rtn", "int8", resume=tmp_path)
        assert {stored.fmt.name for stored in done.tensors.values()} == {"int8"}
        assert (tmp_path / "mine.txt").exists()
        done.undo()
        others = quantlab.quantize(model, "rtn", "int4_g128", CALIBRATION, resume=tmp_path)
        assert others.mean("output_error") is not None
        others.undo()

    def test_another_model_starts_anew(self, tmp_path: Path) -> None:
        bytes_of = []
        for seed in (0, 1):
            loaded = _random("llama", seed=seed)
            done = quantlab.quantize(loaded, "rtn", "int8", resume=tmp_path)
            bytes_of.append([stored.to_bytes() for stored in done.tensors.values()])
        assert all(left != right for left, right in zip(*bytes_of, strict=True))

    def test_a_damaged_file_is_named(self, model: LoadedModel, tmp_path: Path) -> None:
        quantlab.quantize(model, "rtn", "int4_g128", resume=tmp_path).undo()
        path = tmp_path / "block-0001.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(QuantlabError, match=r"block-0001\.safetensors cannot be read .*; remove it"):
            quantlab.quantize(model, "rtn", "int4_g128", resume=tmp_path)
