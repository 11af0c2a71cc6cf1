#!/bin/sh
# llama-3.3-70b in awq_int4_g128: one replica on 4 x A10, tensor parallel 4, pipeline parallel 1. PREDICTED: 8 texts of
# 4,096 tokens at once take 13.2 of the 20.2 GiB that vLLM may fill of each card.
#
# vLLM 0.33.0; the key comes from your shell: export VLLM_API_KEY="$(openssl rand -hex 32)"
# EXPOSES: port 8000, to this machine only; below /v1 it asks for the key; /metrics and /health answer
# anyone here, and so does /invocations, which generates.
set -eu
: "${VLLM_API_KEY:?set it first}"
exec vllm serve casperhansen/llama-3.3-70b-instruct-awq \
  --served-model-name llama-3.3-70b \
  --tensor-parallel-size 4 \
  --max-model-len 4096 \
  --gpu-memory-utilization 0.92 \
  --host 127.0.0.1 \
  --port 8000
