"""Perplexity, KL divergence and agreement against direct computations; passports; windows; the cache."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quantlab.errors import QuantlabError
from quantlab.evaluate.logits import Baseline, TorchLogits
from quantlab.evaluate.passport import Passport, require_same
from quantlab.evaluate.quality import (
    NotFiniteError,
    compare_logits,
    measure,
    measure_baseline,
    perplexity_change,
)
from quantlab.evaluate.windows import Windows, evaluation_texts, make_windows
from quantlab.models.load import LoadedModel
from quantlab.models.walk import linear_layers

VOCAB = 11


class Table:
    """A source of made-up logits that depend on the tokens, so that a wrong pairing shows."""

    def __init__(self, scale: float = 1.0, calls: list[int] | None = None) -> None:
        self.scale, self.calls = scale, calls if calls is not None else []

    def __call__(self, sequences: Sequence[Sequence[int]], /) -> Iterator[Tensor]:
        for tokens in sequences:
            self.calls.append(len(tokens))
            generator = torch.Generator().manual_seed(sum(tokens))
            yield self.scale * torch.randn(len(tokens), VOCAB, generator=generator)


@pytest.fixture
def text(tiny: LoadedModel) -> Windows:
    """Three short texts, the last one longer than the context."""
    texts = ["Once upon a time.", "The fox ran home to its den.", "A bear slept. " * 8]
    return make_windows(texts, tiny.tokenizer, tiny.source.folder, 16)


@pytest.fixture
def toy(text: Windows) -> Windows:
    """The same windows over a vocabulary of VOCAB tokens."""
    small = [dataclasses.replace(w, tokens=tuple(token % VOCAB for token in w.tokens)) for w in text.windows]
    return dataclasses.replace(text, windows=tuple(small))


def test_stories_become_windows(tiny: LoadedModel) -> None:
    texts = evaluation_texts()
    windows = make_windows(texts, tiny.tokenizer, tiny.source.folder, 512)
    assert len(texts) == len(windows.windows) == 60, "each story fits the context"
    for text, window in zip(texts, windows.windows, strict=True):
        assert window.tokens[0] == tiny.tokenizer.bos_token_id
        assert tiny.tokenizer.decode(window.tokens[1:]) == text
    passport = windows.passport
    assert passport.tokens == sum(len(w.tokens) - 1 for w in windows.windows) == len(windows.clusters)
    assert (passport.context, passport.stride, passport.bos) == (512, 511, True)
    assert passport.text == hashlib.sha256("\0".join(texts).encode()).hexdigest()
    assert passport.tokenizer == hashlib.sha256((tiny.source.folder / "tokenizer.json").read_bytes()).hexdigest()


def test_a_long_text_is_cut_without_losing_or_repeating_a_token(tiny: LoadedModel, text: Windows) -> None:
    longest = [window for window in text.windows if window.cluster == 2]
    assert len(longest) > 1
    assert all(len(window.tokens) <= 16 and window.tokens[0] == tiny.tokenizer.bos_token_id for window in longest)
    assert tiny.tokenizer.decode([token for w in longest for token in w.tokens[1:]]) == "A bear slept. " * 8
    assert text.clusters.tolist() == [w.cluster for w in text.windows for _ in w.tokens[1:]]


def test_one_text_alone_is_clustered_by_window(tiny: LoadedModel) -> None:
    windows = make_windows(["A bear slept. " * 20], tiny.tokenizer, tiny.source.folder, 16)
    assert windows.clusters.unique().numel() == len(windows.windows) > 2


def test_a_tokenizer_without_bos_predicts_from_the_second_token(tiny: LoadedModel) -> None:
    class NoBos:
        bos_token_id = None

        def __call__(self, text: str, **options: object) -> object:
            return tiny.tokenizer(text, **options)

    windows = make_windows(["Once upon a time.", "The fox ran."], NoBos(), tiny.source.folder, 16)
    assert windows.passport.bos is False
    assert windows.passport.tokens == sum(len(w.tokens) - 1 for w in windows.windows)
    assert tiny.tokenizer.decode(windows.windows[0].tokens) == "Once upon a time."


def test_perplexity_is_the_models_own_loss(tiny: LoadedModel) -> None:
    """Against transformers' cross-entropy, story by story."""
    windows = make_windows(evaluation_texts()[:3], tiny.tokenizer, tiny.source.folder, 512)
    quality = measure_baseline(Baseline(TorchLogits(tiny.model), windows, 4096))
    total = 0.0
    with torch.inference_mode():
        for window in windows.windows:
            ids = torch.tensor([window.tokens])
            total += tiny.model(ids, labels=ids).loss.item() * (len(window.tokens) - 1)
    assert quality.perplexity == pytest.approx(math.exp(total / windows.passport.tokens), rel=1e-5)
    assert 1 < quality.perplexity < 4096


