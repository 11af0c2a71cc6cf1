"""The files of labs/scale: deployments on more than one card or machine, generated from plans.

    python tools/scale.py             write them
    python tools/scale.py --check     exit 1 and name those that are out of date
    python tools/scale.py --own FOLDER MODEL CARD FORMAT CHECKPOINT [gpus=2 replicas=2 context=8192 concurrency=8]

The last makes the same files for a deployment of yours, as in:

    python tools/scale.py --own out/deploy qwen3-8b l4 awq-int4 Qwen/Qwen3-8B-AWQ replicas=3 context=8192
"""

from __future__ import annotations

import sys
from pathlib import Path

from quantlab.atomic import write_text
from quantlab.errors import QuantlabError, UsageError
from quantlab.serve.deploy.deployment import Deployment, deploy
from quantlab.serve.deploy.files import files

PLACE = Path(__file__).resolve().parent.parent / "labs/scale"
LLAMA, QWEN = "casperhansen/llama-3.3-70b-instruct-awq", "Qwen/Qwen3-8B-AWQ"


def examples() -> dict[str, Deployment]:
    """Folder -> what is deployed."""
    return {
        "llama-3.3-70b-2-l40s": deploy("llama-3.3-70b", "l40s", "awq-int4", LLAMA, gpus=2, context=8192, concurrency=8),
        "llama-3.3-70b-4-a10": deploy("llama-3.3-70b", "a10", "awq-int4", LLAMA, gpus=4, context=4096, concurrency=8),
        "qwen3-8b-2-replicas": deploy("qwen3-8b", "l4", "awq-int4", QWEN, replicas=2, context=8192, concurrency=8),
        "qwen2.5-72b-pipeline": deploy(
            "qwen2.5-72b", "l40s", "awq-int4", "/models/qwen2.5-72b-awq", gpus=2, context=8192, concurrency=4
        ),
        "deepseek-v3-2-machines": deploy(
            "deepseek-v3", "h100", "fp8", "deepseek-ai/DeepSeek-V3", gpus=16, context=8192, concurrency=16
        ),
    }


def wanted() -> dict[Path, str]:
    """Every file of labs/scale and its text, but for the README."""
    made = {name: files(one) for name, one in examples().items()}
    return {PLACE / folder / name: text for folder, found in made.items() for name, text in found.items()}


def write(texts: dict[Path, str]) -> None:
    """Write them all; scripts may be run."""
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
        if path.suffix == ".sh":
            path.chmod(0o755)


def own(folder: str, model: str, card: str, fmt: str, checkpoint: str, *numbers: str) -> None:
    """The files for a deployment of the caller's."""
    known = ("gpus", "replicas", "context", "concurrency")
    try:
        chosen = {name: int(value) for name, value in (number.split("=") for number in numbers)}
    except ValueError as error:
        raise UsageError(f"write each number as in replicas=2, got {' '.join(numbers)}") from error
    if strangers := set(chosen) - set(known):
        raise UsageError(f"{strangers.pop()} is not one of {', '.join(known)}")
    one = deploy(model, card, fmt, checkpoint, **chosen)
    write({Path(folder) / name: text for name, text in files(one).items()})
    print(f"{one.words()}\nwrote {folder}")


def main() -> int:
    arguments = sys.argv[1:]
    if arguments[:1] == ["--own"] and len(arguments) >= 6:
        own(*arguments[1:])
        return 0
    if arguments not in ([], ["--check"]):
        print(__doc__)
        return 2
    texts = wanted()
    there = {path for path in PLACE.glob("*/*") if path.is_file()}
    stale = [path for path, text in texts.items() if path not in there or path.read_text(encoding="utf-8") != text]
    if arguments:
        wrong = [str(path.relative_to(PLACE.parent.parent)) for path in [*stale, *sorted(there - texts.keys())]]
        if wrong:
            print(f"out of date: {', '.join(wrong)}; write them with: python tools/scale.py")
        return 1 if wrong else 0
    write({path: texts[path] for path in stale})
    for path in there - texts.keys():
        path.unlink()
    print(f"wrote {len(stale)} of {len(texts)} files in {PLACE}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except QuantlabError as error:
        sys.exit(f"scale: {error}")
