"""What the deployment files may hold: the parts of the public schemas that they use, as JSON schemas.

SkyPilot 0.14.1     sky/utils/schemas.py: get_task_schema, get_resources_schema, get_service_schema
production-stack    helm/values.schema.json of the chart (0.1.16), and helm/templates for what it needs; stricter here,
                    for the chart ignores a field that it does not know, which would hide a slip
Ray 2.60.0          ray/serve/schema.py: ServeDeploySchema, ServeApplicationSchema; LLMServingArgs, LLMConfig and
                    ModelLoadingConfig below ray/llm/_internal/serve/core; cards: ray/util/accelerators/accelerators.py
vLLM 0.33.0         vllm/engine/arg_utils.py: the names of the engine arguments that we set
"""

from __future__ import annotations

from typing import Any

TEXT, WHOLE, SHARE = (
    {"type": "string", "minLength": 1},
    {"type": "integer", "minimum": 1},
    {"type": "number", "maximum": 1},
)


def exactly(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object with these fields and no others."""
    fields = {**required, **(optional or {})}
    return {"type": "object", "required": list(required), "properties": fields, "additionalProperties": False}


def list_of(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


ENGINE = exactly(
    {"max_model_len": WHOLE, "gpu_memory_utilization": SHARE},
    {
        "tensor_parallel_size": WHOLE, "pipeline_parallel_size": WHOLE, "revision": TEXT,
        "kv_cache_dtype": {"enum": ["fp8"]},
    },
)  # fmt: skip

SKYPILOT = exactly(
    {
        "name": {"type": "string", "pattern": "^[a-z]([a-z0-9-]*[a-z0-9])?$"},
        "resources": exactly(
            {"accelerators": {"type": "string", "pattern": "^[A-Z0-9-]+:[1-8]$"}, "disk_size": WHOLE}, {"ports": WHOLE}
        ),
        "secrets": {"type": "object", "additionalProperties": {"type": "null"}},  # a value would be a key in a file
        "setup": TEXT,
        "run": TEXT,
    },
    {
        "num_nodes": WHOLE,
        "service": exactly(
            {
                "readiness_probe": exactly(
                    {"path": TEXT, "initial_delay_seconds": WHOLE},
                    {"headers": {"type": "object", "additionalProperties": {"type": "string"}}},
                ),
                "replicas": WHOLE,
            }
        ),
    },
)

_MODEL = exactly(
    {
        "name": {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"},
        "repository": TEXT, "tag": TEXT, "modelURL": TEXT, "replicaCount": WHOLE, "requestCPU": WHOLE,
        "requestMemory": {"type": "string", "pattern": "^[0-9]+Gi$"}, "requestGPU": WHOLE,
        "vllmConfig": exactly(
            {"maxModelLen": WHOLE, "gpuMemoryUtilization": SHARE, "enablePrefixCaching": {"type": "boolean"},
             "extraArgs": list_of({"type": "string"})},
            {"tensorParallelSize": WHOLE},
        ),
    },
    {"shmSize": {"type": "string", "pattern": "^[0-9]+Gi$"}},
)  # fmt: skip
HELM = exactly(
    {
        "servingEngineSpec": exactly(
            {
                "enableEngine": {"type": "boolean"},
                "vllmApiKey": exactly({"secretName": TEXT, "secretKey": TEXT}),  # a string would be the key itself
                "modelSpec": list_of(_MODEL),
            }
        ),
        "routerSpec": exactly(
            {
                "enableRouter": {"type": "boolean"}, "replicaCount": WHOLE,
                "serviceType": {"enum": ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]},
                "serviceDiscovery": {"enum": ["k8s", "static"]},
                "routingLogic": {"enum": ["roundrobin", "session", "prefixaware", "kvaware", "disaggregated_prefill",
                                          "disaggregated_prefill_orchestrated"]},
            }
        ),
    }
)  # fmt: skip

RAY_CARDS = ("T4", "L4", "L40S", "A10G", "A100-40G", "A100-80G", "H100", "H200", "B200")
RAY = exactly(
    {
        "proxy_location": {"enum": ["Disabled", "HeadOnly", "EveryNode"]},
        "http_options": exactly({"host": {"const": "127.0.0.1"}, "port": WHOLE}),
        "applications": list_of(
            exactly(
                {
                    "name": TEXT, "route_prefix": {"type": "string", "pattern": "^/"},
                    "import_path": {"const": "ray.serve.llm:build_openai_app"},
                    "args": exactly({"llm_configs": list_of(exactly(
                        {
                            "model_loading_config": exactly({"model_id": TEXT, "model_source": TEXT}),
                            "accelerator_type": {"enum": list(RAY_CARDS)},
                            "deployment_config": exactly({"num_replicas": WHOLE}),
                            "engine_kwargs": ENGINE,
                        }
                    ))}),
                }
            )
        ),
    }
)  # fmt: skip
