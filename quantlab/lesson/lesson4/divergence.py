"""Exercise: the KL divergence of a quantized model from the original."""

from __future__ import annotations

import random

from torch import Tensor

from quantlab.lesson.exercises import Exercise, judge_on_cases, source
from quantlab.lesson.judging import Case
from quantlab.lesson.lesson2.draws import normal


def divergence(p_logits: Tensor, q_logits: Tensor) -> float:
    """Mean KL divergence, in nats, of guesses q [t, vocab] from guesses p [t, vocab]."""
    log_p, log_q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


def _reversed(p_logits: Tensor, q_logits: Tensor) -> float:
    return divergence(q_logits, p_logits)


def _over_vocab(p_logits: Tensor, q_logits: Tensor) -> float:
    return divergence(p_logits, q_logits) / p_logits.shape[-1]


def _summed(p_logits: Tensor, q_logits: Tensor) -> float:
    return divergence(p_logits, q_logits) * len(p_logits)


def _unweighted(p_logits: Tensor, q_logits: Tensor) -> float:
    return float((p_logits.log_softmax(-1) - q_logits.log_softmax(-1)).sum(-1).mean())


def _no_softmax(p_logits: Tensor, q_logits: Tensor) -> float:
    return float((p_logits.softmax(-1) * (p_logits - q_logits)).sum(-1).mean())


def _cross_entropy(p_logits: Tensor, q_logits: Tensor) -> float:
    return float(-(p_logits.softmax(-1) * q_logits.log_softmax(-1)).sum(-1).mean())


def _bits(p_logits: Tensor, q_logits: Tensor) -> float:
    return divergence(p_logits, q_logits) / 0.6931471805599453


def cases(rng: random.Random) -> list[Case]:
    """Guesses and slightly other guesses, some constant apart, which changes no probability."""
    found = []
    for at in range(4):
        t, vocab = rng.randint(3, 6), rng.randint(10, 30)
        p = 40 * normal(rng, t, vocab)
        q = p + 14 * normal(rng, t, vocab) + rng.uniform(0.5, 2)
        P, Q = p.double().softmax(-1), q.double().softmax(-1)
        found.append(Case(f"random guesses ({at + 1})", (p, q), (P * (P / Q).log()).sum().item() / t))
    return found


exercise = Exercise(
    id="lesson4-divergence",
    title="KL divergence",
    question=(
        "The original model guesses with probabilities p, the quantized one with q. At one position their KL "
        "divergence is the sum of p log(p / q) over the vocabulary: how many more nats q is surprised by what p "
        "expects. Write `divergence(p_logits, q_logits)`: both [t, vocab]; return the mean over the t positions."
    ),
    starter='''\
def divergence(p_logits, q_logits):
    """Mean KL divergence, in nats, of guesses q [t, vocab] from guesses p [t, vocab]."""
    ...
''',
    answer=divergence,
    hints=(
        "`log_softmax(-1)` of both gives log p and log q.",
        "log(p / q) = log p - log q, and p = exp(log p).",
        "Sum over the vocabulary (`.sum(-1)`), then the mean over the positions.",
    ),
    known_wrong=(
        (_reversed, "reversed"),
        (_over_vocab, "over vocab"),
        (_summed, "summed"),
        (_unweighted, "unweighted"),
        (_no_softmax, "no softmax"),
        (_cross_entropy, "cross entropy"),
        (_bits, "bits"),
    ),
    diagnoses={
        "reversed": (
            "The other way round: p, the original, is what we expect to come; it weighs. (`F.kl_div(log_p, log_q, "
            "log_target=True)` of torch has this order: its **first** argument is q.)"
        ),
        "over vocab": "You averaged over the vocabulary too (as `F.kl_div` does by default): sum there, then average.",
        "summed": "Return the mean over the positions, not their sum.",
        "unweighted": "Every word counts as much as it is expected: weigh log p - log q by p.",
        "no softmax": "A constant added to all logits changes no probability, but it changes your result: log_softmax.",
        "cross entropy": "That is the cross entropy. Subtract what p is surprised by itself: p log p.",
        "bits": "Those are bits; the course measures in nats: natural logarithms.",
    },
    judge=judge_on_cases(cases, tolerance=1e-4),
    solution_code=source(divergence),
)
