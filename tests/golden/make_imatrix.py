"""Make imatrix.json: the importance matrix files that llama.cpp's own llama-imatrix writes, in both forms.

The program is not part of llama-cpp-python; build it from the same source (see make_gguf_files.py for where that is):

    cmake -B build llama_cpp_python-0.3.36/vendor/llama.cpp && cmake --build build --target llama-imatrix
    python tests/golden/make_imatrix.py build/bin/llama-imatrix
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
from pathlib import Path

TEXT = "The rain in the hand is the other and the ring. " * 12


def main(program: Path) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from random_llama import write_llama

    from quantlab.checkpoints.gguf import write_gguf

    files = {}
    with tempfile.TemporaryDirectory() as work:
        folder = write_llama(Path(work) / "model", num_hidden_layers=1)
        model = write_gguf(folder, Path(work) / "model.gguf", "f32")
        (Path(work) / "text.txt").write_text(TEXT)
        for form in ("gguf", "dat"):
            asked = [str(program.resolve()), "-m", str(model), "-f", "text.txt", "-c", "32", "-t", "1", "--no-ppl"]
            asked += ["-o", f"imatrix.{form}", "--output-format", form]
            subprocess.run(asked, cwd=work, check=True, capture_output=True)
            files[form] = base64.b64encode((Path(work) / f"imatrix.{form}").read_bytes()).decode()
    made_by = {"script": Path(__file__).name, "program": "llama-imatrix", "llama-cpp-python": "0.3.36"}
    text = json.dumps({"made by": made_by, "files": files}, indent=1)
    (Path(__file__).parent / "imatrix.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
