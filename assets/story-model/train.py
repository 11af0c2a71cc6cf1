"""Train the bundled story model from scratch: tokenizer, weights, card.

    python train.py --data DIR --run RUN                 train (run it again to go on after an interruption)
    python train.py --data DIR --run RUN --export .      write the checkpoint, the curve and the card's figures

Optimiser: Muon (Jordan et al. 2024) for the matrices of the layers, AdamW for the embedding and the norms.
Schedule: warm-up, constant, then linearly to zero ("WSD", Hu et al. 2024), so that a run can be lengthened or shortened
until its decay begins. In the decay, new text (magazine stories) takes the place of text that was read several times.
Every batch is a function of (seed, step) alone, so a resumed run sees what an unbroken one would have seen.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from export import export
from llama import Llama, Shape
from text import Document, read_all, telling_words
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm import tqdm

BEGIN, END, USER, ASSISTANT = SPECIAL = ("<|begin|>", "<|end|>", "<|user|>", "<|assistant|>")  # ids 0 to 3
COPIES = {"tiny": 3, "fairy": 1}  # how often the tokenizer reads each source


@dataclass(frozen=True)
class Plan:
    """Everything that decides the run."""

    steps: int
    seed: int = 1234
    batch: int = 12
    muon_lr: float = 0.015
    adam_lr: float = 0.003
    weight_decay: float = 0.1
    warmup: int = 60
    decay_steps: int = 500
    mixture: tuple[tuple[str, float, float], ...] = (  # source, share before the decay, share in it
        ("tiny", 0.40, 0.40),
        ("fairy", 0.30, 0.15),
        ("classics", 0.30, 0.10),
        ("pulp", 0.00, 0.35),
    )

    def rate(self, step: int) -> float:
        """Learning-rate factor in [0, 1]."""
        left = (self.steps - step) / self.decay_steps
        return min(1.0, (step + 1) / self.warmup, max(left, 0.0))

    def shares(self, step: int) -> list[float]:
        """Share of each source at this step."""
        decaying = step >= self.steps - self.decay_steps
        return [during if decaying else before for _, before, during in self.mixture]


def train_tokenizer(documents: list[Document], vocab: int) -> Tokenizer:
    """Byte-level BPE behind GPT-2's pre-tokenizer, made for simple stories and fairy tales."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [d.text for d in documents for _ in range(COPIES.get(d.source, 0))]
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def as_prompted(document: Document, words: list[str]) -> str:
    """The document as an answer in the chat template."""
    subject = f"the story of {document.title}" if document.title else f"a story with the words {', '.join(words)}"
    return f"{USER}Tell me {subject}.{ASSISTANT}{document.text}"


class Stream:
    """The documents of one source end to end, and where each begins."""

    def __init__(self, tokenizer: Tokenizer, documents: list[Document], prompted_share: float) -> None:
        rng = random.Random(0)
        pairs = zip(documents, telling_words(documents), strict=True)
        texts = [as_prompted(d, w) if rng.random() < prompted_share else d.text for d, w in pairs]
        rows = [[0, *e.ids, 1] for e in tokenizer.encode_batch(texts)]
        self.tokens = torch.tensor([t for row in rows for t in row])
        self.starts = np.cumsum([0] + [len(row) for row in rows[:-1]])

    def window(self, rng: np.random.Generator, length: int) -> Tensor:
        """`length` tokens, half of the time from the beginning of a document."""
        last = len(self.tokens) - length
        at = int(rng.choice(self.starts)) if rng.random() < 0.5 else int(rng.integers(last))
        return self.tokens[min(at, last) :][:length]


def batch_at(plan: Plan, streams: dict[str, Stream], step: int, context: int) -> Tensor:
    """Tokens (B, T + 1) of one step."""
    rng = np.random.default_rng([plan.seed, step])
    names = [name for name, _, _ in plan.mixture]
    shares = np.array(plan.shares(step))
    picked = rng.choice(names, size=plan.batch, p=shares / shares.sum())
    return torch.stack([streams[name].window(rng, context + 1) for name in picked])


