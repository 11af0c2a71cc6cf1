"""Exercise: perplexity, from logits."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from quantlab.lesson.exercises import Exercise, judge_on_cases
from quantlab.lesson.judging import Case
from quantlab.lesson.lesson2.draws import normal


def perplexity(logits: Tensor, tokens: Tensor) -> float:
    """Of a text of `tokens` [t], given the logits [t, vocab] that the model has after each of them."""
    log_p = logits[:-1].log_softmax(-1)  # after token i it guesses token i + 1; after the last there is none
    surprise = -log_p[torch.arange(len(tokens) - 1), tokens[1:]]
    return math.exp(surprise.mean())


def _surprise(logits: Tensor, tokens: Tensor) -> Tensor:
    return -logits[:-1].log_softmax(-1)[torch.arange(len(tokens) - 1), tokens[1:]]


def _unshifted(logits: Tensor, tokens: Tensor) -> float:
    return math.exp(-logits.log_softmax(-1)[torch.arange(len(tokens)), tokens].mean())


def _nats(logits: Tensor, tokens: Tensor) -> float:
    return float(_surprise(logits, tokens).mean())


def _bits(logits: Tensor, tokens: Tensor) -> float:
    return 2.0 ** float(_surprise(logits, tokens).mean())


def _mean_of_exp(logits: Tensor, tokens: Tensor) -> float:
    return float(_surprise(logits, tokens).exp().mean())


def _summed(logits: Tensor, tokens: Tensor) -> float:
    return math.exp(_surprise(logits, tokens).sum() / len(tokens))


def _no_softmax(logits: Tensor, tokens: Tensor) -> float:
    return math.exp(-logits[:-1][torch.arange(len(tokens) - 1), tokens[1:]].mean())


def _best_guess(logits: Tensor, tokens: Tensor) -> float:
    return math.exp(-logits[:-1].log_softmax(-1).amax(-1).mean())


def cases(rng: random.Random) -> list[Case]:
    """Three short texts over a small vocabulary; right is what torch's own loss gives."""
    found = []
    for at in range(3):
        t, vocab = rng.randint(6, 12), rng.randint(20, 40)
        logits = 60 * normal(rng, t, vocab)
        tokens = torch.tensor([rng.randrange(vocab) for _ in range(t)])
        right = torch.nn.functional.cross_entropy(logits[:-1].double(), tokens[1:]).exp().item()
        found.append(Case(f"a random text ({at + 1})", (logits, tokens), right))
    return found


exercise = Exercise(
    id="lesson4-perplexity",
    title="Perplexity",
    question=(
        "A text has the tokens `tokens` [t]. Behind each of them the model has `logits` [t, vocab]: its guess for the "
        "**next** one. Its surprise at a token is -log p (natural logarithm), and perplexity is exp of the mean "
        "surprise: the number of equally likely words that would have surprised it as much. Write "
        "`perplexity(logits, tokens)`."
    ),
    starter='''\
def perplexity(logits, tokens):
    """Of a text of `tokens` [t], given the logits [t, vocab] that the model has after each of them."""
    ...
''',
    answer=perplexity,
    hints=(
        "`logits.log_softmax(-1)` makes log-probabilities of them.",
        "`logits[i]` guesses `tokens[i + 1]`: leave out the last row of logits and the first token.",
        "`log_p[torch.arange(len(tokens) - 1), tokens[1:]]` picks what came; then exp of minus its mean.",
    ),
    known_wrong=(
        (_unshifted, "unshifted"),
        (_nats, "nats"),
        (_bits, "bits"),
        (_mean_of_exp, "mean of exp"),
        (_summed, "summed"),
        (_no_softmax, "no softmax"),
        (_best_guess, "best guess"),
    ),
    diagnoses={
        "unshifted": "`logits[i]` is a guess for token i + 1; you asked it for the token it has just read.",
        "nats": "That is the mean surprise, in nats. Perplexity is exp of it.",
        "bits": "Natural logarithms are undone by exp, not by powers of 2.",
        "mean of exp": "First the mean, then exp: otherwise one rare word outweighs all the others.",
        "summed": "t tokens hold t - 1 guesses: the first token has none before it. Divide by t - 1.",
        "no softmax": "Logits are no log-probabilities yet: they must sum to 1 once exponentiated (`log_softmax`).",
        "best guess": "You took the likeliest word each time. What counts is the word that came.",
    },
    judge=judge_on_cases(cases, tolerance=1e-4),
    solution_code=(
        '''\
import math

import torch


def perplexity(logits, tokens):
    """Of a text of `tokens` [t], given the logits [t, vocab] that the model has after each of them."""
    log_p = logits[:-1].log_softmax(-1)  # after token i it guesses token i + 1; after the last there is none
    surprise = -log_p[torch.arange(len(tokens) - 1), tokens[1:]]
    return math.exp(surprise.mean())
'''
    ),
)
