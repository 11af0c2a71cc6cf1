"""SkyPilot: a task for `sky launch` (one replica), or a service for `sky serve up` (several), on a cloud you pay for.

SkyPilot 0.14.1; fields: sky/utils/schemas.py (`get_task_schema`, `get_service_schema`), cards: sky/catalog. One replica
may span machines (`num_nodes`): vLLM's own way without Ray, `--nnodes --node-rank --master-addr`, others `--headless`.

The key is a secret without a value: `--secret VLLM_API_KEY` takes it from your shell. (In 0.14.1 a value given so is
filled into the readiness probe's header too: sky/task.py, `_fill_in_env_vars`.)

A task listens on its machine's loopback, and you reach it through SSH. A service cannot: its balancer reaches the
replicas over the network, so port 8000 of each is open to the internet and only the key is before it, without TLS
unless you give the service a certificate (`tls`).
"""

from __future__ import annotations

from typing import Any

from quantlab.errors import unknown
from quantlab.serve.deploy import vllm
from quantlab.serve.deploy.deployment import KEY, PORT, VLLM, Deployment
from quantlab.serve.deploy.yaml import document

SKYPILOT = "0.14.1"
ACCELERATORS = {"t4": "T4", "l4": "L4", "l40s": "L40S", "a10": "A10", "a100-40": "A100", "a100-80": "A100-80GB",
                "h100": "H100", "h200": "H200", "b200": "B200"}  # fmt: skip
WARM_UP_S = 1800  # ASSUMPTION: what a replica is given to fetch the checkpoint and start
HEAD = """\
{words}

SkyPilot {sky}, vLLM {vllm}. What it costs: sky launch asks first. The key comes from your shell:
    export {key}="$(openssl rand -hex 32)"
{steps}
{exposes}"""
TASK = """\
    sky launch -c {slug} THIS_FILE --secret {key}
    ssh -L {port}:127.0.0.1:{port} {slug}
    sky down {slug}        at the end; until then ask http://127.0.0.1:{port}/v1"""
SERVICE = """\
    sky serve up -n {slug} THIS_FILE --secret {key}
    sky serve status {slug} --endpoint
    sky serve down {slug}        at the end"""
INSIDE = "EXPOSES: nothing; vLLM listens on the machine's loopback, and SSH is the way in."
OUTSIDE = """\
EXPOSES: the service's address and port {port} of every replica, to the internet, without TLS; below /v1 they ask for
the key; /metrics, /health and /invocations, which generates, answer anyone. For more than a trial add `tls`, or stay
with the task and SSH."""


def data(one: Deployment) -> dict[str, Any]:
    """The file as data: a task, with a `service` where there are several replicas."""
    card = one.setup.card
    assert card is not None
    if card.name not in ACCELERATORS:
        raise unknown("card of SkyPilot", card.name, ACCELERATORS)
    serves = one.replicas > 1
    on_each = one.setup.gpus // one.split.machines
    resources: dict[str, Any] = {
        "accelerators": f"{ACCELERATORS[card.name]}:{on_each}",
        "disk_size": 128 + 2 * one.weights_gib,
    }
    task: dict[str, Any] = {"name": one.slug, "resources": resources}
    if serves:
        resources["ports"] = PORT
        task["service"] = {
            "readiness_probe": {
                "path": "/v1/models",
                "headers": {"Authorization": f"Bearer ${KEY}"},
                "initial_delay_seconds": WARM_UP_S,
            },
            "replicas": one.replicas,
        }
    if one.split.machines > 1:
        task["num_nodes"] = one.split.machines
    task["secrets"] = {KEY: None}
    task["setup"] = f'uv venv --python 3.12 ~/vllm\nuv pip install --python ~/vllm "vllm=={VLLM}"\n'
    task["run"] = "source ~/vllm/bin/activate\n" + _run(one, "0.0.0.0" if serves else "127.0.0.1")
    return task


def _run(one: Deployment, host: str) -> str:
    """What each machine runs."""
    machines = 'NODE_RANK="$SKYPILOT_NODE_RANK"\nHEAD_IP="$(echo "$SKYPILOT_NODE_IPS" | head -n 1)"\n'
    return f"{machines * (one.split.machines > 1)}{vllm.command(one, host)}\n"


def text(one: Deployment) -> str:
    """The file."""
    names = {"slug": one.slug, "key": KEY, "port": PORT, "words": one.words(), "sky": SKYPILOT, "vllm": VLLM}
    steps, exposes = (SERVICE, OUTSIDE) if one.replicas > 1 else (TASK, INSIDE)
    return document(data(one), HEAD.format(**names, steps=steps.format(**names), exposes=exposes.format(**names)))
