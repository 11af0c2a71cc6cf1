"""vLLM production-stack on Kubernetes: values for its Helm chart (github.com/vllm-project/production-stack, 0.1.16).

Fields: helm/values.schema.json and helm/templates/deployment-vllm-multi.yaml. The chart gives `vllm serve` a flag for
tensor parallel, none for pipeline parallel: that goes through `extraArgs`. `requestCPU` and `requestMemory` must be
there; both are assumptions (a core for each card and two more; the checkpoint once and a half, for loading).

The chart has vLLM listen on 0.0.0.0 in its pod, and a router before all pods; both are `ClusterIP` services, reached
from within the cluster. vLLM asks for the key below /v1, the router passes it on.
"""

from __future__ import annotations

from typing import Any

from quantlab.errors import UsageError
from quantlab.serve.deploy import vllm
from quantlab.serve.deploy.deployment import KEY, PORT, VLLM, Deployment
from quantlab.serve.deploy.yaml import document

CHART = "0.1.16"  # whose fields these are
SECRET = "vllm-key"  # the name of the Kubernetes secret, not the key
NAMED = {"tensor_parallel_size": "tensorParallelSize", "max_model_len": "maxModelLen",
         "gpu_memory_utilization": "gpuMemoryUtilization"}  # fmt: skip
HEAD = """\
{words}

vLLM production-stack {chart} (Helm), vLLM {vllm}. The key first, from your shell into a secret, never into this file:
    openssl rand -hex 32 | tr -d '\\n' | kubectl create secret generic {secret} --from-file={key}=/dev/stdin
    helm repo add vllm https://vllm-project.github.io/production-stack
    helm install {slug} vllm/vllm-stack -f THIS_FILE
    kubectl port-forward service/{slug}-router-service {port}:80 --address 127.0.0.1
EXPOSES: nothing outside the cluster; inside it every pod reaches the router and vLLM, which asks for the key below
/v1 only (/metrics, /health and /invocations, which generates, answer anyone). A LoadBalancer or an ingress would
expose it: add TLS then.
Pods take any node with enough cards: choose nodes of {card} with nodeSelectorTerms if you have several kinds.
The router's image has no version in the chart's values: set routerSpec.tag to the one that you tested."""


def data(one: Deployment) -> dict[str, Any]:
    """The values as data. Raises for a replica over several machines, which the chart leaves to KubeRay."""
    if one.split.machines > 1:
        raise UsageError(
            f"one replica over {one.split.machines} machines is not in this chart; take the Ray Serve file"
        )
    settings = vllm.settings(one)
    config: dict[str, Any] = {NAMED[name]: settings.pop(name) for name in NAMED if name in settings}
    extra = [part for name, value in settings.items() for part in (vllm.flag(name), str(value))]
    config |= {"enablePrefixCaching": True, "extraArgs": ["--served-model-name", one.name, *extra]}
    model: dict[str, Any] = {
        "name": one.slug,
        "repository": "vllm/vllm-openai",
        "tag": f"v{VLLM}",
        "modelURL": one.checkpoint,
        "replicaCount": one.replicas,
        "requestCPU": one.setup.gpus + 2,
        "requestMemory": f"{max(16, one.weights_gib * 3 // 2)}Gi",
        "requestGPU": one.setup.gpus,
        "vllmConfig": config,
    }
    if one.setup.gpus > 1:
        model["shmSize"] = "16Gi"  # through which the processes of one replica talk
    return {
        "servingEngineSpec": {
            "enableEngine": True,
            "vllmApiKey": {"secretName": SECRET, "secretKey": KEY},
            "modelSpec": [model],
        },
        "routerSpec": {
            "enableRouter": True,
            "replicaCount": 1,
            "serviceType": "ClusterIP",
            "serviceDiscovery": "k8s",
            "routingLogic": "roundrobin",
        },
    }


def text(one: Deployment) -> str:
    """The values file."""
    assert one.setup.card
    head = HEAD.format(
        words=one.words(), chart=CHART, vllm=VLLM, secret=SECRET, key=KEY, slug=one.slug, port=PORT,
        card=one.setup.card.label,
    )  # fmt: skip
    return document(data(one), head)
