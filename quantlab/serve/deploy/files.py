"""Every file that a deployment can be run by, by name; those that it cannot be run by are left out."""

from __future__ import annotations

from quantlab.serve import nginx
from quantlab.serve.deploy import production_stack, ray_serve, skypilot, vllm
from quantlab.serve.deploy.deployment import PORT, Deployment

NGINX = """\
# nginx before {count} replicas on one machine, started with vllm.sh's command on ports {ports}, each with a card of its
# own (CUDA_VISIBLE_DEVICES) and all with the same VLLM_API_KEY, which nginx passes on: it holds no key.
# EXPOSES: port {port}, to this machine only, three paths.      mkdir run && nginx -p run -c $(realpath nginx.conf)
"""


def files(one: Deployment) -> dict[str, str]:
    """Name -> text. A checkpoint that is a path has no file for rented machines; the chart takes one machine a replica.

    >>> from quantlab.serve.deploy.deployment import deploy
    >>> list(files(deploy("qwen3-8b", "l4", "awq-int4", "Qwen/Qwen3-8B-AWQ", replicas=2)))
    ['vllm.sh', 'ray-serve.yaml', 'helm-values.yaml', 'skypilot.yaml', 'nginx.conf']
    """
    found = {"vllm.sh": vllm.script(one), "ray-serve.yaml": ray_serve.text(one)}
    if not one.checkpoint.startswith(("/", ".")):
        if one.split.machines == 1:
            found["helm-values.yaml"] = production_stack.text(one)
        found["skypilot.yaml"] = skypilot.text(one)
    if one.replicas > 1 and one.split.machines == 1:
        ports = [PORT + 1 + number for number in range(one.replicas)]
        head = NGINX.format(count=one.replicas, ports=", ".join(map(str, ports)), port=PORT)
        found["nginx.conf"] = head + nginx.configuration(
            [f"http://127.0.0.1:{n}/v1" for n in ports], f"127.0.0.1:{PORT}"
        )
    return found
