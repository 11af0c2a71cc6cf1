"""vLLM's command line for a plan (vLLM 0.33.0, `vllm serve --help`; docs/serving/parallelism_scaling.md).

Never `--quantization`: the checkpoint says what it is. Never `--api-key`: the key is read from VLLM_API_KEY, which
`ps` does not show. vLLM asks for it below /v1 only: /health, /metrics, /version and
/invocations, which generates, answer anyone who reaches the port.
"""

from __future__ import annotations

import shlex

from quantlab.serve.deploy.deployment import KEY, PORT, VLLM, Deployment
from quantlab.serve.deploy.yaml import remark

HEAD = """\
{words}

vLLM {vllm}; the key comes from your shell: export {key}="$(openssl rand -hex 32)"
EXPOSES: port {port}, to this machine only; below /v1 it asks for the key; /metrics and /health answer
anyone here, and so does /invocations, which generates."""
MACHINES = """
Run it on every machine, with NODE_RANK 0 on the first, and HEAD_IP the first one's address in a private network: what
the machines say to each other is not encrypted, and whoever reaches those ports can run code there."""


def settings(one: Deployment) -> dict[str, str | int | float]:
    """vLLM's engine arguments by their Python names; parallel sizes of 1 are its defaults and are left out."""
    found: dict[str, str | int | float] = {}
    if one.split.tensor > 1:
        found["tensor_parallel_size"] = one.split.tensor
    if one.split.pipeline > 1:
        found["pipeline_parallel_size"] = one.split.pipeline
    found |= {"max_model_len": one.setup.context, "gpu_memory_utilization": one.setup.share}
    if one.setup.kv == "fp8":
        found["kv_cache_dtype"] = "fp8"
    if one.revision is not None:
        found["revision"] = one.revision
    return found


def flag(name: str) -> str:
    """A setting as the command line has it."""
    return "--" + name.replace("_", "-")


def words(one: Deployment, host: str = "127.0.0.1") -> list[str]:
    """`vllm serve ...` for one replica on one machine.

    >>> from quantlab.serve.deploy.deployment import deploy
    >>> " ".join(words(deploy("llama-3.3-70b", "l40s", "awq-int4", "a/b", gpus=2))[2:8])
    'a/b --served-model-name llama-3.3-70b --tensor-parallel-size 2 --max-model-len'
    """
    options = [part for name, value in settings(one).items() for part in (flag(name), str(value))]
    start = ["vllm", "serve", one.checkpoint, "--served-model-name", one.name]
    return [*start, *options, "--host", host, "--port", str(PORT)]


def command(one: Deployment, host: str = "127.0.0.1") -> str:
    """The same for a shell, a flag a line; over several machines with NODE_RANK and HEAD_IP of the environment."""
    parts = words(one, host)
    lines, rest = [shlex.join(parts[:3])], parts[3:]
    lines += [shlex.join(pair) for pair in zip(rest[::2], rest[1::2], strict=True)]
    if one.split.machines > 1:
        lines += [
            f"--distributed-executor-backend mp --nnodes {one.split.machines}",
            '--node-rank "$NODE_RANK" --master-addr "$HEAD_IP" $([ "$NODE_RANK" = 0 ] || echo --headless)',
        ]
    return " \\\n  ".join(lines)


def script(one: Deployment) -> str:
    """A shell script for one replica; on several machines it is run on each."""
    needs = [KEY] + ["NODE_RANK", "HEAD_IP"] * (one.split.machines > 1)
    checks = [f': "${{{name}:?set it first}}"' for name in needs]
    names = {"words": one.words(), "vllm": VLLM, "key": KEY, "port": PORT}
    head = HEAD.format(**names) + (MACHINES if one.split.machines > 1 else "")
    why = [f"# Not all cards share every matrix: {one.split.why}."] if one.split.why else []
    return "\n".join(["#!/bin/sh", *remark(head), *why, "set -eu", *checks, f"exec {command(one)}"]) + "\n"
