"""Swapped nibbles along a row: do the columns of a matrix fit the other matrices of its block?

Most packings put neighbours of one row into a byte: columns 2i and 2i + 1. Exchange them, and the layer holds the same
numbers, in the same groups, with the same scales. Only its columns no longer belong to its inputs. And what its inputs
are, other matrices know, whose *rows* no such exchange moves:

    down        inputs are the neurons of up and gate           rows of up and gate, one for each neuron
    o           inputs are the values of the heads              rows of v
    q k v       inputs are the channels of the residual stream  columns of the embedding; rows of o and down, which
    gate up                                                     write into it

Take the cosines between all pairs of columns of `down`, and between all pairs of rows of `up`: in a trained network
neurons that read alike write alike, and the two tables agree (r = 0.04 to 0.4). For columns in another order r is a few
thousandths. With 512 columns there are 130,000 pairs: z = r * sqrt(pairs), squared and summed over what a matrix is
compared with. Cosines know nothing of the length of a column, so scales that AWQ or SmoothQuant folded into a model do
not disturb them. For `down` the lengths themselves speak, too: neurons that are read loudly write loudly.

Random weights have no such order, and nothing can be told. The idea that a reader and a writer of the residual stream
share directions is Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (composition scores).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from quantlab.checkpoints.verify.orders import Evidence, Score, evidence, orders, reordered

ROLES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_READERS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")  # of the residual stream
_WRITERS = ("o_proj", "down_proj")
_CHANNELS = 512  # of an input that are compared
_CHUNK = 256  # of them are neighbours
_SHORT = 32  # stretches for which all orders are weighed at once
ROWS = 2048  # weights of each channel that are looked at


@dataclass(frozen=True)
class Table:
    """Cosines of channels [m, m], which of them count, and their lengths [m]."""

    cosines: Tensor
    counts: Tensor
    lengths: Tensor


def sampled(width: int) -> Tensor:
    """Which channels are compared: all of them, or two stretches of neighbours."""
    if width <= _CHANNELS:
        return torch.arange(width)
    middle = width // _CHUNK // 2 * _CHUNK
    return torch.cat([torch.arange(_CHUNK), torch.arange(middle, middle + _CHUNK)])


def table(channels: Tensor, heads: Tensor | None = None) -> Table:
    """channels [m, samples], one in a row; heads [m]: only channels of the same head are compared."""
    step = max(1, channels.shape[1] // ROWS)
    channels = channels[:, ::step].float()
    lengths = channels.norm(dim=1)
    unit = channels / lengths.clamp(min=1e-12)[:, None]
    counts = ~torch.eye(len(channels), dtype=torch.bool)
    if heads is not None:
        counts &= heads[:, None] == heads[None]
    return Table(unit @ unit.T, counts, lengths)


class Block:
    """The matrices of one decoder block, seen one at a time. heads: query and value heads, where they are known."""

    def __init__(self, embedding: Table | None, heads: tuple[int, int] | None) -> None:
        self.embedding, self.heads = embedding, heads
        self.columns: dict[str, Table] = {}
        self.rows: dict[str, Table] = {}
        self.lengths: dict[str, int] = {}
        self.names: dict[str, str] = {}

    def see(self, role: str, name: str, W: Tensor, length: int | None) -> None:
        """Note what a matrix knows. length: of the stretch its packing shuffles; None where it shuffles none."""
        n, k = W.shape
        own = sampled(k)
        of = self._head_of(k)
        if length is not None and len(own) >= length:
            self.lengths[role], self.names[role] = length, name
            self.columns[role] = table(W[:, own].T, of[own] if role == "o_proj" and of is not None else None)
        if role in ("up_proj", "gate_proj", *_WRITERS):
            self.rows[role] = table(W[sampled(n)])
        elif role == "v_proj" and self.heads is not None:
            self._values(W)

    def _values(self, W: Tensor) -> None:
        """Rows of v in the order in which o reads them: each value head as often as query heads share it."""
        assert self.heads is not None
        queries, values = self.heads
        if len(W) % values or queries % values:
            return
        size = len(W) // values
        inputs = sampled(queries * size)
        head = inputs // size
        self.rows["v_proj"] = table(W[head // (queries // values) * size + inputs % size], head)

    def _head_of(self, k: int) -> Tensor | None:
        if self.heads is None or k % self.heads[0]:
            return None
        return torch.arange(k) // (k // self.heads[0])

    def judge(self) -> Iterator[tuple[str, Evidence]]:
        """For each matrix in codes what the others say of the order of its columns; nothing where none knows."""
        for role, columns in self.columns.items():
            squares: dict[str, float] = defaultdict(float)
            for score in self._scores(role, columns):
                for name, order in orders(self.lengths[role]).items():
                    squares[name] += score(order) ** 2
            if squares:
                yield self.names[role], evidence(squares)

    def _scores(self, role: str, columns: Table) -> Iterator[Score]:
        """z of an order, by each table that knows the inputs of a matrix."""
        if role in _READERS:
            others = [self.embedding, *(self.rows.get(writer) for writer in _WRITERS)]
        elif role == "o_proj":
            others = [self.rows.get("v_proj")]
        else:
            others = [self.rows.get("up_proj"), self.rows.get("gate_proj")]
        for known in others:
            if known is not None and known.cosines.shape == columns.cosines.shape:
                yield _agreement(columns, known, self.lengths[role])
        up = self.rows.get("up_proj")
        if role == "down_proj" and up is not None and len(up.lengths) == len(columns.lengths):
            yield _loudness(columns.lengths, up.lengths, self.lengths[role])


def _agreement(columns: Table, known: Table, length: int) -> Score:
    """z of the agreement of two tables of cosines, for an order of the first one's channels."""
    counts = columns.counts & known.counts
    ours, theirs = (_counted(one.cosines, counts) for one in (columns, known))
    root = math.sqrt(float(counts.sum()) / 2)
    if length > _SHORT:
        return lambda order: root * float((reordered(reordered(ours, order).T, order).T * theirs).sum())
    # what position a has in common with c is needed for all pairs anyway: then an order is only a sum over them
    together = _by_position(ours, length) @ _by_position(theirs, length).T  # [(a, c), (a', c')]
    pairs = together.reshape(length, length, length, length)
    i = torch.arange(length)
    return lambda order: root * float(pairs[order[:, None], order[None], i[:, None], i[None]].sum())