def orthogonalise(gradient: Tensor) -> Tensor:
    """Nearest semi-orthogonal matrix, by five Newton-Schulz steps in bf16 (Muon's polynomial)."""
    x = gradient.bfloat16()
    if tall := x.shape[0] > x.shape[1]:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, with decoupled weight decay."""

    def __init__(self, parameters: list[Tensor], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for w in group["params"]:
                state = self.state[w]
                velocity = state.setdefault("momentum", torch.zeros_like(w))
                velocity.lerp_(w.grad, 1 - group["momentum"])
                update = orthogonalise(w.grad.lerp(velocity, group["momentum"]))
                w.mul_(1 - group["lr"] * group["weight_decay"])
                w.add_(update, alpha=-group["lr"] * max(1.0, w.shape[0] / w.shape[1]) ** 0.5)


def optimisers(model: Llama, plan: Plan) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        Muon(matrices, plan.muon_lr, plan.weight_decay),
        torch.optim.AdamW(others, plan.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


@torch.no_grad()
def held_out_loss(model: torch.nn.Module, streams: dict[str, Stream], context: int) -> dict[str, float]:
    """Mean cross-entropy (nats a token) on the first 16 windows of each held-out source."""
    losses, windows = {}, 16
    for name, stream in streams.items():
        count = min(windows, (len(stream.tokens) - 1) // context)
        rows = torch.stack([stream.tokens[i * context :][: context + 1] for i in range(count)])
        with torch.autocast("cpu", torch.bfloat16):
            losses[name] = model(rows[:, :-1], rows[:, 1:]).item()
    return losses


def save(path: Path, state: dict[str, object]) -> None:
    """Write a checkpoint whole or not at all."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def train(plan: Plan, shape: Shape, data: Path, run: Path) -> None:
    train_documents, held_out_documents = read_all(data)
    tokenizer = train_tokenizer(train_documents, shape.vocab)
    run.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(run / "tokenizer.json"))

    def streams_of(documents: list[Document], prompted: float) -> dict[str, Stream]:
        by_source = {name: [d for d in documents if d.source == name] for name, _, _ in plan.mixture}
        return {name: Stream(tokenizer, docs, prompted) for name, docs in by_source.items()}

    streams, held_out = streams_of(train_documents, 0.25), streams_of(held_out_documents, 0.0)
    for name, stream in streams.items():
        kept = len(held_out[name].tokens)
        print(f"{name}: {len(stream.starts)} documents, {len(stream.tokens):,} tokens; held out {kept:,}")

    torch.manual_seed(plan.seed)
    model = Llama(shape)
    opts = optimisers(model, plan)
    log: list[dict[str, float]] = []
    first, seconds_before, checkpoint = 0, 0.0, run / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for opt, saved in zip(opts, state["optimisers"], strict=True):
            opt.load_state_dict(saved)
        first, log, seconds_before = state["step"], state["log"], state["seconds"]
        print(f"going on from step {first}")
    base_rates = (plan.muon_lr, plan.adam_lr)
    compiled = torch.compile(model)
    started = time.monotonic()
    bar = tqdm(range(first, plan.steps), initial=first, total=plan.steps, unit="step", mininterval=10)
    running = log[-1]["train"] if log else float(np.log(shape.vocab))
    for step in bar:
        rows = batch_at(plan, streams, step, shape.context)
        with torch.autocast("cpu", torch.bfloat16):
            loss = compiled(rows[:, :-1], rows[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt, base in zip(opts, base_rates, strict=True):
            opt.param_groups[0]["lr"] = base * plan.rate(step)
            opt.step()
            opt.zero_grad(set_to_none=True)
        running = 0.95 * running + 0.05 * loss.item()
        done = step + 1
        if done % 100 == 0 or done == plan.steps:
            val = held_out_loss(model, held_out, shape.context)
            seconds = seconds_before + time.monotonic() - started
            tokens = done * plan.batch * shape.context
            log.append({"step": done, "tokens": tokens, "seconds": round(seconds), "train": running, **val})
            bar.set_postfix(train=f"{running:.3f}", **{k: f"{v:.3f}" for k, v in val.items()})
            state = {"step": done, "log": log, "seconds": seconds}
            state |= {"model": model.state_dict(), "optimisers": [o.state_dict() for o in opts]}
            save(checkpoint, state)
            (run / "log.json").write_text(json.dumps(log, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the three source files")
    parser.add_argument("--run", type=Path, required=True, help="folder for checkpoints; resumes what it holds")
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--export", type=Path, help="write the finished run to this folder and stop")
    args = parser.parse_args()
    plan, shape = Plan(steps=args.steps), Shape()
    if args.export:
        export(args.run, args.export, asdict(plan), shape)
    else:
        train(plan, shape, args.data, args.run)


if __name__ == "__main__":
    main()
