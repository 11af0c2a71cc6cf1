"""AWQ: multiply the columns that matter, divide their inputs, and rounding hurts them less.

    y = W x = (W diag(s)) (diag(s)^-1 x)                                          equation 4: nothing has changed
    y_hat   = Q(W diag(s)) (diag(s)^-1 x)                                         but the rounding error of column j
                                                                                  is now divided by s_j
A column that is scaled up takes a larger share of its group's levels, and its neighbours pay: so s grows with the size
of the inputs, s = mean|x|^a, and a is found by trying (equation 5: 20 values from 0, which changes nothing, to 0.95).
All layers that read an input share its scale, since whatever makes the input can be divided only once.

**No forward pass.** Whatever is tried is judged by the error of the layers' outputs, and for that X itself is not
needed: with E = W_hat - W, and H = X'X collected once,

    ||X E'||^2 = tr E H E'

The outputs of one input are of very different sizes: keys, values and gates, and the channels of each. In that sum the
largest outputs would choose the scale. So each output's error counts **relative** to the output:

    sum over rows of  ||X e'||^2 / ||X w'||^2

On SmolLM2 that lowers the KL divergence of 4 bits by 4%, and by 9% with `duo` (docs/log.md); relative=False sums the
errors as they are.

Second, **clipping**: a group's largest weight sets its scale. Shrinking the range by a few percent moves that weight
and serves the others; for each group the best of ten ranges is taken, judged by the group's own part of H.

`duo` tries AutoAWQ's other family as well, s = mean|x|^a / w^(1-a), where w is the mean size of a column's weights
relative to their groups' largest. "auto" takes the better of both for each input.

Source: Lin et al. 2023, "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", arXiv
2306.00978; AutoAWQ 0.2.9 (`AwqQuantizer._compute_best_scale`, `_compute_best_clip`) for the families of scales, their
normalization, and the ranges. Where results differ: AutoAWQ judges a scale by the output of the whole attention or MLP
module, by forward passes; here it is judged by the outputs of the layers themselves, each relative to its size; with
relative=False no scale of AutoAWQ has a smaller output error (tests/reference/test_awq_scales.py). It clips by 512 of
the tokens, here all count; it never clips layers whose name holds q_ or k_, here there are no names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from quantlab.core import Format, LayerStats, Params, QuantizedTensor, check_weights, output_errors
from quantlab.methods.gptq import UniformGrid, uniform_grid

SMALLEST = 1e-4  # of a scale, before normalization (AutoAWQ)
FAMILIES = {"no": (False,), "yes": (True,), "auto": (False, True)}


def awq_scale(
    Ws: Sequence[Tensor], stats: LayerStats, fmt: Format, *, steps: int = 20, duo: str = "auto", relative: bool = True
) -> Tensor:
    """The scale [k] for layers [n_i, k] that share an input: the candidate with the smallest output error in `fmt`.

    Multiply the weights' columns by it, and divide the inputs. duo: "no", "yes" or "auto". relative: the error of each
    output counts relative to its size. The choice is never worse than no scale at all: that is one of the candidates.
    Raises ValueError for statistics of another layer.

    >>> g = torch.Generator().manual_seed(0)
    >>> W, X = torch.randn(16, 128, generator=g), torch.randn(256, 128, generator=g)
    >>> X[:, 3] *= 50
    >>> stats = LayerStats(256, X.T @ X, X.abs().mean(0), X.abs().amax(0))
    >>> from quantlab.formats.catalog import get
    >>> s = awq_scale([W], stats, get("int3_g128"))
    >>> int(s.argmax())
    3
    """
    check_shared(Ws, stats)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}; the paper takes 20")
    W = torch.cat([W.float() for W in Ws])  # [n, k], n of all layers together
    H = stats.H.float()
    counts = 1 / output_sizes(W, H) if relative else torch.ones(len(W))
    best, smallest = torch.ones(W.shape[1]), float("inf")
    for scale in candidates(W, stats, fmt, steps, duo):
        loss = float(scaled_errors(W, H, fmt, scale) @ counts)
        if loss < smallest:
            best, smallest = scale, loss
    return best


def candidates(W: Tensor, stats: LayerStats, fmt: Format, steps: int = 20, duo: str = "auto") -> Iterator[Tensor]:
    """Scales [k] to try, no scale first: mean|x|^a, and mean|x|^a / w^(1-a), for a = 0, 1/steps, 2/steps, ..."""
    if duo not in FAMILIES:
        raise ValueError(f"duo must be one of {', '.join(FAMILIES)}, got {duo!r}")
    yield torch.ones(W.shape[1])
    x = stats.x_absmean.float()
    w = relative_size(W, fmt)
    for divided in FAMILIES[duo]:
        for step in range(0 if divided else 1, steps):
            a = step / steps
            scale = x.pow(a) / (w.pow(1 - a) + SMALLEST) if divided else x.pow(a)
            yield normalized(scale.clamp(min=SMALLEST))


def normalized(scale: Tensor) -> Tensor:
    """The same scale [k] with its largest and smallest entry equally far from 1: max * min = 1.

    >>> normalized(torch.tensor([1.0, 2.0, 16.0]))
    tensor([0.2500, 0.5000, 4.0000])
    """
    return scale / (scale.max() * scale.min()).sqrt()


def relative_size(W: Tensor, fmt: Format) -> Tensor:
    """Mean size of each column's weights [k], relative to the largest weight of their group."""
    groups = W.abs().reshape(len(W), -1, _group(W, fmt))
    return (groups / (groups.amax(-1, keepdim=True) + 1e-6)).flatten(1).mean(0)