def test_every_figure_is_its_definition(toy: Windows) -> None:
    """A token at a time, in plain Python."""
    quality = measure(Table(1.3), Baseline(Table(), toy, VOCAB))
    surprise, divergence, same = [], [], []
    for window in toy.windows:
        p, q = next(Table()([window.tokens])), next(Table(1.3)([window.tokens]))
        for at, came in enumerate(window.tokens[1:]):
            pp, qq = p[at].double().softmax(0).tolist(), q[at].double().softmax(0).tolist()
            surprise.append(-math.log(qq[came]))
            divergence.append(sum(a * math.log(a / b) for a, b in zip(pp, qq, strict=True)))
            same.append(max(range(VOCAB), key=pp.__getitem__) == max(range(VOCAB), key=qq.__getitem__))
    assert quality.nll.tolist() == pytest.approx(surprise)
    assert quality.kl.tolist() == pytest.approx(divergence, abs=1e-12)
    assert quality.same_top.tolist() == same
    assert quality.perplexity == pytest.approx(math.exp(sum(surprise) / len(surprise)))
    assert quality.kl_mean == pytest.approx(sum(divergence) / len(divergence))
    assert quality.top1_agreement == pytest.approx(sum(same) / len(same))
    assert quality.kl_stderr > 0
    assert quality.perplexity_stderr > 0


def test_a_model_against_itself_is_exactly_zero(tiny: LoadedModel, text: Windows) -> None:
    """Measured afresh and with its own weights put in anew, not merely the same numbers twice."""
    baseline = Baseline(TorchLogits(tiny.model), text, 4096)
    weights = {f"{name}.weight": layer.weight.detach().clone() for name, layer in linear_layers(tiny.model)}
    for quality in (measure_baseline(baseline), measure(TorchLogits(tiny.model, weights), baseline)):
        assert (quality.kl == 0).all()
        assert (quality.kl_mean, quality.kl_stderr, quality.top1_agreement) == (0.0, 0.0, 1.0)
        assert perplexity_change(quality, quality) == (0.0, 0.0)


def test_other_weights_are_used_and_the_model_is_left_alone(tiny: LoadedModel, text: Windows) -> None:
    baseline = Baseline(TorchLogits(tiny.model), text, 4096)
    name, layer = next(iter(linear_layers(tiny.model)))
    before = layer.weight.detach().clone()
    quality = measure(TorchLogits(tiny.model, {f"{name}.weight": torch.zeros_like(before)}), baseline)
    assert quality.kl_mean > 1e-4
    assert torch.equal(layer.weight, before)
    assert (measure(TorchLogits(tiny.model), baseline).kl == 0).all()


def test_kl_is_never_negative_and_survives_far_logits() -> None:
    p = torch.randn(40, VOCAB, generator=torch.Generator().manual_seed(3))
    for q in (p + 1e-4 * torch.randn(40, VOCAB), p * 60, p + 1000, torch.zeros_like(p)):
        _, kl, _ = compare_logits(p, q, list(range(5)) * 8)
        assert (kl > -1e-12).all()
        assert torch.isfinite(kl).all()
    shifted = compare_logits(p, p + 1000, list(range(5)) * 8)[1]
    assert shifted.max() < 1e-7, "a constant added to all logits changes nothing but float32's last bits"


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = torch.randn(2, 37, VOCAB, generator=torch.Generator().manual_seed(4))
    tokens = [i % VOCAB for i in range(37)]
    whole = compare_logits(p, q, tokens)
    monkeypatch.setattr("quantlab.evaluate.quality._CHUNK_BYTES", 8 * VOCAB * 5)
    for a, b in zip(whole, compare_logits(p, q, tokens), strict=True):
        assert torch.equal(a, b)


