"""From the original to what is deployed: the loss on held-out answers at every stage, all in the same arithmetic.

    original                 before anything was learned
    original in NF4          what training started from
    trained                  NF4 with its adapters: what training ended with
    merged                   in the original's 16-bit weights: the checkpoint
    merged into NF4          rounded a second time instead
    merged, then ...         the checkpoint in the format that is served

Each is dequantized and run by the same PyTorch code in float32, so that all the difference is the weights'. Losses are
nats a token of the answers, with errors clustered by answer. Two stages are compared answer by answer: their
`difference` is far surer than their error bars suggest, since an answer that is hard for one is hard for the other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quantlab.evaluate.logits import Source, TorchLogits, one_thread
from quantlab.evaluate.statistics import clustered_stderr
from quantlab.finetune.examples import Encoded, Example, Examples, encode, read_examples
from quantlab.finetune.merge import NF4, merged_weights
from quantlab.finetune.qlora import Tuned
from quantlab.methods import catalog as methods
from quantlab.models.calibration import Calibration
from quantlab.models.load import LoadedModel, load
from quantlab.models.quantize import quantize
from quantlab.models.walk import linear_layers

if TYPE_CHECKING:
    from rich.table import Table

Progress = Callable[[str, float], None]
SERVED = (("awq", "awq_int4_g128"), ("rtn", "nf4_dq"))  # at equal bits: 4.16 and 4.13 a weight


@dataclass(frozen=True)
class Loss:
    """Surprise at each token of the held-out answers [N], in nats, and the answer that each belongs to [N]."""

    nll: Tensor
    answer: Tensor

    @property
    def mean(self) -> float:
        """Nats a token."""
        return self.nll.mean().item()

    @property
    def stderr(self) -> float:
        """Of the mean, with answers as the independent samples."""
        return clustered_stderr(self.nll, self.answer)


def difference(a: Loss, b: Loss) -> tuple[float, float]:
    """How much higher the loss a is than b, and its standard error, paired token by token."""
    if a.nll.shape != b.nll.shape:
        raise ValueError(f"losses of {len(a.nll)} and {len(b.nll)} tokens are not of the same answers")
    return (a.nll - b.nll).mean().item(), clustered_stderr(a.nll - b.nll, a.answer)


def loss_of(source: Source, examples: Sequence[Encoded]) -> Loss:
    """The loss of a model on the answers of these examples; any source of logits will do, llama.cpp's too."""
    found = []
    with one_thread():
        for one, logits in zip(examples, source([example.tokens for example in examples]), strict=True):
            log_p = logits[one.start - 1 : -1].double().log_softmax(-1)  # [t, vocab], each row predicts the next token
            found.append(-log_p.gather(1, torch.tensor(one.tokens[one.start :])[:, None])[:, 0])
    answer = torch.cat([torch.full((len(nll),), number) for number, nll in enumerate(found)])
    return Loss(torch.cat(found), answer)


@dataclass(frozen=True)
class Stage:
    """The model at one point of its way; bits: of the weights of its linear layers, stored as they are here."""

    name: str
    bits: float
    loss: Loss


