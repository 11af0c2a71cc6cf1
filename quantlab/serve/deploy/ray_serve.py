"""Ray Serve LLM: the file for `serve deploy` (Ray 2.60.0).

Fields: `ServeDeploySchema` in ray/serve/schema.py; below `args`, `LLMServingArgs` in
ray/llm/_internal/serve/core/ingress/builder.py and `LLMConfig` in ray/llm/_internal/serve/core/configs/llm_config.py.
Ray places tensor x pipeline workers itself, over several machines where one has too few cards.

Ray Serve LLM asks for no key, and by default listens on every interface. So the file has its proxy listen on the head
machine's loopback only; put a router that asks for one (quantlab.serve.nginx shows how) before it, on that machine.
Ray's own dashboard (port 8265) runs any code it is sent: never let others reach it.
"""

from __future__ import annotations

from typing import Any

from quantlab.errors import unknown
from quantlab.serve.deploy import vllm
from quantlab.serve.deploy.deployment import PORT, VLLM, Deployment
from quantlab.serve.deploy.yaml import document

RAY = "2.60.0"
# quantlab's name of a card -> Ray's (ray/util/accelerators/accelerators.py; it takes A10 for A10G)
ACCELERATORS = {"t4": "T4", "l4": "L4", "l40s": "L40S", "a10": "A10G", "a100-40": "A100-40G", "a100-80": "A100-80G",
                "h100": "H100", "h200": "H200", "b200": "B200"}  # fmt: skip
HEAD = """\
{words}

Ray Serve LLM {ray}, vLLM {vllm}. On the head machine of a Ray cluster:
    pip install "ray[llm]=={ray}"
    serve deploy THIS_FILE
EXPOSES: port {port} of the head machine, to that machine only, WITHOUT A KEY: Ray Serve asks for none. Put a router
that does before it. Keep Ray's dashboard (port 8265) from others: it runs whatever it is sent.
A gated model needs HF_TOKEN in the environment of `ray start`; never write it here."""


def data(one: Deployment) -> dict[str, Any]:
    """The file as data."""
    card = one.setup.card
    assert card is not None
    if card.name not in ACCELERATORS:
        raise unknown("card of Ray", card.name, ACCELERATORS)
    config = {
        "model_loading_config": {"model_id": one.name, "model_source": one.checkpoint},
        "accelerator_type": ACCELERATORS[card.name],
        "deployment_config": {"num_replicas": one.replicas},
        "engine_kwargs": vllm.settings(one),
    }
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": PORT},
        "applications": [
            {
                "name": one.slug,
                "route_prefix": "/",
                "import_path": "ray.serve.llm:build_openai_app",
                "args": {"llm_configs": [config]},
            }
        ],
    }


def text(one: Deployment) -> str:
    """The file."""
    return document(data(one), HEAD.format(words=one.words(), ray=RAY, vllm=VLLM, port=PORT))
