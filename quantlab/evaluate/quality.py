"""Three ways to say how far a quantized model has moved from the original, token by token.

    nll        -log q(token that came)                    perplexity = exp(mean): how surprised by real text
    KL(p||q)   sum over tokens of p (log p - log q)       how far all its predictions moved, whatever the text says
    same top   argmax p == argmax q                       would greedy decoding have said the same word

p is the unquantized model, q the quantized one, both at the same position of the same window. Perplexity can fall by
chance when a model gets worse; KL divergence cannot: it is zero only for equal predictions. In nats (divide by
ln 2 for bits). Computed in float64, since the KL of a good 8-bit format is below float32's rounding of a sum.

References: llama.cpp's `perplexity --kl-divergence`, which reports the same three; "Accuracy is not all you need"
(Dutta et al. 2024, arXiv 2407.09141) for why agreement with the original matters beside the score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantlab.errors import QuantlabError
from quantlab.evaluate.logits import Baseline, Source, one_thread
from quantlab.evaluate.passport import Passport, require_same
from quantlab.evaluate.statistics import clustered_stderr

_CHUNK_BYTES = 2**20  # of one float64 table of log-probabilities: it stays in the cache, three times as fast as 32 MiB


class NotFiniteError(QuantlabError):
    """A model that gives infinities or NaN instead of logits."""


@dataclass(frozen=True)
class Quality:
    """What was measured at each of N scored positions."""

    passport: Passport
    cluster: Tensor  # [N] which independent text
    nll: Tensor  # [N] nats
    kl: Tensor  # [N] nats
    same_top: Tensor  # [N] bool

    @property
    def perplexity(self) -> float:
        """exp of the mean surprise."""
        return math.exp(self.nll.mean().item())

    @property
    def perplexity_stderr(self) -> float:
        """By the delta method: d exp(x) = exp(x) dx."""
        return self.perplexity * clustered_stderr(self.nll, self.cluster)

    @property
    def kl_mean(self) -> float:
        """Nats a token."""
        return self.kl.mean().item()

    @property
    def kl_stderr(self) -> float:
        """Nats a token."""
        return clustered_stderr(self.kl, self.cluster)

    @property
    def top1_agreement(self) -> float:
        """Share of positions whose most likely token is the same."""
        return self.same_top.double().mean().item()

    @property
    def top1_stderr(self) -> float:
        """Of that share."""
        return clustered_stderr(self.same_top.double(), self.cluster)


def measure(source: Source, baseline: Baseline, step: Callable[[], None] = lambda: None) -> Quality:
    """Run a model on the baseline's text and compare it with the baseline; `step` is called after each window."""
    windows = baseline.text.windows
    found = []
    with one_thread():
        for window, p, q in zip(windows, baseline, source([window.tokens for window in windows]), strict=True):
            found.append(compare_logits(p, q, window.tokens))
            step()
    return _quality(baseline, found)


def measure_baseline(baseline: Baseline, step: Callable[[], None] = lambda: None) -> Quality:
    """The baseline against itself: its perplexity, and a KL divergence of exactly 0."""
    found = []
    with one_thread():
        for window, p in zip(baseline.text.windows, baseline, strict=True):
            found.append(compare_logits(p, p, window.tokens))
            step()
    return _quality(baseline, found)


def _quality(baseline: Baseline, found: list[tuple[Tensor, Tensor, Tensor]]) -> Quality:
    nll, kl, same_top = (torch.cat(column) for column in zip(*found, strict=True))
    if not (torch.isfinite(nll).all() and torch.isfinite(kl).all()):
        raise NotFiniteError("the model's logits are not finite numbers; these weights cannot be used")
    return Quality(baseline.text.passport, baseline.text.clusters, nll, kl, same_top)


def compare_logits(p: Tensor, q: Tensor, tokens: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Surprise [t - 1], KL divergence [t - 1] and same top token [t - 1] of logits p and q [t, vocab] on t tokens."""
    if q.shape != p.shape or len(p) != len(tokens):
        raise ValueError(f"logits {list(p.shape)} and {list(q.shape)} do not belong to the same {len(tokens)} tokens")
    came = torch.tensor(tokens)[1:]
    rows = max(1, _CHUNK_BYTES // (8 * p.shape[1]))
    pieces = zip(*(torch.split(whole, rows) for whole in (p[:-1], q[:-1], came)), strict=True)
    parts = [_compare(*piece) for piece in pieces]
    nll, kl, same = (torch.cat(column) for column in zip(*parts, strict=True))
    return nll, kl, same


def _compare(p: Tensor, q: Tensor, came: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    log_p, log_q = p.double().log_softmax(-1), q.double().log_softmax(-1)  # [t, vocab]
    nll = -log_q.gather(1, came[:, None])[:, 0]
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    return nll, kl, p.argmax(-1) == q.argmax(-1)


def perplexity_change(a: Quality, b: Quality) -> tuple[float, float]:
    """Perplexity of a over that of b, less 1, and its standard error: (0.02, 0.003) is 2.0 +- 0.3 % more.

    Paired, token by token: a story that is hard for one model is hard for the other, so the change is far surer than
    the error bars of the two perplexities suggest. Raises QuantlabError unless their passports agree.
    """
    require_same(a.passport, b.passport)
    ratio = math.exp((a.nll - b.nll).mean().item())
    return ratio - 1, ratio * clustered_stderr(a.nll - b.nll, a.cluster)
