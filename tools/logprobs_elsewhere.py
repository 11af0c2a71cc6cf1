"""What vLLM or transformers predict from checkpoints, in the environment where they live: one process for all.

    PYTHON logprobs_elsewhere.py vllm|transformers
    stdin     one JSON object: {"folders": [...], "tokens": [[...], ...], "prompt": [...], "server": vllm_server.py}
    stdout    one JSON line a folder: {"folder", "seconds", "versions", "logprobs", "answer"}, or with an "error"

logprobs: for each sequence of token ids, the log-probability of each but the first. answer: 16 tokens, the most likely
each time, after `prompt`. vLLM's lines have "stand_in" as well: whether quantlab.serve.vllm_server lets 4-bit weights
be unpacked, where vLLM has no kernel for them.

`ask` is for those on the other side. All else runs where there may be no quantlab: the standard library and the engine.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

SERVER = Path(__file__).resolve().parent.parent / "quantlab/serve/vllm_server.py"
PACKAGES = ("vllm", "transformers", "torch", "compressed-tensors", "bitsandbytes", "gptqmodel")
QUIET = {
    "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "GPTQMODEL_CPU_WORKERS": str(os.cpu_count() or 1),
}  # fmt: skip
ANSWER = 16  # tokens
LIMIT = 300  # seconds for one checkpoint: a kernel may spin for ever

Order = dict[str, Any]
Engine = Callable[[str, Order], dict[str, Any]]


def ask(
    engine: str, python: Path, folders: Sequence[Path], tokens: Sequence[Sequence[int]], prompt: Sequence[int],
    log: Path,
) -> dict[Path, dict[str, Any]]:  # fmt: skip
    """What an engine in the environment of `python` says of each folder; what it prints besides goes to `log`."""
    found: dict[Path, dict[str, Any]] = {}
    apart = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with log.open("w", encoding="utf-8") as chatter:
        while left := [folder for folder in folders if folder not in found]:
            order = {"folders": list(map(str, left)), "tokens": tokens, "prompt": prompt, "server": str(SERVER)}
            done = subprocess.run(
                [python, "-P", __file__, engine], input=json.dumps(order), stdout=subprocess.PIPE, stderr=chatter,
                env=apart, text=True, check=False,
            )  # fmt: skip
            found |= {Path(line["folder"]): line for line in map(json.loads, done.stdout.splitlines())}
            if died := [folder for folder in left if folder not in found]:
                ended = f"the process ended, code {done.returncode}; see {log.name}"
                late = f"no answer in {LIMIT} s"
                found[died[0]] = {"error": late if done.returncode == -signal.SIGALRM else ended, "versions": {}}
    return found


def with_vllm(folder: str, order: Order) -> dict[str, Any]:
    """Load one checkpoint into vLLM, score the tokens, continue the prompt."""
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    tokens, prompt = order["tokens"], order["prompt"]
    llm = None
    try:
        llm = LLM(
            folder, dtype="bfloat16", enforce_eager=True, max_model_len=max(map(len, [*tokens, prompt])) + 2 * ANSWER,
            enable_prefix_caching=False, distributed_executor_backend="uni", max_num_seqs=8,
        )  # fmt: skip
        inputs = [{"prompt_token_ids": ids} for ids in tokens]
        scored = llm.generate(inputs, SamplingParams(max_tokens=1, prompt_logprobs=0), use_tqdm=False)
        greedy = SamplingParams(max_tokens=ANSWER, temperature=0.0, ignore_eos=True)
        answer = llm.generate([{"prompt_token_ids": prompt}], greedy, use_tqdm=False)[0].outputs[0]
        rows = [
            [float(row[token].logprob) for row, token in zip(one.prompt_logprobs[1:], ids[1:], strict=True)]
            for one, ids in zip(scored, tokens, strict=True)
        ]
        return {"logprobs": rows, "answer": list(answer.token_ids)}
    finally:
        del llm
        cleanup_dist_env_and_memory()


def with_transformers(folder: str, order: Order) -> dict[str, Any]:
    """Load one checkpoint with `from_pretrained` on the CPU, score the tokens, continue the prompt."""
    import torch
    from transformers import AutoModelForCausalLM

    settings = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")).get("quantization_config", {})
    unpack = {}
    if settings.get("quant_method") == "compressed-tensors":
        from transformers import CompressedTensorsConfig

        unpack["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, device_map="cpu", local_files_only=True, **unpack
    ).eval()
    rows = []
    with torch.inference_mode():
        for ids in order["tokens"]:
            predicted = model(torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)
            rows.append(predicted.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist())
        prompt = torch.tensor([order["prompt"]])
        answer = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=ANSWER, min_new_tokens=ANSWER,
            do_sample=False,
        )  # fmt: skip
    return {"logprobs": rows, "answer": answer[0, prompt.shape[1] :].tolist()}


ENGINES: dict[str, Engine] = {"vllm": with_vllm, "transformers": with_transformers}


def main() -> None:
    """Answer one order."""
    engine, order = sys.argv[1], json.load(sys.stdin)
    channel = os.dup(1)
    os.dup2(2, 1)  # what the engine prints
    os.environ.update(QUIET)
    facts: dict[str, Any] = {"versions": _versions()}
    if engine == "vllm":
        facts["stand_in"] = runpy.run_path(order["server"])["stand_in"]()
    for folder in order["folders"]:
        began = time.perf_counter()
        signal.alarm(LIMIT)  # ends this process, whatever it is at; `ask` goes on with the next
        try:
            found = ENGINES[engine](folder, order)
        except Exception as error:  # whatever a library raises at what it cannot load is the finding
            found = {"error": f"{type(error).__name__}: {error}"}
        gc.collect()
        line = {"folder": folder, "seconds": time.perf_counter() - began, **facts, **found}
        os.write(channel, json.dumps(line).encode() + b"\n")


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
