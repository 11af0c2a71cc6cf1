"""Does our load generator say what `vllm bench serve` says? The same server, the same load, in turns.

    .venv/bin/python tools/bench_load.py [--turns 3] [--json FILE]

One server of vLLM with the bundled model; each turn runs both clients, the order changing from turn to turn, with the
same prompts (theirs reads them as a ShareGPT file), at most so many at once, each answer as long as was asked for. The
server computes on the first core and both clients run on the last: on a small machine a client that works more would
slow the server down, and two honest clients would then measure two servers. Medians over the turns are compared.
`vllm bench serve` belongs to the serve environment (`quantlab env create serve`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from statistics import median

from transformers import AutoTokenizer

from quantlab.models.bundled import tiny_folder
from quantlab.serve.batching.calibrate import WHOLE
from quantlab.serve.engines import vllm_python
from quantlab.serve.load import Load, Report, loadtest
from quantlab.serve.load.prompts import made
from quantlab.serve.load.report import passport
from quantlab.serve.server import Server

PROMPT, OUTPUT, REQUESTS, AT_ONCE = 64, 32, 64, 8
FIGURES = ("requests_per_s", "tokens_per_s", "ttft_ms", "tpot_ms", "itl_ms", "ttft_p99_ms")


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder())
    turns: list[dict[str, dict[str, float]]] = []
    asked = made(tokenizer, REQUESTS, PROMPT)
    with Server(str(tiny_folder()), engine="vllm", context=256, threads=1) as server:
        on_the_last_core()
        clients = {"ours": lambda: ours(server, asked), "vllm bench serve": lambda: theirs(server, asked)}
        for client in clients.values():
            client()  # warms the server's caches, not counted
        for turn in range(chosen.turns):
            order = list(clients) if turn % 2 == 0 else list(reversed(clients))
            turns.append({name: clients[name]() for name in order})
    rows = {name: {key: median(turn[name][key] for turn in turns) for key in FIGURES} for name in clients}
    for key in FIGURES:
        a, b = rows["ours"][key], rows["vllm bench serve"][key]
        print(f"{key:16} ours {a:9.2f}   vllm bench serve {b:9.2f}   {a / b - 1:+.1%}")
    if chosen.json:
        found = {"where": passport(), "prompt": PROMPT, "output": OUTPUT, "requests": REQUESTS, "at_once": AT_ONCE,
                 "turns": turns, "medians": rows}  # fmt: skip
        chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def on_the_last_core() -> None:
    """This process and those that it starts from now on; the server runs already."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def ours(server: Server, asked: list[str]) -> dict[str, float]:
    """Means in milliseconds, as theirs are."""
    found: Report = loadtest(
        server.url, server.key, asked, Load(REQUESTS, concurrency=AT_ONCE), max_tokens=OUTPUT, options=WHOLE
    )
    assert not found.errors, found.errors
    times = {"ttft_ms": found.ttft.mean, "tpot_ms": found.tpot.mean, "itl_ms": found.itl.mean,
             "ttft_p99_ms": found.ttft.p99}  # fmt: skip
    milliseconds = {name: 1000 * value for name, value in times.items() if value is not None}
    return {"requests_per_s": found.requests_per_s, "tokens_per_s": found.tokens_per_s, **milliseconds}


def theirs(server: Server, asked: list[str]) -> dict[str, float]:
    """The same figures from vLLM's own client; the key goes through its environment."""
    python = vllm_python()
    assert python, "the server runs, so vLLM is there"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "asked.json"
        turns = [[{"from": "human", "value": prompt}, {"from": "gpt", "value": prompt}] for prompt in asked]
        file.write_text(json.dumps([{"conversations": turn} for turn in turns]), encoding="utf-8")
        words = [
            str(python), "-m", "vllm.entrypoints.cli.main", "bench", "serve", "--backend", "openai",
            "--base-url", server.url.removesuffix("/v1"), "--model", str(tiny_folder()),
            "--served-model-name", server.client.models()[0], "--dataset-name", "sharegpt",
            "--dataset-path", str(file), "--sharegpt-output-len", str(OUTPUT), "--ignore-eos", "--disable-shuffle",
            "--num-prompts", str(REQUESTS), "--max-concurrency", str(AT_ONCE), "--temperature", "0",
            "--save-result", "--result-dir", folder, "--result-filename", "r.json", "--disable-tqdm",
        ]  # fmt: skip
        done = subprocess.run(
            words,
            env={**os.environ, "OPENAI_API_KEY": server.key, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"vllm bench serve failed: {done.stderr.strip().splitlines()[-1]}")
        found = json.loads((Path(folder) / "r.json").read_text(encoding="utf-8"))
    assert found["completed"] == REQUESTS, found
    return {
        "requests_per_s": found["request_throughput"], "tokens_per_s": found["output_throughput"],
        "ttft_ms": found["mean_ttft_ms"], "tpot_ms": found["mean_tpot_ms"], "itl_ms": found["mean_itl_ms"],
        "ttft_p99_ms": found["p99_ttft_ms"],
    }  # fmt: skip


if __name__ == "__main__":
    main()
