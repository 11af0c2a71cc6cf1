"""Prove that no sentence of the project's own stories, prompts and endings occurs in the training text.

    python check_overlap.py --data DIR

Sentences of six words or more are compared without case, punctuation or spacing. Exit 1 names those that occur.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from text import read_all

STORIES = Path(__file__).resolve().parent.parent / "stories"
LONG_ENOUGH = 6  # words


def words(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?])[\"']?\s+|\n", text) if len(words(s).split()) >= LONG_ENOUGH]


def own_texts() -> list[tuple[str, str]]:
    """(where, text) of every string that the project wrote."""
    return [
        (row["id"], row[key])
        for path in sorted(STORIES.glob("*.jsonl"))
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())
        for key in ("text", "prompt", "context", "right", "wrong")
        if key in row
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    train, held_out = read_all(parser.parse_args().data)
    corpus = "\n".join(words(d.text) for d in [*train, *held_out])
    checked = [(where, s) for where, text in own_texts() for s in sentences(text)]
    found = [(where, s) for where, s in checked if words(s) in corpus]
    for where, sentence in found:
        print(f"{where}: {sentence}")
    print(f"{len(checked)} sentences checked, {len(found)} occur in the training text")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
