"""Record on a GPU what the course replays without one: assets/recorded/*.json, each with device, versions and commit.

    python tools/record_gpu.py kernel OUT                 the Triton kernel against the memory's roofline
    python tools/record_gpu.py naive FOLDER OUT           transformers: one text at a time, and static batches
    python tools/record_gpu.py serve OUT FORMAT=FOLDER... vLLM through quantlab: memory, speed by batch, load tests
    python tools/record_gpu.py join FILE SERVE NAIVE KERNEL --note NOTE     the three as the one file that is kept

FOLDER is a checkpoint of tools/random_checkpoint.py. OUT.json is written as soon as there is something to write.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

from quantlab import atomic

MODEL = os.environ.get("RECORD_MODEL", "llama-3.1-8b")
PROMPT, OUTPUT = 128, 128
BATCHES, RUNS = (1, 8, 32, 128, 256), 3  # the first run of a batch warms up
AGAINST, RATES = (32, 128), (8.0, 32.0)  # requests at once, and a second
WHOLE = {"ignore_eos": True}  # every answer has all its tokens


def where() -> dict[str, Any]:
    """Device, driver, versions, date, commit."""
    ask = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    card = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip() if _has(ask[0]) else "no GPU"
    found = {}
    for name in ("torch", "transformers", "triton", "vllm", "compressed-tensors", "bitsandbytes"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"device": card, "versions": found, "date": time.strftime("%Y-%m-%d"), "model": MODEL,
            "commit": os.environ.get("RECORD_COMMIT", "")}  # fmt: skip


def _has(program: str) -> bool:
    from shutil import which

    return which(program) is not None


class Out:
    """A JSON file that grows."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path.with_suffix(".json"), {"where": where()}

    def add(self, **facts: Any) -> None:
        """Write more."""
        self.found |= facts
        self.path.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(facts), flush=True)


# block_n, block_g, num_warps of our kernel
BLOCKS = ((8, 16, 4), (4, 32, 4), (2, 32, 2), (16, 8, 4), (8, 32, 4), (4, 32, 2), (16, 16, 4), (4, 16, 2), (8, 16, 8),
          (2, 32, 1), (8, 32, 8), (4, 16, 1), (1, 32, 1))  # fmt: skip


