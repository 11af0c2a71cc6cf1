"""Make gguf_files.json: what llama.cpp's own converter writes for the folders of gguf_cases.py.

    pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36 && tar xf llama_cpp_python-0.3.36.tar.gz
    python tests/golden/make_gguf_files.py llama_cpp_python-0.3.36/vendor/llama.cpp

Two things of the converter are set by hand, because they ask which published model this is: the name of the
pre-tokenizer (it looks up a hash of the vocabulary) and that there is no SentencePiece model.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path

SOURCES = ("convert_hf_to_gguf.py", "conversion/base.py", "conversion/llama.py", "conversion/qwen.py")


def main(llama_cpp: Path) -> None:
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py"), str(Path(__file__).resolve().parents[1])]
    import conversion.base as base
    import convert_hf_to_gguf
    from golden.gguf_cases import CASES, digest, write_case

    def absent(*_: object) -> None:
        raise FileNotFoundError

    base.TextModel._set_vocab_sentencepiece = base.TextModel._set_vocab_llama_hf = absent
    golden = {}
    with tempfile.TemporaryDirectory() as work:
        for name, (_, pre, _) in CASES.items():
            base.TextModel.get_vocab_base_pre = lambda self, tokenizer, pre=pre: pre
            folder, out = write_case(Path(work) / name, name), Path(work) / f"{name}.gguf"
            sys.argv = ["convert_hf_to_gguf.py", "--outtype", "bf16", "--outfile", str(out), str(folder)]
            convert_hf_to_gguf.main()
            golden[name] = digest(out)
    made_by = {"script": Path(__file__).name, "llama-cpp-python": "0.3.36"}
    made_by |= {f"{name} sha256": hashlib.sha256((llama_cpp / name).read_bytes()).hexdigest() for name in SOURCES}
    text = json.dumps({"made by": made_by, "files": golden}, indent=1, sort_keys=True)
    (Path(__file__).parent / "gguf_files.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
