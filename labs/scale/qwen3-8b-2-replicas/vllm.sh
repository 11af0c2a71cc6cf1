#!/bin/sh
# qwen3-8b in awq_int4_g128: 2 replicas, each on L4, tensor parallel 1, pipeline parallel 1. PREDICTED: 8 texts of 8,192
# tokens at once take 16.1 of the 20.3 GiB that vLLM may fill of each card.
#
# vLLM 0.33.0; the key comes from your shell: export VLLM_API_KEY="$(openssl rand -hex 32)"
# EXPOSES: port 8000, to this machine only; below /v1 it asks for the key; /metrics and /health answer
# anyone here, and so does /invocations, which generates.
set -eu
: "${VLLM_API_KEY:?set it first}"
exec vllm serve Qwen/Qwen3-8B-AWQ \
  --served-model-name qwen3-8b \
  --max-model-len 8192 \
  --gpu-memory-utilization 0.92 \
  --host 127.0.0.1 \
  --port 8000
