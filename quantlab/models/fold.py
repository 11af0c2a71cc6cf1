"""Fold a scale into a model so that its function stays the same: s into the weights, 1/s into what makes the input.

    y = W x = (W diag(s)) (diag(s)^-1 x)                  AWQ, eq. 4; SmoothQuant, eq. 3

The readers' columns are multiplied by s [k]. The maker divides, channel by channel:

    norm          weight / s                              (and its bias)
    Gemma's norm  (1 + weight) / s - 1                    transformers keeps Gemma's weights minus one
    v, up         the rows of the weight / s              (and the bias); in a fused matrix they are the last rows

Several query heads may read one value head (grouped-query attention): a value channel can be divided only once, so
their scales must be equal. `tied` makes them so.

In floating point the product rounds twice instead of once: logits differ by rounding (tests/unit/test_fold.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantlab.models.families import Input, Made


@dataclass(frozen=True)
class Folded:
    """What a fold changed: every parameter as it was before."""

    before: tuple[tuple[Tensor, Tensor], ...]

    def undo(self) -> None:
        """Put back what was there, bit for bit."""
        with torch.no_grad():
            for parameter, values in self.before:
                parameter.copy_(values)


def foldable(shared: Input) -> bool:
    """Whether something before this input can absorb a scale."""
    return shared.maker is not None


def tied(shared: Input, scale: Tensor) -> Tensor:
    """The scale [k] with one value for all channels that come from the same row of the maker (geometric mean).

    Unchanged unless query heads share value heads.
    """
    if shared.sharing == 1:
        return scale
    heads = scale.reshape(-1, shared.sharing, shared.head)  # [value heads, query heads of each, channels]
    return heads.log().mean(1, keepdim=True).exp().expand_as(heads).reshape(-1).contiguous()


def fold(shared: Input, scale: Tensor) -> Folded:
    """Multiply the readers' columns by scale [k] and divide the maker's channels by it; the function stays the same.

    Raises ValueError for a scale of another shape, not positive or not finite; where nothing can absorb it; and where
    query heads that share a value head are given different scales. Then the model is as it was.
    """
    rows = maker_scale(shared, scale)
    assert shared.maker is not None
    readers = [layer.weight for layer in shared.layers.values()]
    made = list(shared.maker.parameters(recurse=False))
    before = tuple((parameter, parameter.detach().clone()) for parameter in (*readers, *made))
    with torch.no_grad():
        for weight in readers:
            weight.mul_(scale.to(weight.dtype))
        for parameter in made:
            _divide(parameter[-len(rows) :], rows.to(parameter.dtype), shared.made)
    return Folded(before)


def maker_scale(shared: Input, scale: Tensor) -> Tensor:
    """What the maker's last rows are divided by [rows] when its readers are multiplied by scale [k]."""
    _check(shared, scale)
    if shared.sharing == 1:
        return scale
    heads = scale.reshape(-1, shared.sharing, shared.head)
    if not (heads == heads[:, :1]).all():
        raise ValueError(
            f"{shared.sharing} query heads share each value head before {shared.name}, so their channels need equal "
            "scales; make them so with `tied`"
        )
    return heads[:, 0].reshape(-1)


def _check(shared: Input, scale: Tensor) -> None:
    if shared.maker is None:
        raise ValueError(
            f"nothing before {shared.name} can absorb a scale: its input is not linear in any layer's output; leave "
            "this layer unscaled"
        )
    if scale.shape != (shared.width,):
        raise ValueError(f"{shared.name} needs a scale of shape [{shared.width}], got {list(scale.shape)}")
    if not (torch.isfinite(scale).all() and (scale > 0).all()):
        raise ValueError(f"scales must be finite and above zero, those for {shared.name} are not; clamp them first")


def _divide(values: Tensor, rows: Tensor, made: Made | None) -> None:
    """In place: values [rows] or [rows, k]."""
    by = rows if values.ndim == 1 else rows[:, None]
    if made is Made.NORM_PLUS_ONE:
        values.add_(1).div_(by).sub_(1)
    else:
        values.div_(by)