@dataclass(frozen=True)
class Stages:
    """Every stage of one fine-tuned model, in order."""

    model: str
    stages: tuple[Stage, ...]

    def __getitem__(self, name: str) -> Stage:
        """The stage of this name."""
        return {stage.name: stage for stage in self.stages}[name]

    def to_dict(self) -> dict[str, Any]:
        """Plain values only; `more` is how much higher the loss is than that of the merged checkpoint."""
        rows = []
        for stage in self.stages:
            more, stderr = difference(stage.loss, self["merged"].loss)
            rows.append(
                {"stage": stage.name, "bits": stage.bits, "loss": stage.loss.mean, "loss_stderr": stage.loss.stderr,
                 "more": more, "more_stderr": stderr}
            )  # fmt: skip
        return {"model": self.model, "stages": rows}

    def to_json(self) -> str:
        """The same as JSON text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    def table(self) -> Table:
        """For the terminal or a notebook."""
        from rich.table import Table

        table = Table(title=f"{self.model}: loss on held-out answers", title_justify="left", box=None, pad_edge=False)
        table.add_column("stage")
        for head in ("bits/weight", "loss, nats a token", "perplexity", "more than merged"):
            table.add_column(head, justify="right")
        for row in self.to_dict()["stages"]:
            more = "-" if row["stage"] == "merged" else f"{row['more']:+.4f} ± {row['more_stderr']:.4f}"
            loss = f"{row['loss']:.4f} ± {row['loss_stderr']:.4f}"
            table.add_row(row["stage"], f"{row['bits']:.2f}", loss, f"{math.exp(row['loss']):.2f}", more)
        return table


def measure_stages(
    tuned: Tuned,
    merged: Path,
    examples: Examples | None = None,
    served: Sequence[tuple[str, str]] = SERVED,
    progress: Progress = lambda what, share: None,
) -> Stages:
    """The loss at every stage, on the held-out part of the examples.

    merged: the folder that `save_merged` wrote. served: (method, format) pairs, names of the catalogs; the methods are
    calibrated on the training part of the examples, in the chat template: what the model will be asked.
    """
    examples = examples or read_examples()
    original, checkpoint = load(tuned.source), load(str(merged))
    held = _encoded(original, examples.held_out)
    steps = [*_before(tuned, original), *_merged(tuned, original, checkpoint)]
    found = []
    for number, (name, bits, source) in enumerate(steps):
        progress(name, number / (len(steps) + len(served)))
        found.append(Stage(name, bits, loss_of(source, held)))
    seen = Calibration(tuple(one.tokens for one in _encoded(original, examples.train)), at_least=1)
    for number, (method, fmt) in enumerate(served, len(steps)):
        progress(f"merged, then {method}", number / (len(steps) + len(served)))
        done = quantize(checkpoint, method, fmt, seen if methods.get(method).needs_stats else None)
        try:
            found.append(
                Stage(
                    f"merged, then {method} in {fmt}",
                    done.bits_per_weight,
                    loss_of(TorchLogits(done.loaded.model), held),
                )
            )
        finally:
            done.undo()
    progress("done", 1.0)
    return Stages(tuned.source.name, tuple(found))


def _encoded(loaded: LoadedModel, examples: Sequence[Example]) -> list[Encoded]:
    context = loaded.config.get_text_config().max_position_embeddings
    return [encode(loaded.tokenizer, example, context) for example in examples]


def _before(tuned: Tuned, original: LoadedModel) -> Iterator[tuple[str, float, Source]]:
    """Name, bits a weight and logits of the stages up to the end of training."""
    stored = {f"{name}.weight": NF4.quantize(layer.weight.detach()) for name, layer in linear_layers(original.model)}
    weights = sum(Q.shape[0] * Q.shape[1] for Q in stored.values())
    bits = 8 * sum(Q.nbytes for Q in stored.values()) / weights
    rested = {name: Q.dequantize() for name, Q in stored.items()}
    yield "original", 16.0, TorchLogits(original.model)
    yield "original in NF4", bits, TorchLogits(original.model, rested)
    resting = bits if tuned.settings.base == NF4.name else 16.0
    trained = merged_weights(tuned, original.model, "exact")
    yield "trained", resting + 16 * tuned.trained / weights, TorchLogits(original.model, trained)


def _merged(tuned: Tuned, original: LoadedModel, checkpoint: LoadedModel) -> Iterator[tuple[str, float, Source]]:
    again = merged_weights(tuned, original.model, "nf4")
    weights = sum(layer.weight.numel() for _, layer in linear_layers(original.model))
    nbytes = sum(NF4.layout.matrix_bytes(*W.shape) for W in again.values())
    yield "merged", 16.0, TorchLogits(checkpoint.model)
    yield "merged into NF4", 8 * nbytes / weights, TorchLogits(original.model, again)