def kernel(out: Out) -> None:
    """Microseconds of matrices of an 8B model, by our kernel and by torch in fp16, beside the bandwidth of a copy."""
    import torch
    from triton.testing import do_bench

    from quantlab.kernels.w4a16 import matmul

    one, two = (torch.empty(2**30, dtype=torch.uint8, device="cuda") for _ in range(2))
    copy_ms = do_bench(lambda: one.copy_(two), return_mode="median")
    read_ms = do_bench(lambda: two.view(torch.int32).amax(), return_mode="median")
    out.add(copy_gb_per_s=2 * 2**30 / copy_ms / 1e6, read_gb_per_s=2**30 / read_ms / 1e6)

    def inputs(n: int, k: int, batch: int) -> tuple[Any, Any, Any]:
        packed = torch.randint(-(2**31), 2**31, (n, k // 8), dtype=torch.int32, device="cuda")
        scale = torch.rand(n, k // 128, device="cuda").half() / 100
        return torch.randn(batch, k, device="cuda", dtype=torch.float16), packed, scale

    sweep = {}
    for n, k in ((28672, 4096), (4096, 14336), (57344, 8192)):
        given = inputs(n, k, 1)
        for blocks in BLOCKS:
            ms = do_bench(lambda: matmul(*given, *blocks), return_mode="median")  # noqa: B023
            sweep[f"{n}x{k} {blocks}"] = sum(part.nbytes for part in given) / ms / 1e6
        out.add(sweep_gb_per_s=sweep)
    rows = []
    for n, k in ((4096, 4096), (6144, 4096), (28672, 4096), (4096, 14336), (57344, 8192)):
        W = torch.randn(n, k, device="cuda", dtype=torch.float16)
        for batch in (1, 8, 32, 128):
            given = x, packed, scale = inputs(n, k, batch)
            best, ours = min(((blocks, do_bench(lambda: matmul(*given, *blocks), return_mode="median"))  # noqa: B023
                              for blocks in BLOCKS[:: 1 if batch == 1 else 5]), key=lambda pair: pair[1])  # fmt: skip
            plain = do_bench(lambda: torch.nn.functional.linear(x, W), return_mode="median")  # noqa: B023
            nbytes = packed.nbytes + scale.nbytes + x.nbytes + 2 * batch * n
            rows.append({"n": n, "k": k, "batch": batch, "w4a16_us": 1000 * ours, "fp16_us": 1000 * plain,
                         "blocks": best, "w4a16_gb_per_s": nbytes / ours / 1e6,
                         "fp16_gb_per_s": (W.nbytes + x.nbytes + 2 * batch * n) / plain / 1e6})  # fmt: skip
        out.add(rows=rows)


def naive(folder: Path, out: Out) -> None:
    """transformers' generate on the same checkpoint: tokens a second at static batches, in bf16."""
    import torch
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device)
    rows = []
    for batch, repeats in ((1, 3), (8, 2), (32, 2), (128, 1)):
        ids = torch.randint(10, 4000, (batch, PROMPT), device=device)
        runs = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=OUTPUT,
                           min_new_tokens=OUTPUT, pad_token_id=1)  # fmt: skip
            if device == "cuda":
                torch.cuda.synchronize()
            runs.append(batch * OUTPUT / (time.perf_counter() - began))
        rows.append({"batch": batch, "tokens_per_s": runs[1:]})
        out.add(prompt=PROMPT, output=OUTPUT, rows=rows)


def serve(checkpoints: list[tuple[str, Path]], out: Out, options: dict[str, Any], stagger_s: float) -> None:
    """Serve each checkpoint with vLLM through quantlab: its memory lines, speed by batch; then load tests on the first.

    Starting is mostly imports, so the servers start `stagger_s` one after the other and stay, each with its share of
    the memory; only one is asked at a time.
    """
    from transformers import AutoTokenizer

    from quantlab import Server
    from quantlab.serve.load.prompts import made

    first = checkpoints[0][1]
    needed = len(checkpoints) * 2 * RUNS * sum(BATCHES) + 12 * sum(AGAINST) + int(8 * sum(RATES))
    prompts = iter(made(AutoTokenizer.from_pretrained(first), needed, PROMPT))  # each is sent once: no prefix is cached

    def some(count: int) -> list[str]:
        return list(islice(prompts, count))

    servers = [Server(str(folder), engine="vllm", context=4096, options=options) for _, folder in checkpoints]
    began = time.perf_counter()

    def start(number: int) -> float:
        time.sleep(number * stagger_s)
        servers[number].start()
        return time.perf_counter() - began - number * stagger_s

    with ThreadPoolExecutor(len(servers)) as pool:
        starts = [pool.submit(start, number) for number in range(len(servers))]
        for (fmt, _), server, ready in zip(checkpoints, servers, starts, strict=True):
            try:
                measure(fmt, server, ready.result(), some, out)
            except Exception as error:  # the others are still worth recording
                out.add(**{f"{fmt}_error": str(error)})
            logs = [one.log.read_text(errors="replace")[-200_000:] for one in servers if one.log.exists()]
            out.path.with_suffix(".log").write_text("\n".join(logs))
        try:
            out.add(against_vllm_bench=_against(servers[0], first, some))
            out.add(open_loops=[_open(servers[0], some(int(8 * rate)), rate) for rate in RATES])
        finally:
            for server in servers:
                server.stop()


def measure(fmt: str, server: Any, ready_s: float, some: Any, out: Out) -> None:
    """What one server says of its memory, and tokens a second with so many requests in flight."""
    from quantlab.serve import vllm_log
    from quantlab.serve.load import Load, loadtest

    found: dict[str, Any] = {"ready_s": ready_s, "said": vars(vllm_log.read(server.log)), "gpu_used_mib": _used()}
    rows = found["rows"] = []
    for batch in BATCHES:
        runs = [loadtest(server.url, server.key, some(2 * batch), Load(2 * batch, concurrency=batch),
                         max_tokens=OUTPUT, options=WHOLE, warmup=0) for _ in range(RUNS)][1:]  # fmt: skip
        rows.append({"batch": batch, "tokens_per_s": [one.tokens_per_s for one in runs],
                     "tpot_ms": [1000 * (one.tpot.p50 or 0) for one in runs],
                     "ttft_ms": [1000 * (one.ttft.p50 or 0) for one in runs],
                     "errors": [one.errors for one in runs]})  # fmt: skip
        out.add(**{fmt: found})


def _open(server: Any, asked: list[str], rate: float) -> dict[str, Any]:
    from quantlab.serve.load import Load, loadtest

    found = loadtest(server.url, server.key, asked, Load(int(8 * rate), rate=rate, seed=1), max_tokens=OUTPUT,
                     options=WHOLE)  # fmt: skip
    return {"rate": rate, "sent": found.sent, "errors": found.errors, "tokens_per_s": found.tokens_per_s,
            "ttft": vars(found.ttft), "tpot": vars(found.tpot), "e2e": vars(found.e2e)}  # fmt: skip


def _against(server: Any, folder: Path, some: Any) -> dict[str, Any]:
    """`vllm bench serve` and quantlab on one server and one load, in turn."""
    from quantlab.serve.engines import vllm_python
    from quantlab.serve.load import Load, loadtest

    rows = []
    for at in AGAINST:
        count = 6 * at
        ours = loadtest(server.url, server.key, some(count), Load(count, concurrency=at), max_tokens=OUTPUT,
                        options=WHOLE, warmup=0)  # fmt: skip
        file, asked = Path("/tmp/vllm-bench.json"), Path("/tmp/vllm-bench-prompts.jsonl")
        asked.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in some(count)), encoding="utf-8")
        file.unlink(missing_ok=True)
        command = [str(vllm_python()), "-m", "vllm.entrypoints.cli.main", "bench", "serve", "--backend", "openai",
                   "--base-url", server.url.removesuffix("/v1"), "--model", folder.name, "--tokenizer", str(folder),
                   "--dataset-name", "custom", "--dataset-path", str(asked), "--skip-chat-template",
                   "--custom-output-len", str(OUTPUT),
                   "--num-prompts", str(count), "--max-concurrency", str(at), "--ignore-eos", "--save-result",
                   "--result-dir", "/tmp", "--result-filename", file.name]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120,
                              env=os.environ | {"OPENAI_API_KEY": server.key, "HF_HUB_OFFLINE": "1"})  # fmt: skip
        if not file.exists():
            return {"error": done.stderr[-2000:], "ours": ours.tokens_per_s}
        theirs = json.loads(file.read_text())
        ours_ = {"tokens_per_s": ours.tokens_per_s, "ttft_ms": 1000 * (ours.ttft.mean or 0),
                 "tpot_ms": 1000 * (ours.tpot.mean or 0)}  # fmt: skip
        theirs_ = {"tokens_per_s": theirs["output_throughput"], "ttft_ms": theirs["mean_ttft_ms"],
                   "tpot_ms": theirs["mean_tpot_ms"]}  # fmt: skip
        rows.append({"concurrency": at, "ours": ours_, "vllm": theirs_})
    return {"rows": rows}


