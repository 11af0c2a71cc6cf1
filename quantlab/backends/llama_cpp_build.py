"""Is this build of llama.cpp sound? Needs nothing but the library itself.

Where the processor has AMX (Intel's from Sapphire Rapids on), a build for it multiplies quantized matrices by tiles and
dies: the compiler drops the writes to the tiles' configuration, which only an intrinsic reads (llama.cpp pull request
26954 and issue 20824, open in 2026; release of llama-cpp-python 0.3.36, gcc 12). `-U__AMX_INT8__` leaves that path
out; `make lab` compiles with it.
"""

from __future__ import annotations

from typing import Any

FLAG = "-U__AMX_INT8__"
AGAIN = "--force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python llama-cpp-python"


def fault(llama: Any) -> str | None:
    """None, or the sentence that says why this build (the module llama_cpp) must not be used, and how to mend it."""
    if b"AMX_INT8 = 1" not in llama.llama_print_system_info():
        return None
    return (
        "llama-cpp-python was compiled with AMX, and such a build crashes; compile it again: "
        f"CFLAGS={FLAG} CXXFLAGS={FLAG} pip install {AGAIN}"
    )