def test_logits_of_another_vocabulary_are_refused() -> None:
    with pytest.raises(ValueError, match="do not belong to the same 3 tokens"):
        compare_logits(torch.zeros(3, 5), torch.zeros(3, 6), [0, 1, 2])


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_said(toy: Windows, broken: float) -> None:
    class Broken(Table):
        def __call__(self, sequences: Sequence[Sequence[int]], /) -> Iterator[Tensor]:
            for logits in super().__call__(sequences):
                logits[1] = broken
                yield logits

    with pytest.raises(NotFiniteError, match="not finite"):
        measure(Broken(), Baseline(Table(), toy, VOCAB))


def test_the_baseline_is_kept_only_when_small(toy: Windows) -> None:
    once, twice = Table(), Table()
    positions = sum(len(window.tokens) for window in toy.windows)
    kept = Baseline(once, toy, VOCAB, limit=positions * VOCAB * 4)
    afresh = Baseline(twice, toy, VOCAB, limit=positions * VOCAB * 4 - 1)
    for baseline in (kept, afresh):
        next(iter(baseline))  # a first try that is broken off must not be taken for the whole
        first, second = list(baseline), list(baseline)
        assert len(first) == len(second) == len(toy.windows)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    windows = len(toy.windows)
    assert len(once.calls) == 1 + windows
    assert len(twice.calls) == 1 + 2 * windows


def test_the_change_in_perplexity_is_paired(toy: Windows) -> None:
    """Its error is that of the differences, not of two independent numbers."""
    baseline = Baseline(Table(), toy, VOCAB)
    original, other = measure_baseline(baseline), measure(Table(1.01), baseline)
    change, stderr = perplexity_change(other, original)
    assert change == pytest.approx(other.perplexity / original.perplexity - 1)
    assert 0 < stderr < 0.2 * other.perplexity_stderr / other.perplexity


PASSPORT = Passport("t" * 64, "x" * 64, 512, 511, True, 1000)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokenizer": "u" * 64}, "tokenizer differs .tttttttttttt... and uuuuuuuuuuuu"),
        ({"text": "y" * 64}, "the text differs"),
        ({"context": 1024}, "context length differs .512 and 1024"),
        ({"stride": 256}, "stride differs .511 and 256"),
        ({"bos": False}, "use of a BOS token differs .True and False"),
        ({"tokens": 999}, "number of scored tokens differs .1000 and 999"),
    ],
)
def test_passports_that_differ_refuse_to_be_compared(changes: dict[str, object], words: str) -> None:
    require_same(PASSPORT, dataclasses.replace(PASSPORT))
    with pytest.raises(QuantlabError, match=words) as error:
        require_same(PASSPORT, dataclasses.replace(PASSPORT, **changes))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert len(dataclasses.fields(Passport)) == 6, "a new entry needs its words and a case here"


def test_perplexities_of_different_passports_are_not_subtracted(toy: Windows) -> None:
    quality = measure_baseline(Baseline(Table(), toy, VOCAB))
    other = dataclasses.replace(quality, passport=dataclasses.replace(quality.passport, context=32))
    with pytest.raises(QuantlabError, match="context length differs"):
        perplexity_change(quality, other)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.txt", None, "cannot read the text"),
        ("latin.txt", b"\xff\xfe\xe9", "give a UTF-8"),
        ("broken.jsonl", b'{"text": "a"}\nnot json\n', "on each line"),
        ("keyless.jsonl", b'{"story": "a"}\n', "on each line"),
        ("list.jsonl", b'["a"]\n', "on each line"),
    ],
)
def test_bad_text_files(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(QuantlabError, match=words) as error:
        evaluation_texts(tmp_path / name)
    assert "\n" not in str(error.value)


def test_text_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One.\nTwo.", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"text": "Onë."}) + "\n\n" + json.dumps({"text": "Two."}), encoding="utf-8"
    )
    assert evaluation_texts(tmp_path / "a.txt") == ["One.\nTwo."]
    assert evaluation_texts(tmp_path / "a.jsonl") == ["Onë.", "Two."]


def test_text_too_short_and_context_too_small(tiny: LoadedModel) -> None:
    for texts in ([], [""], ["Hello."], ["Hello.", ""]):
        with pytest.raises(QuantlabError, match="too short"):
            make_windows(texts, tiny.tokenizer, tiny.source.folder, 16)
    with pytest.raises(QuantlabError, match="leaves nothing to predict"):
        make_windows(["Hello there.", "Good day."], tiny.tokenizer, tiny.source.folder, 2)
