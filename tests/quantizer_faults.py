"""Stand-ins for libraries that go wrong: files that quantlab.backends.quantizers.runners.host runs for real."""

from __future__ import annotations

from pathlib import Path

from quantlab.backends.quantizers.libraries import Library
from quantlab.backends.quantizers.order import Order

FAULTS = {
    "none": """
        say("block 1 of 2", 0.0)
        print("chatter on stdout")
        os.write(1, b"chatter of a C library\\n")
        say("block 2 of 2", 0.5)
        Path(order["out"]).mkdir()
        settings = {"seen": order["bits"]}
        return {"packages": ["pytest", "no-such-package"], "device": "cpu", "settings": settings, "notes": []}
    """,
    "killed": """
        say("block 3 of 4", 0.5)
        print("allocating the Hessian", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """,
    "crash": "os.abort()",
    "exit": """
        print("ValueError: the last words", flush=True)
        os._exit(3)
    """,
    "memory": """
        say("block 2 of 4", 0.25)
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: "
                           "you tried to allocate 123456789 bytes. Error code 12")
    """,
    "python memory": "raise MemoryError",
    "disk": """
        say("saving", 1.0)
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    """,
    "import": "import no_such_library_anywhere",
    "library": "raise KeyError('model.layers.0')",
    "bars": """
        from tqdm import tqdm
        for _ in tqdm(range(3), desc="Packing", mininterval=0):
            pass
        return {"packages": [], "device": "cpu", "settings": {}, "notes": []}
    """,
    "endless": """
        import subprocess
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (Path(order["out"]).parent / "pids").write_text(f"{os.getpid()} {helper.pid}")
        say("block 1 of 2", 0.0)
        time.sleep(600)
    """,
}


def library(fault: str, folder: Path) -> Library:
    """A library whose `quantize` does this."""
    body = "\n".join("    " + line for line in FAULTS[fault].replace("\n        ", "\n").strip().splitlines())
    script = folder / "with_fault.py"
    script.write_text(
        "import os, signal, sys, time\nfrom pathlib import Path\n\n\ndef quantize(order, say):\n" + body + "\n",
        encoding="utf-8",
    )
    return Library("fault", "FaultyLib", str(script), "json", "faultylib")


def order(folder: Path) -> Order:
    """An order that these libraries do not look at."""
    return Order("model", str(folder / "made"), "gptq", "int4_g128", 4, 128, True, "bfloat16", ((1, 2, 3),) * 8)
