"""Make kquant_blocks.json: the blocks that llama.cpp's C code makes of the weights of kquant_cases.py.

    python tests/golden/make_kquant_blocks.py

Needs the llama-cpp-python of requirements.lock on x86-64: elsewhere compilers fuse a * b + c, and last bits differ.
"""

from __future__ import annotations

import base64
import hashlib
import json
import platform
import sys
from pathlib import Path


def main() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import llama_cpp
    from ggml_oracle import Ggml, library_of
    from golden.kquant_cases import CASES, TYPES, importances

    library = library_of(llama_cpp)
    with Ggml(library) as ggml:
        assert platform.machine() in ("x86_64", "AMD64"), "made on x86-64, where nothing is fused"
        blocks = {
            f"{kind} | {case} | {name}": base64.b64encode(ggml.quantize(kind, make(), importance).numpy()).decode()
            for kind in TYPES
            for case, make in CASES.items()
            for name, importance in importances().items()
            if name in ("none", "many zero")
        }
    made_by = {
        "script": Path(__file__).name,
        "llama-cpp-python": llama_cpp.__version__,
        "machine": platform.machine(),
        f"{library.name} sha256": hashlib.sha256(library.read_bytes()).hexdigest(),
    }
    text = json.dumps({"made by": made_by, "blocks": blocks}, indent=1, sort_keys=True)
    (Path(__file__).parent / "kquant_blocks.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
