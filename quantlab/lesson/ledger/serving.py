"""Checks of lesson 5: batching (S7), speculation (S8), distillation (S9), the KV cache (S11), other engines (S12)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from quantlab.evaluate.kv_cache import rounded_cache
from quantlab.evaluate.logits import TorchLogits
from quantlab.evaluate.quality import Quality, measure
from quantlab.lesson import distilled, gpu_run
from quantlab.lesson.ledger.verdicts import Finding, Part, near
from quantlab.lesson.lesson2.story import story_model
from quantlab.lesson.lesson4.measured import baseline, of_stories
from quantlab.models.load import load
from quantlab.plan.gpus import gpu as gpu_named
from quantlab.plan.memory import VLLM_UTILIZATION, kv_bytes_per_token, max_tokens
from quantlab.serve.batching import Policy, Request, Result, simulate
from quantlab.serve.others import CHECKED, OTHERS
from quantlab.serve.speculation import expected_tokens, model_draft, ngram_draft, speculate


def s7(requests: int, slots: int, shortest: int, longest: int, busy: float) -> Finding:
    """Static against continuous batches, simulated with an engine's measured steps; all requests wait at the start."""
    dice = random.Random(0)
    asked = [Request(0.0, 128, dice.randint(shortest, longest)) for _ in range(requests)]
    found = {kind: _batches(asked, kind, slots) for kind in ("static", "continuous", "chunked")}
    parts = [Part(f"{kind}: slots busy {result.busy(slots):.0%}, {result.tokens_per_s:,.0f} tokens/s",
                  result.busy(slots) >= busy) for kind, result in found.items() if kind != "static"]  # fmt: skip
    still, flowing = found["static"], found["chunked"]
    gain = flowing.tokens_per_s / still.tokens_per_s
    parts.append(Part(f"static: slots busy {still.busy(slots):.0%}, so that there is something to fill: "
                      f"{gain:.2f} times the tokens", still.busy(slots) < busy, essential=True))  # fmt: skip
    figure = ", ".join(f"{kind} {result.busy(slots):.0%} busy" for kind, result in found.items())
    method = (
        f"PREDICTED: {requests} requests of 128 tokens, answers of {shortest} to {longest}, {slots} slots, with vLLM's "
        f"steps, {gpu_run.provenance()}"
    )
    return Finding(tuple(parts), f"{figure}; {gain:.2f} times the tokens a second", method)


def _batches(asked: Sequence[Request], kind: str, slots: int) -> Result:
    return simulate(asked, gpu_run.step_cost(), Policy(kind, slots=slots))


def s8(prompts: Sequence[str], guesses: int, tokens: int, says_ratio: float) -> Finding:
    """Guessing from the text itself and by a model a quarter the size, where text repeats and where it does not."""
    loaded, small = story_model().loaded, load(str(distilled.folder())).model
    cost = sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in loaded.model.parameters())
    parts, figures = [], []
    for text in prompts:
        ids = loaded.tokenizer(text)["input_ids"]
        plain = speculate(loaded.model, ids, tokens)
        for name, draft, each in (("n-grams", ngram_draft, 0.0), ("a small model", model_draft(small), cost)):
            found = speculate(loaded.model, ids, tokens, draft, guesses)
            gain = found.tokens_per_step / (1 + guesses * each)
            law = expected_tokens(found.acceptance, guesses)
            says = (
                f"{name} after {text[:24]!r}...: {found.acceptance:.0%} of the guesses right, "
                f"{found.tokens_per_step:.2f} tokens a step ({law:.2f} by the formula), "
                f"{gain:.2f} times as fast by bytes read, "
                f"{plain.seconds / found.seconds:.2f} times by this machine's clock"
            )
            parts.append(Part(says, gain >= says_ratio))
            figures.append(f"{name} {gain:.2f} times")
    method = (
        f"The story model, greedy, {tokens} tokens, {guesses} guesses a step; reading a guess of the small model costs "
        f"{cost:.2f} of the large one's step; faster from {says_ratio:g} times on"
    )
    return Finding(tuple(parts), "; ".join(figures), method)


