"""Search for a file on which `quantlab verify` crashes, hangs or fills the memory, with atheris (libFuzzer for Python).

    pip install atheris                                                   (Linux, a Python that it has a wheel for)
    python tools/fuzz_verify.py safetensors --seconds 60                  one target, a minute
    python tools/fuzz_verify.py gguf --seconds 28800 --corpus corpus/gguf overnight; finds are kept and built on

Targets: safetensors, config, index, tokenizer, template, gguf, in the order of how much they parse. A long run: one
process a target, each with a corpus of its own; a find is written as crash-*, timeout-* or oom-* in the working
directory, and is run again by giving its path after the target:

    for t in safetensors config index tokenizer template gguf; do
        mkdir -p corpus/$t && python tools/fuzz_verify.py $t --seconds 28800 --corpus corpus/$t > $t.log 2>&1 &
    done; wait

A find becomes a case in tests/unit/test_verify_*.py before it is mended. The same mutations without atheris, few and
deterministic, are tests/properties/test_verify_fuzz.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

FILES = {
    "safetensors": "model.safetensors", "config": "config.json", "index": "model.safetensors.index.json",
    "tokenizer": "tokenizer.json", "template": "chat_template.jinja", "gguf": "model.gguf",
}  # fmt: skip
SECONDS, MEMORY_MB = 10, 2048  # for one file: beyond, it is a find


def main() -> int:
    asked = argparse.ArgumentParser(description="Fuzz quantlab verify; see the top of this file.")
    asked.add_argument("target", choices=FILES)
    asked.add_argument("found", nargs="*", type=Path, help="finds to run again, instead of a search")
    asked.add_argument("--seconds", type=int, default=60)
    asked.add_argument("--corpus", type=Path, help="a folder where inputs that reach something new are kept")
    args = asked.parse_args()
    try:
        import atheris
    except ImportError:
        print(
            "atheris is not installed; run `pip install atheris` on Linux, with a Python that it has a wheel for, or "
            "run the deterministic part: pytest tests/properties/test_verify_fuzz.py",
            file=sys.stderr,
        )
        return 1
    with atheris.instrument_imports(include=["quantlab"]):
        from verify_fuzz import looked_at, small_checkpoint, small_gguf, small_model
    with tempfile.TemporaryDirectory(prefix="quantlab-fuzz-") as where:
        model = small_model(Path(where) / "model")
        if args.target == "gguf":
            path = place = small_gguf(model, Path(where) / FILES["gguf"])
        else:
            shard = 12_000 if args.target == "index" else 10**9
            place = small_checkpoint(model, Path(where) / "checkpoint", "packed", shard)
            path = place / FILES[args.target]
        seeds = Path(where) / "seeds"
        seeds.mkdir()
        (seeds / path.name).write_bytes(path.read_bytes() if path.exists() else b"{{ messages }}")

        def one(data: bytes) -> None:
            path.write_bytes(data)
            looked_at(place)

        for file in args.found:
            one(file.read_bytes())
        if args.found:
            return 0
        folders = [str(args.corpus)] if args.corpus else []
        limits = [f"-timeout={SECONDS}", f"-rss_limit_mb={MEMORY_MB}", f"-max_total_time={args.seconds}"]
        atheris.Setup([sys.argv[0], *limits, *folders, str(seeds)], one)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
