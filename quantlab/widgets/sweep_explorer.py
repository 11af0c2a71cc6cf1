"""Lesson 3's first explorer: GPTQ's sweep over a real layer, stopped after any number of columns.

Every stop of every setting is computed once, when the explorer is made; a move only looks it up and draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from quantlab.core import LayerStats, check_weights
from quantlab.lesson.lesson2.story import grid_of
from quantlab.methods.gptq import factorize
from quantlab.plots import Picture, Swept, sweep_picture, sweep_words
from quantlab.widgets.explorer import Control, Explorer

BITS = (4, 3, 2)
ORDERS = ("as they come", "loudest input first")
ROWS = 16  # of the matrix that are drawn
STOPS = 16


@dataclass(frozen=True)
class SweepResult:
    """A setting, and the sweep as it is there."""

    bits: int
    order: str
    at: int
    swept: Swept
    example: tuple[float, float, float]  # of the last column done, first row: weight, level, R_jj

    def __eq__(self, other: object) -> bool:
        mine = (self.bits, self.order, self.at)
        return isinstance(other, SweepResult) and mine == (other.bits, other.order, other.at)

    def __hash__(self) -> int:
        return hash((self.bits, self.order, self.at))

    def words(self) -> str:
        """The picture in words."""
        return sweep_words(self.swept)

    def formula(self) -> str:
        """The step that was made last, with its numbers."""
        w, w_hat, r = self.example
        last = (
            f"last step, first row: e = ({w:.5f} - {w_hat:.5f}) / {r:.5f} = {(w - w_hat) / r:+.5f}"
            if self.at
            else "nothing is rounded yet"
        )
        return "\n".join(
            (
                "H = X'X,  H^-1 = R'R with R upper triangular;  for each column j in turn:",
                "w_hat_j = the nearest level of w_j;  e = (w_j - w_hat_j) / R_jj;  W_after -= e R_j,after",
                last,
                "error = root of tr(E H E') / tr(W H W'),  E = weights now - original weights",
                f"      = {self.swept.errors[self.swept.at]:.5f};  "
                f"round to nearest {self.swept.plain_errors[self.swept.at]:.5f}",
            )
        )


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A whole sweep: at each stop the change of the first rows, the errors, and the last step's example."""

    changes: list[Tensor]  # [rows, k] each
    plain: list[Tensor]
    errors: list[float]
    plain_errors: list[float]
    examples: list[tuple[float, float, float]]


def trajectory(W: Tensor, stats: LayerStats, bits: int, order: str, stops: list[int]) -> Trajectory:
    """Sweep W [n, k] with one scale for each group of 128, fixed beforehand, and keep what there is at each stop."""
    grid, k = grid_of(bits, 128 if W.shape[1] % 128 == 0 else None), W.shape[1]
    factor = factorize(stats.H, act_order=order == ORDERS[1])
    H, R, columns = stats.H.float(), factor.R, factor.order.tolist()
    p = grid.fit(W)
    scale, zero = (p[name].repeat_interleave(k // p[name].shape[1], 1) for name in ("scale", "zero"))
    now, plain = W[:, factor.order].clone(), W.clone()
    rounded = grid.decode(grid.encode(W, p), p)
    back, whole = factor.order.argsort(), float(((W @ H) * W).sum())
    kept = Trajectory([], [], [], [], [])
    example = (0.0, 0.0, 1.0)
    for step in range(k + 1):
        if step in stops:
            changes = now[:, back] - W, plain - W
            errors = [max(float(((E @ H) * E).sum()) / whole, 0.0) ** 0.5 for E in changes]
            kept.changes.append(changes[0][:ROWS].clone())
            kept.plain.append(changes[1][:ROWS].clone())
            kept.errors.append(errors[0])
            kept.plain_errors.append(errors[1])
            kept.examples.append(example)
        if step < k:
            at = columns[step]
            w, s, z = now[:, step].clone(), scale[:, at], zero[:, at]
            w_hat = grid.value(grid.snap(w, s, z), s, z)
            example = (float(w[0]), float(w_hat[0]), float(R[step, step]))
            now[:, step:] -= ((w - w_hat) / R[step, step])[:, None] * R[step, step:]
            now[:, step] = w_hat  # and not what is left after taking off the difference
            plain[:, at] = rounded[:, at]
    return kept


def sweep_explorer(
    W: Tensor, stats: LayerStats, bits: int = 3, order: str = "as they come", done: int | None = None
) -> Explorer[SweepResult]:
    """The explorer on a matrix W [n, k] and the statistics of its inputs; it takes a second or two to prepare."""
    check_weights(W)
    stats.check(W)
    weights, k = W.detach().float(), W.shape[1]
    stops = sorted({round(k * at / STOPS) for at in range(STOPS + 1)})
    found = {(b, o): trajectory(weights, stats, b, o, stops) for b in BITS for o in ORDERS}
    top = {b: float(found[b, ORDERS[0]].plain[-1].abs().max()) or 1.0 for b in BITS}
    start = stops[len(stops) // 2] if done is None else done
    controls = (
        Control("done", "Columns", tuple(stops), start, lambda at: f"{at} done", slider=True),
        Control("bits", "Bits", tuple(reversed(BITS)), bits, slider=True),
        Control("order", "Order", ORDERS, order),
    )

    @lru_cache(maxsize=256)
    def model(done: int, bits: int, order: str) -> SweepResult:
        t, at = found[bits, order], stops.index(done)
        label = f"{bits} bits, {order}"
        swept = Swept(
            label, t.changes[at], t.plain[at], top[bits], at, stops, t.errors, t.plain_errors, order == ORDERS[0]
        )  # fmt: skip
        return SweepResult(bits, order, at, swept, t.examples[at])

    return Explorer(controls, model, draw)


def draw(result: SweepResult, ghost: SweepResult | None) -> Picture:
    """The picture of this setting, with the curve before as a dashed line."""
    return sweep_picture(result.swept, ghost.swept if ghost else None)


__all__ = ["Trajectory", "sweep_explorer", "trajectory"]
