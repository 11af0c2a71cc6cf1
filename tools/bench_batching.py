"""How near does the simulator come to a real server? Calibrate it, predict three loads, measure them, and compare.

    .venv/bin/python tools/bench_batching.py [--model tiny] [--engine vllm] [--json FILE]

The cost of a step is fitted to short closed loops; the loads that are predicted are open loops at rates that were never
measured: a third, two thirds and all of what the server gives out with 16 texts at once, by the fitted cost.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from quantlab.models.load import resolve
from quantlab.serve.batching import Policy, simulate
from quantlab.serve.batching.calibrate import WHOLE, calibrate, requests_of
from quantlab.serve.load import Load, loadtest
from quantlab.serve.load.prompts import made
from quantlab.serve.load.report import Percentiles
from quantlab.serve.server import Server

PROMPT, OUTPUT, REQUESTS, SLOTS = 64, 32, 96, 16


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--engine", default="vllm")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(resolve(chosen.model).folder)
    with Server(chosen.model, engine=chosen.engine, context=256) as server:
        cost = calibrate(server.url, server.key, tokenizer)
        step = cost.seconds(SLOTS * PROMPT // OUTPUT, SLOTS, SLOTS * (PROMPT + OUTPUT // 2))
        most = SLOTS / (OUTPUT * step)  # answers a second with all slots busy
        rows = [compare(server, tokenizer, cost, share * most) for share in (1 / 3, 2 / 3, 1)]
    found = {"model": chosen.model, "engine": chosen.engine, "cost": vars(cost), "rows": rows}
    print(f"cost of a step: {cost}")
    for row in rows:
        print(f"{row['rate']:.2f} requests/s: " + ", ".join(
            f"{name} predicted {row[name][0]:.4g} measured {row[name][1]:.4g} ({row[name][0] / row[name][1] - 1:+.0%})"
            for name in ("tokens_per_s", "ttft", "tpot", "e2e")
        ))  # fmt: skip
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def compare(server: Server, tokenizer: Any, cost: Any, rate: float) -> dict[str, Any]:
    """Means of one load, predicted and measured."""
    load = Load(REQUESTS, rate=rate, seed=1)
    predicted = simulate(requests_of(load, PROMPT, OUTPUT), cost, Policy("chunked", slots=256))
    asked = made(tokenizer, REQUESTS, PROMPT)
    report = loadtest(server.url, server.key, asked, load, max_tokens=OUTPUT, options=WHOLE)
    gaps = [gap for one in predicted.served for gap in one.gaps]
    return {
        "rate": rate, "errors": report.errors, "machine": report.machine,
        "tokens_per_s": (predicted.tokens_per_s, report.tokens_per_s),
        "ttft": (Percentiles.of(one.ttft for one in predicted.served).mean, report.ttft.mean),
        "tpot": (Percentiles.of(gaps).mean, report.tpot.mean),
        "e2e": (Percentiles.of(one.e2e for one in predicted.served).mean, report.e2e.mean),
    }  # fmt: skip


if __name__ == "__main__":
    main()
