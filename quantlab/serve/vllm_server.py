"""vLLM's own server as a process: vLLM's Python runs this file, settings on stdin.

vLLM lives in an environment of its own, where quantlab is not installed, so this file imports nothing but the standard
library and vLLM. What it adds to `vllm serve`:

- the first line of stdin holds the settings; the key goes to vLLM through `VLLM_API_KEY`, never as an argument
- the rest of stdin is the lifeline: when it ends, the supervisor is gone, and the server goes too
- on a CPU: one gibibyte of KV cache, no graph capture, and threads bound to cores (without that vLLM uses one core)

vLLM reads `quantization_config` from the checkpoint; `--quantization` is never passed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

CPU = {"VLLM_CPU_KVCACHE_SPACE": "1"}
QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def end_with_stdin() -> None:
    """As quantlab.serve.lifeline: stop when stdin ends, five seconds in good order."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def arguments(settings: dict[str, Any], host: str, port: int, cpu: bool) -> list[str]:
    """What `vllm` is called with."""
    options = {
        "--served-model-name": settings["model"],
        "--host": host,
        "--port": port,
        "--max-model-len": settings["context"],
    }
    words = ["vllm", "serve", settings["path"], *(str(word) for pair in options.items() for word in pair)]
    return [*words, "--dtype", "bfloat16", "--enforce-eager"] if cpu else words


def main() -> None:
    """Serve until SIGTERM or until stdin ends."""
    line = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    settings = json.loads(line)
    end_with_stdin()
    os.environ.update(QUIET, VLLM_API_KEY=settings["key"])
    with socket.socket(fileno=settings["socket"]) as reserved:  # vLLM opens the port itself
        host, port = reserved.getsockname()[:2]
    from vllm.platforms import current_platform

    cpu = current_platform.is_cpu()
    if cpu:
        os.environ.update(CPU, VLLM_CPU_OMP_THREADS_BIND=f"0-{settings['threads'] - 1}")
    sys.argv = arguments(settings, host, port, cpu)
    from vllm.entrypoints.cli.main import main as vllm

    vllm()


if __name__ == "__main__":  # vLLM starts processes that import this file again
    main()
