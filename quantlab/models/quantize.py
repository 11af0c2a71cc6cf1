"""Quantize a model: walk its blocks, let a method choose the codes of each layer, put the rounded weights in place.

    for each block, in the order in which it runs                             (quantlab.models.calibration)
        its inputs' statistics                    X'X of what the blocks before it send, quantized already
        a scale for each input, folded in         methods that have one        (quantlab.models.fold)
        codes for all layers that share an input  the method, in the format
        W <- W_hat                                and what that cost           (quantlab.models.quantized)

The model computes with W_hat in float32 afterwards, so that everything that measures a model measures this one; the
bytes that would be stored are in the result, and `undo` brings the original back. Embeddings and output head are kept
unless told otherwise, as the production libraries keep them.

>>> import quantlab
>>> done = quantlab.quantize("tiny", "gptq", "int4_g128")                                       # doctest: +SKIP
>>> done.bits_per_weight, done.mean("output_error")                                             # doctest: +SKIP
(4.1254..., 0.0045...)
>>> _ = done.undo()                                                                             # doctest: +SKIP
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantlab import __version__
from quantlab.core import Format, LayerStats, QuantizedTensor, output_errors
from quantlab.errors import QuantlabError
from quantlab.methods.catalog import Method
from quantlab.models.activations import round_inputs
from quantlab.models.calibration import BlockStats, Calibration, Progress, stream
from quantlab.models.families import BY_TYPE, Block, Input, Made, blocks
from quantlab.models.fold import fold, foldable, maker_scale, tied
from quantlab.models.load import LoadedModel, load
from quantlab.models.peak import PeakMemory
from quantlab.models.quantized import Journal, LayerReport, Quantized, layer_report
from quantlab.models.request import KEEP, Request, check, outer
from quantlab.models.resume import BlockResult, Store, fingerprint
from quantlab.models.samples import windows
from quantlab.models.walk import linear_layers


def quantize(
    model: str | LoadedModel,
    method: str | Method = "rtn",
    fmt: str | Format = "int4_g128",
    calibration: Calibration | None = None,
    *,
    keep: Sequence[str] = KEEP,
    sequential: bool = True,
    activations: str | None = None,
    progress: Progress | None = None,
    resume: Path | None = None,
    **options: Any,
) -> Quantized:
    """Quantize the linear layers of a model in place, and report what each of them lost.

    model: a name for `quantlab.load`, or a model loaded already. method, fmt: names of quantlab.methods.catalog and
    quantlab.formats.catalog; `options` go to whichever of the two knows them, the format first. calibration: needed by
    some methods (the bundled stories unless given); with it the output errors are reported. keep: layers that stay, by
    full name, by its end ("down_proj", "lm_head") or by a pattern ("model.layers.0.*"). sequential: calibrate each
    block on what the quantized blocks before it send. activations: "int8" also rounds the inputs of the quantized
    layers, token by token. resume: a folder that keeps each block's result, so that interrupted work goes on there.

    An error or an interrupt leaves the model as it was. Raises ValueError (UsageError, QuantlabError) for unknown names
    and options, shapes that the format cannot divide, and unsuitable calibration texts.
    """
    loaded = load(model) if isinstance(model, str) else model
    asked = check(loaded, method, fmt, calibration, tuple(keep), sequential, activations, options)
    cut = windows(loaded, asked.calibration) if asked.calibration else []
    journal, began = Journal(), time.perf_counter()
    with PeakMemory() as peak:
        try:
            store = _store(asked, cut, options, resume) if resume is not None else None
            results = [
                *_inside(asked, journal, store, progress or (lambda what, share: None)),
                _outside(asked, journal),
            ]
        except BaseException:  # Ctrl-C as well: a model half quantized is of no use to anybody
            journal.undo()
            raise
    return Quantized(
        loaded, asked.method.name, asked.fmt.name, options,
        tensors=(tensors := {name: stored for one in results for name, stored in one.tensors.items()}),
        scales={name: scale for one in results for name, scale in one.scales.items()},
        layers=tuple(report for one in results for report in one.reports), nbytes=_nbytes(loaded.model, tensors),
        windows=len(cut), tokens=sum(map(len, cut)), seconds=time.perf_counter() - began, peak_bytes=peak.nbytes,
        journal=journal,
    )  # fmt: skip


def _store(asked: Request, cut: list[tuple[int, ...]], options: dict[str, Any], folder: Path) -> Store:
    fmt = re.sub(r" at 0x[0-9a-f]+", "", repr(asked.fmt))  # the same in every process
    settings = {
        "quantlab": __version__, "method": asked.method.name, "format": fmt, "options": options,
        "keep": asked.keep, "sequential": asked.sequential, "activations": asked.activations,
        "compute": asked.calibration and asked.calibration.compute,
    }  # fmt: skip
    return Store(folder, fingerprint(asked.loaded.model, cut, settings))


def _inside(asked: Request, journal: Journal, store: Store | None, report: Progress) -> list[BlockResult]:
    """Quantize the layers inside the blocks, or take the results that an earlier run kept."""
    found = _plain(asked.loaded.model) if asked.calibration is None else blocks(asked.loaded.model)
    kept = {b.index: store.load(b.index, asked.fmt) for b in found if store is not None and store.has(b.index)}
    made: dict[int, BlockResult] = {}

    def restored(block: Block) -> bool:
        if block.index in kept and asked.sequential:
            _put_back(asked, block, kept[block.index], journal)
        return block.index in kept

    for part in _statistics(asked, found, restored, report):
        made[part.block.index] = _quantize_block(asked, part, journal)
        if store is not None:
            store.save(part.block.index, made[part.block.index])
        del part  # so that the statistics of one block are in memory
    if not asked.sequential:  # only now: the blocks after them were to see the original model
        for block in (block for block in found if block.index in kept):
            _put_back(asked, block, kept[block.index], journal)
    return [(kept | made)[block.index] for block in found]


def _plain(model: Any) -> tuple[Block, ...]:
    """The blocks of a model of a known family; of any other one block with all its linear layers."""
    if getattr(getattr(model, "config", None), "model_type", "") in BY_TYPE:
        return blocks(model)
    inputs = tuple(Input({name: layer}, "", None, None) for name, layer in linear_layers(model))
    return (Block(0, "the whole model", model, inputs),)


def _statistics(
    asked: Request, found: tuple[Block, ...], restored: Callable[[Block], bool], report: Progress
) -> Iterator[BlockStats]:
    """Each block that is not done yet, with the statistics of its inputs if there is a calibration."""
    if asked.calibration is not None:
        paired = asked.sequential and asked.method.paired
        yield from stream(asked.loaded, asked.calibration, sequential=asked.sequential, paired=paired,
                          ahead=asked.method.scale is not None, progress=report, restored=restored)  # fmt: skip
        return
    for block in found:
        report(block.name, block.index / len(found))
        if not restored(block):
            yield BlockStats(block, {})


def _quantize_block(asked: Request, part: BlockStats, journal: Journal) -> BlockResult:
    """Fold scales, choose codes, put W_hat in place, report."""
    block = part.block
    journal.save(block.module.parameters())
    columns: dict[str, Tensor] = {}  # what folding multiplied: the columns of an input's readers,
    rows: dict[str, Tensor] = {}  # and divided: the last rows of its maker
    for shared in block.inputs:
        if part.stats and (scale := _scale(asked, shared, part.stats[shared.name])) is not None:
            fold(shared, scale)
            columns[shared.name], rows[shared.maker_name] = scale, maker_scale(shared, scale)
    tensors: dict[str, QuantizedTensor] = {}
    reports: list[LayerReport] = []
    for shared in block.inputs:
        names = [name for name in shared.layers if not asked.keeps(name)]
        scale = columns.get(shared.name)
        now = _now(part, shared, scale) if names else None
        seen = now if scale is None else part.stats[shared.name]
        began = time.perf_counter()
        chosen = _choose(asked, shared, names, now)
        seconds = (time.perf_counter() - began) / max(1, len(names))
        for name, stored in chosen.items():
            weight = shared.layers[name].weight
            W_hat = _replace(weight, stored)
            whole = _unfolded(W_hat, scale, rows.get(name))
            reports.append(layer_report(name, journal.before(weight), whole, stored, seen, seconds))
        _round_inputs(asked, (shared.layers[name] for name in names), journal)
        tensors |= chosen
    return BlockResult(tensors, columns, _beside(block, tensors), tuple(reports))


def _now(part: BlockStats, shared: Input, scale: Tensor | None) -> LayerStats | None:
    """The statistics of an input after its scale was folded in and, sequentially, the layers before it changed."""
    if part.step is None:
        seen = part.stats.get(shared.name)
        return seen.scaled(scale) if seen and scale is not None else seen
    new = part.step(shared)  # X is divided by the scale already, X0 is not
    return new if scale is None or new.C is None else replace(new, C=new.C / scale[:, None])


def _scale(asked: Request, shared: Input, stats: LayerStats) -> Tensor | None:
    """What the method multiplies the channels of this input by [k]; None where nothing is scaled.

    Where query heads share a value head, the search sees them as one, and the scale is taken only if it helps.
    """
    Ws = [layer.weight for name, layer in shared.layers.items() if not asked.keeps(name)]
    norm = shared.made in (Made.NORM, Made.NORM_PLUS_ONE)
    if asked.method.scale is None or not Ws or not foldable(shared) or (asked.method.norms_only and not norm):
        return None
    as_one = stats
    if shared.sharing > 1:
        as_one = replace(stats, x_absmean=tied(shared, stats.x_absmean), x_absmax=tied(shared, stats.x_absmax))
    with _about(shared.name):
        scale: Tensor = asked.bind(asked.method.scale)(Ws, as_one, asked.fmt)
    if shared.sharing == 1:
        return scale
    scale = tied(shared, scale)
    losses = [_rounding_loss(Ws, stats, asked.fmt, candidate) for candidate in (scale, torch.ones_like(scale))]
    return scale if losses[0] < losses[1] else None


def _rounding_loss(Ws: Sequence[Tensor], stats: LayerStats, fmt: Format, scale: Tensor) -> float:
    """tr(E H E') of rounding to nearest after scaling."""
    errors = [fmt.quantize(W * scale).dequantize().to(W) / scale - W for W in Ws]
    return sum(output_errors(E, stats.H.to(E)).sum().item() for E in errors)


def _choose(
    asked: Request, shared: Input, names: Sequence[str], stats: LayerStats | None
) -> dict[str, QuantizedTensor]:
    """Codes for the layers of these names, all of which read this input."""
    Ws = [shared.layers[name].weight.detach() for name in names]
    if asked.method.together is not None and len(names) > 1:
        with _about(shared.name):
            return dict(zip(names, asked.bind(asked.method.together)(Ws, stats, asked.fmt), strict=True))
    found = {}
    for name, W in zip(names, Ws, strict=True):
        with _about(name):
            found[name] = asked.bind(asked.method.quantize)(W, stats, asked.fmt)
    return found


@contextmanager
def _about(name: str) -> Iterator[None]:
    """Put the layer's name before what a method or a format refuses."""
    try:
        yield
    except ValueError as error:
        raise QuantlabError(f"{name}: {error}") from error


def _replace(weight: Tensor, stored: QuantizedTensor) -> Tensor:
    """Put what is stored in place of a weight; returns it."""
    W_hat = stored.dequantize().to(weight)
    with torch.no_grad():
        weight.copy_(W_hat)
    return W_hat


def _unfolded(W_hat: Tensor, columns: Tensor | None, rows: Tensor | None) -> Tensor:
    """W_hat [n, k] on the scale of the original weights."""
    whole = W_hat if columns is None else W_hat / columns
    if rows is not None:
        whole = torch.cat([whole[: -len(rows)], whole[-len(rows) :] * rows[:, None]])
    return whole


def _beside(block: Block, tensors: Mapping[str, QuantizedTensor]) -> dict[str, Tensor]:
    """The parameters of a block that are not quantized weights: norms, biases, layers that are kept."""
    quantized = {id(layer.weight) for name, layer in block.layers.items() if name in tensors}
    return {name: p.detach() for name, p in block.module.named_parameters() if id(p) not in quantized}


def _round_inputs(asked: Request, layers: Iterable[nn.Linear], journal: Journal) -> None:
    if asked.activations is not None:
        for layer in layers:
            journal.hook(round_inputs(layer, asked.activations))


def _put_back(asked: Request, block: Block, result: BlockResult, journal: Journal) -> None:
    """Put an earlier run's result in place."""
    parameters = dict(block.module.named_parameters())
    journal.save(parameters.values())
    with torch.no_grad():
        for name, values in result.parameters.items():
            parameters[name].copy_(values)
    for name, stored in result.tensors.items():
        _replace(block.layers[name].weight, stored)
    _round_inputs(asked, (block.layers[name] for name in result.tensors), journal)


def _outside(asked: Request, journal: Journal) -> BlockResult:
    """Embedding and output head, if they are to be quantized: rounded to nearest, whatever the method.

    An embedding multiplies no input, and the head has no statistics; llama.cpp's files are made so too.
    """
    tensors: dict[str, QuantizedTensor] = {}
    reports: list[LayerReport] = []
    ends = {name: module.weight for name, module in outer(asked.loaded.model).items() if not asked.keeps(name)}
    for name, weight in {id(weight): (name, weight) for name, weight in ends.items()}.values():  # a tied table once
        began = time.perf_counter()
        journal.save([weight])
        tensors[name] = asked.fmt.quantize(weight.detach())
        W_hat, seconds = _replace(weight, tensors[name]), time.perf_counter() - began
        reports.append(layer_report(name, journal.before(weight), W_hat, tensors[name], None, seconds))
    return BlockResult(tensors, {}, {}, tuple(reports))


def _nbytes(model: nn.Module, tensors: Mapping[str, QuantizedTensor]) -> int:
    """Bytes of the whole model: what is stored, and everything else in bfloat16; a tied table counts once."""
    quantized = {id(model.get_submodule(name).weight): stored.nbytes for name, stored in tensors.items()}
    return sum(quantized.get(id(p), 2 * p.numel()) for p in model.parameters())