def scaled_error(W: Tensor, H: Tensor, fmt: Format, scale: Tensor) -> float:
    """tr E H E', E = Q(W s) / s - W: the squared output error of rounding W [n, k] after scaling by s [k]."""
    return float(scaled_errors(W, H, fmt, scale).sum())


def scaled_errors(W: Tensor, H: Tensor, fmt: Format, scale: Tensor) -> Tensor:
    """The same for each output [n]."""
    return output_errors(rounded(W * scale, fmt) / scale - W, H)


def output_sizes(W: Tensor, H: Tensor) -> Tensor:
    """||X w'||^2 of each row of W [n, k] -> [n]; one that is (almost) always zero counts as a millionth of the mean."""
    sizes = output_errors(W, H)
    return sizes.clamp(min=max(1e-6 * float(sizes.mean()), torch.finfo(sizes.dtype).tiny))


def rounded(W: Tensor, fmt: Format) -> Tensor:
    """W_hat [n, k] of rounding to nearest, without packing."""
    p = fmt.grid.fit(W)
    return fmt.grid.decode(fmt.grid.encode(W, p), p)


def awq(W: Tensor, stats: LayerStats | None, fmt: Format, *, clip: bool = True) -> QuantizedTensor:
    """W [n, k], scaled already, in `fmt`: each group in its best range, then rounded to nearest.

    `stats` are of the scaled inputs. Raises ValueError for a format without groups of evenly spaced levels (clip=False
    rounds to any), or statistics of another layer.
    """
    if stats is None:
        raise ValueError("awq needs the statistics of the layer's input; calibrate first, or take the method 'rtn'")
    check_shared([W], stats)
    if not clip:
        return fmt.quantize(W)
    p = clipped(W.float(), stats.H, uniform_grid(fmt))
    return fmt.store(fmt.grid.encode(W.float(), p), p)


def clipped(W: Tensor, H: Tensor, grid: UniformGrid, *, steps: int = 20, most: float = 0.5) -> Params:
    """Scale and zero [n, k/g] of each group, fitted to the best of the ranges 1, 1 - 1/steps, ... above 1 - most.

    Each group is judged on its own: the error of its part of the output, e G e' with G its block of H.
    """
    g = grid.group or W.shape[1]
    G = diagonal_blocks(H.float(), g)  # [k/g, g, g]
    top = W.abs().reshape(len(W), -1, g).amax(-1, keepdim=True)  # [n, k/g, 1]
    best: Params = {}
    smallest = torch.full(top.shape[:2], torch.inf)
    for step in range(int(steps * most)):
        limit = (top * (1 - step / steps)).expand(-1, -1, g).flatten(1)
        narrow = W.clamp(-limit, limit)
        p = grid.fit(narrow)
        loss = group_errors(W - grid.decode(grid.encode(narrow, p), p), G)
        better = loss < smallest
        smallest = torch.where(better, loss, smallest)
        best = {name: torch.where(better, part, best.get(name, part)) for name, part in p.items()}
    return best


def diagonal_blocks(H: Tensor, g: int) -> Tensor:
    """H [k, k] -> its blocks [k/g, g, g] along the diagonal.

    >>> diagonal_blocks(torch.arange(16.0).reshape(4, 4), 2)[1]
    tensor([[10., 11.],
            [14., 15.]])
    """
    groups = len(H) // g
    return H.reshape(groups, g, groups, g).diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()


def group_errors(E: Tensor, G: Tensor) -> Tensor:
    """e G e' of each group: E [n, k] and blocks G [k/g, g, g] -> [n, k/g]."""
    e = E.reshape(len(E), len(G), -1).transpose(0, 1)  # [k/g, n, g]
    return ((e @ G) * e).sum(-1).T


def check_shared(Ws: Sequence[Tensor], stats: LayerStats) -> None:
    """Raise ValueError unless these weights can read the input of these statistics."""
    for W in Ws:
        check_weights(W)
        stats.check(W)


def _group(W: Tensor, fmt: Format) -> int:
    """Columns that share a scale."""
    return getattr(fmt.grid, "group", None) or (W.shape[1] if fmt.layout.flat else fmt.layout.block)