def join(file: Path, served: Path, slow: Path, matrices: Path, note: str) -> None:
    """One file of three runs, four digits a figure: what `quantlab.lesson.gpu_run` reads."""
    run, generate, kernels = (json.loads(path.read_text(encoding="utf-8")) for path in (served, slow, matrices))
    kept = {
        "what": "Llama-3.1-8B's shape, random weights (tools/random_checkpoint.py): speed and memory, never quality",
        "where": run["where"],
        "note": note,
        "prompt_tokens": run["prompt"],
        "output_tokens": run["output"],
        "vllm_options": run["options"],
        "vllm": {name: found for name, found in run.items() if isinstance(found, dict) and "said" in found},
        "generate": generate["rows"],
        "kernel": {name: found for name, found in kernels.items() if name != "where"},
    }
    atomic.write_text(file, json.dumps(_short(kept), indent=1) + "\n")


def _short(value: Any) -> Any:
    """Four digits of every number, but of what a log said all."""
    if isinstance(value, dict):
        return {name: one if name == "said" else _short(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_short(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _used() -> int | None:
    """MiB of the card that are taken, by all processes."""
    if not _has("nvidia-smi"):
        return None
    ask = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split()[0])


def main() -> None:
    """Choose and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("kernel").add_argument("out", type=Path)
    slow = what.add_parser("naive")
    served = what.add_parser("serve")
    slow.add_argument("folder", type=Path)
    for sub in (slow, served):
        sub.add_argument("out", type=Path)
    served.add_argument("checkpoints", nargs="+", metavar="FORMAT=FOLDER")
    served.add_argument("--options", type=json.loads, default={})
    served.add_argument("--stagger", type=float, default=120.0)
    joined = what.add_parser("join")
    for name in ("file", "served", "slow", "matrices"):
        joined.add_argument(name, type=Path)
    joined.add_argument("--note", default="")
    chosen = parser.parse_args()
    if chosen.what == "join":
        join(chosen.file, chosen.served, chosen.slow, chosen.matrices, chosen.note)
        return
    out = Out(chosen.out)
    if chosen.what == "kernel":
        kernel(out)
    elif chosen.what == "naive":
        naive(chosen.folder, out)
    else:
        named = [(fmt, Path(folder)) for fmt, folder in (one.split("=") for one in chosen.checkpoints)]
        out.add(prompt=PROMPT, output=OUTPUT, options=chosen.options)
        serve(named, out, chosen.options, chosen.stagger)


if __name__ == "__main__":
    main()
