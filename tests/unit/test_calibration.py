"""Calibration against plain hooks in float64, in every family; what does not fit is refused; nothing is dropped."""

from __future__ import annotations

import dataclasses
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import random_families
import torch
from torch import Tensor, nn

from quantlab.core import LayerStats
from quantlab.errors import QuantlabError
from quantlab.models.calibration import Calibration, _require_memory, collect, estimated_bytes, stream
from quantlab.models.families import blocks
from quantlab.models.load import LoadedModel, ModelSource
from quantlab.models.peak import PeakMemory
from quantlab.models.samples import batches, stories, windows
from quantlab.models.sums import Sums
from quantlab.models.walk import linear_layers, replace_weights

LENGTHS = (12, 5, 9, 12, 3, 7, 11, 8, 6)


def _loaded(model_type: str, **changes: Any) -> LoadedModel:
    """A random model with no tokenizer: its windows are token ids."""
    model = random_families.make(model_type, **changes)
    tokenizer = SimpleNamespace(bos_token_id=None)
    return LoadedModel(model, tokenizer, ModelSource(cast(Any, None), model_type), model.config)


def _ids(lengths: tuple[int, ...] = LENGTHS) -> tuple[tuple[int, ...], ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(tuple(torch.randint(3, 64, (n,), generator=generator).tolist()) for n in lengths)


def _plainly(model: Any, cut: list[tuple[int, ...]]) -> dict[str, Tensor]:
    """X [t, k] of every layer in float64: the whole model run on one window at a time."""
    seen: dict[str, list[Tensor]] = {}

    def listen(name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.setdefault(name, []).append(args[0].flatten(0, -2).double())

    hooks = [layer.register_forward_pre_hook(partial(listen, name)) for name, layer in linear_layers(model)]
    with torch.no_grad():
        for window in cut:
            model(torch.tensor([window]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(found) for name, found in seen.items()}


def _must_agree(stats: LayerStats, X: Tensor, tolerance: float) -> None:
    """Every entry of H within `tolerance` of the size that Cauchy and Schwarz allow it."""
    H = X.T @ X
    size = (H.diagonal()[:, None] * H.diagonal()).sqrt().clamp(min=1e-12)
    assert ((stats.H - H).abs() / size).max() <= tolerance
    assert torch.equal(stats.H, stats.H.T)
    assert stats.n_tokens == len(X)
    torch.testing.assert_close(stats.x_absmean.double(), X.abs().mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stats.x_absmax.double(), X.abs().amax(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", random_families.CONFIGS)
def test_every_family_against_plain_hooks(model_type: str) -> None:
    """Windows of many lengths, padded in batches, longer than Gemma's sliding window."""
    loaded = _loaded(model_type)
    stats = collect(loaded, Calibration(_ids(), window=16))
    X = _plainly(loaded.model, list(_ids()))
    assert stats.keys() == X.keys()
    for name, found in stats.items():
        _must_agree(found, X[name], 2e-5)


def test_the_bundled_model(tiny: LoadedModel) -> None:
    """What float32 sums lose: at most 2e-6 of |x_i| |x_j|."""
    calibration = Calibration(tuple(stories()[:8]))
    stats = collect(tiny, calibration)
    X = _plainly(tiny.model, windows(tiny, calibration))
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.3.mlp.down_proj"):
        _must_agree(stats[name], X[name], 2e-6)


def test_the_sums_alone_are_as_good_as_float32_allows() -> None:
    X = torch.randn(5000, 300) * torch.logspace(-3, 3, 300)
    sums = Sums(300)
    for part in X.split(1024):
        sums.add(part)
    _must_agree(dataclasses.replace(sums.stats()), X.double(), 2e-6)


def test_layers_that_share_an_input_share_one_object(tiny: LoadedModel) -> None:
    stats = collect(tiny, Calibration(tuple(stories()[:8])))
    at = "model.layers.2"
    assert stats[f"{at}.self_attn.q_proj"] is stats[f"{at}.self_attn.v_proj"]
    assert stats[f"{at}.mlp.gate_proj"] is stats[f"{at}.mlp.up_proj"]
    assert stats[f"{at}.self_attn.q_proj"] is not stats[f"{at}.self_attn.o_proj"]
    assert len({id(one.H) for one in stats.values()}) == 16


def test_one_shot_leaves_later_blocks_with_the_original_models_inputs() -> None:
    loaded = _loaded("llama")
    expected = collect(loaded, Calibration(_ids(), window=16))
    for part in stream(loaded, Calibration(_ids(), window=16)):
        for name, found in part.stats.items():
            assert torch.equal(found.H, expected[name].H)
        part.block.layers[f"{part.block.name}.mlp.up_proj"].weight.zero_()


def test_sequential_shows_later_blocks_what_the_changed_ones_send() -> None:
    loaded = _loaded("qwen3")
    for part in stream(loaded, Calibration(_ids(), window=16), sequential=True):
        X = _plainly(loaded.model, list(_ids()))  # of the model as it is now: this block is not changed yet
        for name, found in part.stats.items():
            _must_agree(found, X[name], 2e-5)
        for layer in part.block.layers.values():
            layer.weight.mul_(0.5)


@pytest.mark.parametrize("model_type", ["llama", "gemma", "phi"])
def test_a_paired_walk_knows_what_the_original_model_sent(model_type: str) -> None:
    """C = X0'X: X0 of the model before anything changed, X of the model as it is now, in the same order of tokens."""
    loaded = _loaded(model_type)
    X0 = _plainly(loaded.model, list(_ids()))
    for part in stream(loaded, Calibration(_ids(), window=16), sequential=True, paired=True):
        X = _plainly(loaded.model, list(_ids()))
        for name, found in part.stats.items():
            _must_agree(found, X[name], 2e-5)
            _must_pair(found, X0[name], X[name])
        assert part.step is not None
        for shared in part.block.inputs:  # each input again, once the layers before it have changed
            X = _plainly(loaded.model, list(_ids()))
            new = part.step(shared)
            _must_agree(new, X[shared.name], 2e-5)
            _must_pair(new, X0[shared.name], X[shared.name])
            for layer in shared.layers.values():
                layer.weight.mul_(0.7)
    assert not any(module._forward_pre_hooks for module in loaded.model.modules())


def _must_pair(found: LayerStats, X0: Tensor, X: Tensor) -> None:
    assert found.C is not None
    size = (X0.square().sum(0)[:, None] * X.square().sum(0)).sqrt().clamp(min=1e-12)
    assert ((found.C - X0.T @ X).abs() / size).max() <= 2e-5


def test_other_walks_collect_no_pairs() -> None:
    loaded = _loaded("llama")
    for part in stream(loaded, Calibration(_ids(), window=16), sequential=True):
        assert part.step is not None
        assert part.step(part.block.inputs[-1]).C is None  # the inputs before it may be passed by
        assert all(found.C is None for found in part.stats.values())


def test_blocks_that_are_done_only_pass_their_outputs_on() -> None:
    loaded = _loaded("gemma")
    expected = collect(loaded, Calibration(_ids(), window=16))
    parts = list(stream(loaded, Calibration(_ids(), window=16), restored=lambda block: block.index != 1))
    assert [part.block.index for part in parts] == [1]
    assert all(torch.equal(found.H, expected[name].H) for name, found in parts[0].stats.items())


def test_the_model_is_left_as_it_was(tiny: LoadedModel) -> None:
    """No hook stays, no forward is replaced, no weight moves: not after the end, not after an early one."""
    ids = torch.arange(5, 40)[None]
    before = cast(Any, tiny.model)(ids).logits
    walk = stream(tiny, Calibration(tuple(stories()[:8])), sequential=True)
    next(walk)
    walk.close()
    assert torch.equal(cast(Any, tiny.model)(ids).logits, before)
    assert not any(module._forward_pre_hooks for module in tiny.model.modules())
    assert not any("forward" in vars(module) for module in tiny.model.modules())


def test_progress_is_told_block_by_block() -> None:
    told: list[tuple[str, float]] = []
    collect(_loaded("phi3"), Calibration(_ids(), window=16), progress=lambda what, share: told.append((what, share)))
    assert told == [("embedding", 0.0), ("model.layers.0", 0.0), ("model.layers.1", 0.5), ("calibrated", 1.0)]


def test_bfloat16_is_close_and_is_not_the_default(tiny: LoadedModel) -> None:
    texts = tuple(stories()[:8])
    exact, low = (collect(tiny, Calibration(texts, compute=one)) for one in (torch.float32, torch.bfloat16))
    name = "model.layers.3.mlp.down_proj"
    assert low[name].H.dtype == torch.float32
    assert 0 < (low[name].H - exact[name].H).norm() < 0.03 * exact[name].H.norm()
    assert Calibration(texts).compute is torch.float32


@pytest.mark.parametrize(("sequential", "paired"), [(False, False), (True, False), (True, True)])
def test_memory_is_what_was_estimated(tiny: LoadedModel, sequential: bool, paired: bool) -> None:
    """At most; how much of it the allocator takes anew depends on what it kept from earlier work."""
    calibration = Calibration()
    collect(tiny, Calibration(tuple(stories()[:8])))  # so that libraries have made their own buffers
    expected = estimated_bytes(blocks(tiny.model), batches(windows(tiny, calibration)), sequential, paired)
    with PeakMemory() as peak:
        for part in stream(tiny, calibration, sequential=sequential, paired=paired):
            if part.step is not None:
                part.step(part.block.inputs[-1])
    assert peak.nbytes < 1.25 * expected + 2**25
    widths = sum(shared.width for block in blocks(tiny.model) for shared in block.inputs)
    tokens = sum(batch.ids.numel() for batch in batches(windows(tiny, calibration)))
    everything = 4 * tokens * widths * (2 if paired else 1)  # what the inputs of all layers together would take
    assert expected < everything / (2 if sequential else 4)


def test_too_little_memory_is_said_before_the_work() -> None:
    with pytest.raises(
        QuantlabError, match=r"calibration takes about 1024\.0 GiB of memory, .*; calibrate on less text"
    ):
        _require_memory(2**40)


class TestWindows:
    def test_a_story_is_one_window_that_starts_with_bos(self, tiny: LoadedModel) -> None:
        cut = windows(tiny, Calibration())
        assert len(cut) == 60
        assert {window[0] for window in cut} == {tiny.tokenizer.bos_token_id}
        assert tiny.tokenizer.decode(cut[7][1:]) == stories()[7]

    @pytest.mark.parametrize("cut", ["split", "pack"])
    def test_no_token_is_lost_in_cutting(self, tiny: LoadedModel, cut: str) -> None:
        texts = tuple(stories()[:9])
        found = windows(tiny, Calibration(texts, window=100, cut=cut))
        told = "".join(tiny.tokenizer.decode(window[1:]) for window in found)
        assert told == "".join(texts)
        assert max(map(len, found)) == 100
        assert sum(len(window) < 100 for window in found) == (9 if cut == "split" else 1)

    def test_ready_made_windows_stay_as_they_are(self, tiny: LoadedModel) -> None:
        assert windows(tiny, Calibration(_ids())) == list(_ids())

    def test_a_text_longer_than_the_window(self, tiny: LoadedModel) -> None:
        texts = (*stories()[:8], stories()[8] * 3)
        with pytest.raises(QuantlabError, match=r'text 8 has \d+ tokens and a window of 512 takes 511; .*cut="split"'):
            windows(tiny, Calibration(texts))
        with pytest.raises(QuantlabError, match="text 0 has 12 tokens and a window of 11 takes 11"):
            windows(tiny, Calibration(_ids(), window=11, cut="split"))

    def test_too_few_samples(self, tiny: LoadedModel) -> None:
        texts = tuple(stories()[:7])
        with pytest.raises(QuantlabError, match=r"7 calibration windows .* fewer than the 8 .* or say at_least=7"):
            windows(tiny, Calibration(texts))
        assert len(windows(tiny, Calibration(texts, at_least=7))) == 7

    def test_an_empty_text(self, tiny: LoadedModel) -> None:
        with pytest.raises(QuantlabError, match="calibration text 3 is empty; take it out"):
            windows(tiny, Calibration((*stories()[:3], "", *stories()[3:9])))

    def test_no_texts_at_all(self, tiny: LoadedModel) -> None:
        with pytest.raises(QuantlabError, match="0 calibration windows"):
            windows(tiny, Calibration(()))

    def test_a_window_that_the_model_cannot_take(self, tiny: LoadedModel) -> None:
        with pytest.raises(QuantlabError, match="tiny takes at most 512 tokens, not 513; choose a smaller window"):
            windows(tiny, Calibration(window=513))

    def test_ids_of_another_vocabulary(self, tiny: LoadedModel) -> None:
        with pytest.raises(QuantlabError, match=r"text 1 has token ids from 3 to 4096, the model knows 0 to 4095"):
            windows(tiny, Calibration(((5, 6), (3, 4096)), at_least=1))

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"cut": "truncate"}, "cut must be one of whole, split, pack, got 'truncate'"),
            ({"window": 1}, "a window needs at least 2 tokens, got 1"),
            ({"compute": torch.float16}, r"compute must be torch\.float32 or torch\.bfloat16, got torch\.float16"),
        ],
    )
    def test_settings_that_make_no_sense(self, changes: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            Calibration(**changes)


def test_batches_hold_every_window_once_and_say_what_is_padding() -> None:
    cut = list(_ids())
    found = batches(cut, tokens=30)
    assert all(batch.ids.numel() <= 30 for batch in found)
    rows = [
        tuple(row[real].tolist())
        for batch in found
        for row, real in zip(batch.ids, batch.real if batch.real is not None else batch.ids >= 0, strict=True)
    ]
    assert sorted(rows) == sorted(cut)
    assert len(batches([(1,) * 50], tokens=30)) == 1  # a window longer than a batch is a batch


class TestStatisticsOfAnotherLayer:
    def test_another_width(self, tiny: LoadedModel) -> None:
        stats = collect(tiny, Calibration(tuple(stories()[:8])))
        with pytest.raises(ValueError, match="weights of 1024 inputs need statistics of as many, these are of 512"):
            stats["model.layers.0.mlp.up_proj"].check(torch.zeros(512, 1024))

    def test_activations_that_overflow(self) -> None:
        """A damaged weight makes infinite activations: the statistics say so when they are used."""
        loaded = _loaded("llama")
        name = "model.layers.0.mlp.up_proj"
        before = replace_weights(loaded.model, {name: torch.full((48, 32), 1e38)})
        stats = collect(loaded, Calibration(_ids(), window=16))
        with pytest.raises(ValueError, match="the statistics are not finite"):
            stats["model.layers.0.mlp.down_proj"].check(torch.zeros(32, 48))
        replace_weights(loaded.model, before)
