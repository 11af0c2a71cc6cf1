"""quantlab itself, run like the references beside it."""

from __future__ import annotations

import argparse
import ast

from common import Clock, arguments, finish, samples


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", default="awq")
    parser.add_argument("--one-shot", action="store_true", help="calibrate on the original model, as AutoAWQ does")
    parser.add_argument("--options", type=ast.literal_eval, default={}, help="of the method, as a Python dict")


def main() -> None:
    args, clock = arguments(_options), Clock()
    import torch

    import quantlab
    from quantlab.formats.catalog import get
    from quantlab.models.calibration import Calibration

    fmt = get(f"int{args.bits}_g128", group=args.group, symmetric=False)
    tokens = tuple(tuple(row) for row in samples(args.tokens))
    loaded = quantlab.load(str(args.model))
    clock.lap("load")
    calibration = Calibration(tokens, compute=getattr(torch, args.dtype))
    quantlab.quantize(loaded, args.method, fmt, calibration, sequential=not args.one_shot, **args.options)
    clock.lap("quantize")
    finish(clock, args.out, dict(loaded.model.state_dict()))


if __name__ == "__main__":
    main()
