"""Read the training stories, clean them, and split them into training and held-out documents.

Four sources are read from one folder (`--data`), each a gzip file; the model card says where they come from:

    tinystories_sample_2MiB.txt.gz   short stories in simple words, parted by <|endoftext|>
    fairy_books.jsonl.gz             whole books of fairy tales, cut here at their headings
    classics.jsonl.gz                one short story a row
    pulp_us_public_domain.jsonl.gz   magazine stories, of which every fourth is taken

Every document is plain text: straight quotes, one line a paragraph, no page furniture.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

HELD_OUT_EVERY = 25  # every 25th document of each source is never trained on
STRAIGHT = str.maketrans(
    {"“": '"', "”": '"', "‘": "'", "’": "'", "—": " - ", "–": "-", "\xa0": " ", "…": "...", "_": ""}
)
HEADING = re.compile(r"\n\n+[ \t]*([A-Z][A-Z ,'\-.!?]{5,70})(?:\(\d+\))?[ \t]*\n\n")
FURNITURE = re.compile(r"\[(?:Illustration|Footnote|\d+)[^\]]*\]|\(\d+\)|Project Gutenberg", re.IGNORECASE)


@dataclass(frozen=True)
class Document:
    """One story: its source, its title where it has one, and its text."""

    source: str
    title: str
    text: str


def unwrap(text: str) -> str:
    """Join the hard-wrapped lines of each paragraph; one paragraph a line."""
    text = FURNITURE.sub("", text.translate(STRAIGHT).replace("\r", ""))
    paragraphs = (" ".join(p.split()) for p in re.split(r"\n[ \t]*\n", text))
    return "\n".join(p for p in paragraphs if p)


def read_rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]


def read_tiny(folder: Path) -> list[Document]:
    raw = gzip.decompress((folder / "tinystories_sample_2MiB.txt.gz").read_bytes()).decode(errors="ignore")
    stories = [re.sub(r"\s*\n\s*", "\n", s.translate(STRAIGHT).strip()) for s in raw.split("<|endoftext|>")]
    plain = [s for s in stories if len(s) > 200 and "â" not in s]  # a few are mis-encoded
    return [Document("tiny", "", s) for s in plain[:-1]]  # the last one is cut off


def read_fairy(folder: Path) -> list[Document]:
    documents = []
    for row in read_rows(folder / "fairy_books.jsonl.gz"):
        pieces = HEADING.split(row["text"])  # [front matter, heading, text, heading, text, ...]
        for heading, body in zip(pieces[1::2], pieces[2::2], strict=True):
            text = unwrap(body)
            if 1200 < len(text) < 40_000 and text.count("\n") < len(text) / 40:  # drops contents, notes and verse
                documents.append(Document("fairy", heading.strip(" .").title(), text))
    return documents


def read_classics(folder: Path) -> list[Document]:
    rows = read_rows(folder / "classics.jsonl.gz")
    return [Document("classics", r["title"].split(" - ")[-1], unwrap(r["text"])) for r in rows]


def read_pulp(folder: Path) -> list[Document]:
    rows = read_rows(folder / "pulp_us_public_domain.jsonl.gz")[::4]
    return [Document("pulp", r["title"], unwrap(r["text"])) for r in rows]


def read_all(folder: Path) -> tuple[list[Document], list[Document]]:
    """(training, held-out) documents of all sources."""
    train, held_out = [], []
    for documents in (read_tiny(folder), read_fairy(folder), read_classics(folder), read_pulp(folder)):
        for i, document in enumerate(documents):
            (held_out if i % HELD_OUT_EVERY == 0 else train).append(document)
    return train, held_out


def telling_words(documents: list[Document], count: int = 3) -> list[list[str]]:
    """The words that set each document apart (highest tf-idf), in the order they appear."""
    bags = [Counter(re.findall(r"[a-z]{3,}", d.text)) for d in documents]
    spread = Counter(word for bag in bags for word in bag)
    chosen = []
    for bag in bags:
        known = [w for w in bag if spread[w] >= 5]
        best = sorted(known, key=lambda w: bag[w] / spread[w], reverse=True)[:count]
        chosen.append([w for w in bag if w in best])
    return chosen
