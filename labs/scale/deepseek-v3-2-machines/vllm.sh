#!/bin/sh
# deepseek-v3 in fp8_e4m3_channel: one replica on 16 x H100 SXM 80 GB in 2 machines, tensor parallel 8, pipeline
# parallel 2. PREDICTED: 16 texts of 8,192 tokens at once take 49.7 of the 72.8 GiB that vLLM may fill of each card.
#
# vLLM 0.33.0; the key comes from your shell: export VLLM_API_KEY="$(openssl rand -hex 32)"
# EXPOSES: port 8000, to this machine only; below /v1 it asks for the key; /metrics and /health answer
# anyone here, and so does /invocations, which generates.
# Run it on every machine, with NODE_RANK 0 on the first, and HEAD_IP the first one's address in a private network: what
# the machines say to each other is not encrypted, and whoever reaches those ports can run code there.
set -eu
: "${VLLM_API_KEY:?set it first}"
: "${NODE_RANK:?set it first}"
: "${HEAD_IP:?set it first}"
exec vllm serve deepseek-ai/DeepSeek-V3 \
  --served-model-name deepseek-v3 \
  --tensor-parallel-size 8 \
  --pipeline-parallel-size 2 \
  --max-model-len 8192 \
  --gpu-memory-utilization 0.92 \
  --host 127.0.0.1 \
  --port 8000 \
  --distributed-executor-backend mp --nnodes 2 \
  --node-rank "$NODE_RANK" --master-addr "$HEAD_IP" $([ "$NODE_RANK" = 0 ] || echo --headless)