def _by_position(cosines: Tensor, length: int) -> Tensor:
    """[m, m] -> [length * length, stretches * stretches]: all pairs of channels by their places in their stretches."""
    whole = len(cosines) // length * length
    apart = cosines[:whole, :whole].reshape(whole // length, length, whole // length, length)
    return apart.permute(1, 3, 0, 2).reshape(length * length, -1)


def _counted(cosines: Tensor, counts: Tensor) -> Tensor:
    """The cosines that count with mean 0 and length 1, the others 0."""
    weight = counts.float()
    rest = (cosines - (cosines * weight).sum() / weight.sum().clamp(min=1)) * weight
    scaled: Tensor = rest / rest.norm().clamp(min=1e-12)
    return scaled


def _loudness(columns: Tensor, rows: Tensor, length: int) -> Score:
    """z of the agreement of lengths within each stretch, which is all that an order can change."""

    def within(lengths: Tensor) -> Tensor:
        whole = lengths[: len(lengths) // length * length].clamp(min=1e-12).log().reshape(-1, length)
        return _standard((whole - whole.mean(1, keepdim=True)).flatten())

    theirs = within(rows)
    free = len(theirs) * (1 - 1 / length)

    def z(order: Tensor) -> float:
        return float(within(reordered(columns, order)) @ theirs) * math.sqrt(free)

    return z


def _standard(values: Tensor) -> Tensor:
    """Mean 0 and length 1."""
    values = values - values.mean()
    scaled: Tensor = values / values.norm().clamp(min=1e-12)
    return scaled


def heads_of(config: Mapping[str, object]) -> tuple[int, int] | None:
    """Query heads and value heads; None where config.json does not say."""
    queries = config.get("num_attention_heads")
    values = config.get("num_key_value_heads") or queries
    if type(queries) is int and type(values) is int and 0 < values <= queries < 2**16:
        return queries, values
    return None
