#!/bin/sh
# qwen2.5-72b in awq_int4_g128: one replica on 2 x L40S, tensor parallel 1, pipeline parallel 2. PREDICTED: 4 texts of
# 8,192 tokens at once take 26.0 of the 40.8 GiB that vLLM may fill of each card.
#
# vLLM 0.33.0; the key comes from your shell: export VLLM_API_KEY="$(openssl rand -hex 32)"
# EXPOSES: port 8000, to this machine only; below /v1 it asks for the key; /metrics and /health answer
# anyone here, and so does /invocations, which generates.
# Not all cards share every matrix: the 29,568 columns of down_proj do not divide into 2 parts of whole groups of 128.
set -eu
: "${VLLM_API_KEY:?set it first}"
exec vllm serve /models/qwen2.5-72b-awq \
  --served-model-name qwen2.5-72b \
  --pipeline-parallel-size 2 \
  --max-model-len 8192 \
  --gpu-memory-utilization 0.92 \
  --host 127.0.0.1 \
  --port 8000
