"""Make gguf_blocks.json: what llama.cpp's C quantizers make of tests/gguf_weights.py, as hashes.

    python tests/golden/make_gguf_blocks.py     # on x86-64, where ggml-base does not fuse multiplication and addition

The K-quants have a file of their own (make_kquant_blocks.py).
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path


def main() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import llama_cpp
    from ggml_oracle import Ggml, library_of
    from gguf_weights import WEIGHTS, importance
    from golden.block32_cases import digest, keys

    library = library_of(llama_cpp)
    with Ggml(library) as ggml:
        hashes = {
            " | ".join(key): digest(ggml.quantize(key[0], WEIGHTS[key[1]], importance(key[2]))) for key in keys(WEIGHTS)
        }
    made_by = {
        "script": Path(__file__).name,
        "llama-cpp-python": llama_cpp.__version__,
        "libggml-base sha256": hashlib.sha256(library.read_bytes()).hexdigest(),
    }
    text = json.dumps({"made by": made_by, "blocks": hashes}, indent=1, sort_keys=True)
    (Path(__file__).parent / "gguf_blocks.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