def s9(sure: float) -> Finding:
    """A distilled model of a quarter of the parameters, against the original quantized to no more bytes."""
    student = next(row for row in distilled.rows() if row.name.startswith("distilled"))
    files = [row for row in distilled.rows() if row.name.startswith("original") and row.nbytes <= student.nbytes]
    best = min(files, key=lambda row: row.kl)
    margin = sure * (best.kl_stderr**2 + student.kl_stderr**2) ** 0.5
    original, mb = distilled.rows()[0], 1e6
    parts = (
        Part(f"it is smaller: {student.nbytes / mb:.1f} of {original.nbytes / mb:.1f} MB",
             student.nbytes < original.nbytes),
        Part(f"and as good: KL divergence {student.kl:.3f} ± {student.kl_stderr:.3f} nats, while {best.name} has "
             f"{best.kl:.3f} in {best.nbytes / mb:.1f} MB", student.kl < best.kl + margin, essential=True),
    )  # fmt: skip
    figure = f"{student.nbytes / mb:.1f} MB at KL {student.kl:.2f} distilled, "
    figure += f"{best.nbytes / mb:.1f} MB at {best.kl:.2f} quantized"
    return Finding(parts, figure, f"{distilled.provenance()}; both against the original on the bundled stories")


@lru_cache(maxsize=4)
def _remembered(fmt: str) -> Quality:
    return measure(TorchLogits(story_model().loaded.model, cache=rounded_cache(fmt)), baseline())


def s11(kv_bits: Sequence[float], model: str, fmt: str, gpu: str) -> Finding:
    """Bytes, tokens that fit, and what it costs in quality, beside what the weights' own 4 bits cost."""
    large, small = kv_bits
    nbytes = [kv_bytes_per_token(model, bits) for bits in (large, small)]
    held = [max_tokens(model, fmt, gpu, kv_bits=bits, utilization=VLLM_UTILIZATION) for bits in (large, small)]
    cache, blocks, weights = _remembered("fp8_e4m3"), _remembered("q8_0"), of_stories("int4_g128")
    parts = (
        Part(f"bytes a token: {nbytes[0]:,} -> {nbytes[1]:,}", near(nbytes[0] / nbytes[1], 2, 0.01), essential=True),
        Part(f"tokens that fit on {gpu_named(gpu).label} beside {model} in {fmt}: {held[0]:,} -> {held[1]:,}",
             held[1] > held[0]),
        Part(f"quality: KL divergence {cache.kl_mean:.4f} nats with an FP8 cache, {weights.kl_mean:.4f} with int4_g128 "
             "weights", cache.kl_mean < weights.kl_mean),
        Part(f"FP8 is the nearest that 8 bits come: llama.cpp's q8_0 cache costs {blocks.kl_mean:.5f} nats",
             cache.kl_mean <= blocks.kl_mean),
    )  # fmt: skip
    figure = f"{nbytes[0] / nbytes[1]:.1f} times fewer bytes, {held[1]:,} tokens for {held[0]:,}, "
    figure += f"KL {cache.kl_mean:.4f} nats"
    method = "Arithmetic of the cache; the story model on 12 stories, keys and values rounded as they are stored"
    return Finding(parts, figure, method)


def s12(engines: Sequence[str]) -> Finding:
    """Which of them is run by this course, which is a command to copy, and which is no longer kept."""
    rows: list[Any] = [OTHERS[name] for name in engines]
    parts = tuple(Part(f"{row.name} {row.version}: {row.status} ({row.source})", row.maintained) for row in rows)
    ran = ", ".join(row.name for row in rows if row.run_here)
    others = ", ".join(row.name for row in rows if not row.run_here and row.maintained)
    figure = f"run: {ran}; a command to copy: {others}; archived: {', '.join(r.name for r in rows if not r.maintained)}"
    return Finding(parts, figure, f"Their packages and documentation on {CHECKED}; commands in quantlab.serve.others")
