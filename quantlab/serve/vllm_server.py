"""vLLM's own server as a process: vLLM's Python runs this file, settings on stdin.

vLLM lives in an environment of its own, where quantlab is not installed, so this file imports nothing but the standard
library and vLLM. What it adds to `vllm serve`:

- the first line of stdin holds the settings; the key goes to vLLM through `VLLM_API_KEY`, never as an argument
- the key is asked for on every path; vLLM 0.32 alone asks for it below /v1, and answers prompts at /invocations, counts
  at /metrics and /tokenize, and takes orders at /scale_elastic_ep from anyone who reaches the port (see `Guarded`)
- vLLM's processes keep their environment, which their names would overwrite: by the server's id in it they are found,
  and ended, when the one that started them was killed
- a crash writes no core file: it would hold the key, and the model
- the rest of stdin is the lifeline: when it ends, the supervisor is gone, and the server goes too
- on a CPU: one gibibyte of KV cache, no graph capture, and threads bound to cores (without that vLLM uses one core)
- on a CPU without AVX-512: a stand-in for the 4-bit kernel, which vLLM's build for such CPUs lacks (see `stand_in`)

vLLM reads `quantization_config` from the checkpoint; `--quantization` is never passed.
"""

from __future__ import annotations

import hmac
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from typing import Any

CPU = {"VLLM_CPU_KVCACHE_SPACE": "1"}
WITHOUT_AVX512 = (
    "quantlab: this CPU has no AVX-512, and vLLM's build for it no 4-bit kernel; 4-bit weights are unpacked to 16 bits"
)
REFUSAL = b'{"error": {"message": "the key is missing or wrong", "type": "unauthorized"}}'
QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
NAMED = {"SPT_NOENV": "1"}  # setproctitle: name the process, and leave its environment, by which we find it, as it is


def end_with_stdin() -> None:
    """As quantlab.serve.lifeline: stop when stdin ends, five seconds in good order."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def cores(threads: int) -> str:
    """The first so many cores that this process may use, as vLLM takes them: a container may have only 4 to 7."""
    return ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))


def arguments(settings: dict[str, Any], host: str, port: int, cpu: bool) -> list[str]:
    """What `vllm` is called with."""
    options = {
        "--served-model-name": settings["model"],
        "--host": host,
        "--port": port,
        "--max-model-len": settings["context"],
    }
    words = ["vllm", "serve", settings["path"], *(str(word) for pair in options.items() for word in pair)]
    words += ["--middleware", "__main__.Guarded", *settings.get("flags", [])]
    return [*words, "--dtype", "bfloat16", "--enforce-eager"] if cpu else words


class Guarded:
    """The outermost layer of vLLM's web application: 401 to every request without `Authorization: Bearer KEY`."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.expected = f"Bearer {os.environ['VLLM_API_KEY']}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass on, or refuse."""
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        if scope["type"] == "lifespan" or hmac.compare_digest(given, self.expected):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": REFUSAL})
        else:
            await send({"type": "websocket.close", "code": 1008})


def hand_over(reserved: socket.socket) -> None:
    """Let vLLM serve on the socket that is reserved, where it would bind the port anew.

    Between closing it and vLLM's binding lie seconds of importing, in which another program of this machine could take
    the port, and be sent the key by whoever waits for the server.
    """
    try:
        from vllm.entrypoints.launchers import launcher
    except ImportError:  # vLLM before 0.32 keeps that function elsewhere: it gets the port, not the socket
        reserved.close()
        return
    reserved.set_inheritable(False)
    launcher.create_server_socket = lambda *_, **__: reserved


def stand_in() -> bool:
    """Where vLLM's build has no 4-bit kernel, let 4-bit weights be unpacked to 16 bits at loading: True there.

    vLLM 0.32's library for x86 CPUs without AVX-512 is compiled without `cpu_gemm_wna16`, yet the kernel that calls it
    is chosen: the server starts, and its first answer ends it ("EngineCore encountered an issue"). Up to the product
    all stays vLLM's: it reads the checkpoint, joins q, k and v, and turns AWQ and GPTQ into its own order of codes.
    That order is undone here: blocks of 16 outputs, whose codes lie 8 in a word.
    """
    import torch
    from vllm import _custom_ops  # noqa: F401  # loads the compiled operators
    from vllm.platforms import current_platform

    if not current_platform.is_cpu() or hasattr(torch.ops._C, "cpu_gemm_wna16"):
        return False
    from vllm.model_executor.kernels import linear
    from vllm.model_executor.kernels.linear.mixed_precision.cpu import CPUWNA16LinearKernel
    from vllm.model_executor.layers.quantization.utils.quant_utils import unpack_quantized_values_into_int32 as unpack

    class UnpackedWNA16LinearKernel(CPUWNA16LinearKernel):  # type: ignore[misc]
        """x @ W.T, with W [n, k] in 16 bits."""

        def process_weights_after_loading(self, layer: Any) -> None:
            super().process_weights_after_loading(layer)
            packed, scales, zeros = self._get_weight_params(layer)  # [n/16, 2k], [k/group, n], [k/group, n/8]
            kind, k = self.config.weight_type, packed.shape[1] // 2
            group = k // len(scales)
            words = packed.view(-1, k, 2).permute(1, 0, 2).reshape(k, -1)  # [k, n/8]
            levels = 8 if zeros is None else unpack(zeros, kind, 1).repeat_interleave(group, 0)
            weight = (unpack(words, kind, 1) - levels) * scales.float().repeat_interleave(group, 0)  # [k, n]
            packed.data = weight.to(scales.dtype).t().contiguous()

        def apply_weights(self, layer: Any, x: Any, bias: Any = None) -> Any:
            return torch.nn.functional.linear(x, getattr(layer, self.w_q_name), bias)

    kernels = linear._POSSIBLE_KERNELS[current_platform._enum]
    kernels[kernels.index(CPUWNA16LinearKernel)] = UnpackedWNA16LinearKernel
    print(WITHOUT_AVX512, flush=True)
    return True


def main() -> None:
    """Serve until SIGTERM or until stdin ends."""
    line = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    settings = json.loads(line)
    end_with_stdin()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ.update(QUIET | NAMED, VLLM_API_KEY=settings["key"])
    reserved = socket.socket(fileno=settings["socket"])
    host, port = reserved.getsockname()[:2]
    hand_over(reserved)
    from vllm.platforms import current_platform

    cpu = current_platform.is_cpu()
    if cpu:
        os.environ.update(CPU, VLLM_CPU_OMP_THREADS_BIND=cores(settings["threads"]))
    sys.argv = arguments(settings, host, port, cpu)
    from vllm.entrypoints.cli.main import main as vllm

    vllm()


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":  # a process that vLLM starts; it imports this file again
    stand_in()
