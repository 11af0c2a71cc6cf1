"""llama.cpp reads our GGUF file and cuts text into the same tokens as the tokenizer.json it came from, one by one."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from random_llama import PRE_TOKENIZERS, write_llama
from tokenizers import Tokenizer

from quantlab.assets import bundled
from quantlab.backends.llama_cpp import Logits
from quantlab.checkpoints.gguf import write_gguf
from quantlab.checkpoints.gguf_tokenizer import pre_tokenizer_name, read_tokenizer
from quantlab.errors import QuantlabError

PIECES = (
    "'s", "'S", "'re", " 've", "I'll", "don't", "'", "''", "\n", "\n\n", "\r\n", "\t", " ", "  ", "    ", " \n ",
    "\u00a0", "\u3000", "\u2028", "\x85", "\x1c", "\x00", "\x7f", "0", "12", "123", "1234", "1,000.50", "3.14", "x2",
    "²", "½", "٣", "Ⅷ", "e\u0301", "é", "ß", "ñ", "ﬁ", "漢字", "かな", "한국어", "हिन्दी", "العربية", "עברית", "🚀",
    "👩\u200d🚀", "🇫🇷", "—", "…", "“", "”", "<", ">", "|", "<|", "|>", "begin", "the", " the", "The", " and", "ing",
    "tion", " Once", " upon", "_", "a.b", "http://x.y/z?q=1", "!?!", "...", ", ", ". ", "\\n", "{", "}", "$5", "100%",
)  # fmt: skip
SPECIAL = ("<|begin|>", "<|end|>", "<|user|>", "<|assistant|>")


def _stories() -> Iterator[str]:
    """Every text of the project: whole, and line by line."""
    for path in sorted(bundled("assets/stories").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield from (str(value) for key, value in json.loads(line).items() if key not in ("id", "kind"))


def _mixed(rng: random.Random) -> str:
    """Up to 40 pieces of what trips tokenizers up."""
    pool = PIECES + SPECIAL if rng.random() < 0.3 else PIECES
    return "".join(rng.choice(pool) for _ in range(rng.randrange(1, 40)))


def _unicode(rng: random.Random) -> str:
    """Characters from all of Unicode 3.2; those assigned in the last years are known to one of the libraries only."""
    found: list[str] = []
    while len(found) < 24:
        character = chr(rng.randrange(1, 0x110000))
        if unicodedata.ucd_3_2_0.category(character) not in ("Cn", "Cs", "Co"):
            found.append(character if rng.random() < 0.7 else rng.choice(PIECES))
    return "".join(found)


def texts() -> list[str]:
    """1,000 texts: as many of the project's own as there are up to 400, 400 mixtures, 200 walks through Unicode."""
    rng = random.Random(20260101)
    own = list(dict.fromkeys(_stories()))
    own = sorted(own, key=len, reverse=True)[:400]
    mixed = [_mixed(rng) for _ in range(800 - len(own))]
    return own + mixed + [_unicode(rng) for _ in range(200)]


@pytest.fixture(scope="module")
def gguf(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory, llama_cpp: ModuleType) -> Iterator[Logits]:
    path = write_gguf(tiny_folder, tmp_path_factory.mktemp("tokens") / "tiny.gguf")
    with Logits(path, 16) as source:
        yield source


def test_the_same_tokens_on_1000_texts(gguf: Logits, tiny_folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_folder / "tokenizer.json"))
    sample = texts()
    assert len(sample) == 1000
    assert sum(max(text) >= "\u0800" for text in sample) > 200, "the sample must leave the Latin alphabet"
    counted = 0
    for text in sample:
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        assert gguf.tokenize(text) == expected, text
        counted += len(expected)
    assert counted > 50_000
    assert gguf.tokenize("") == []


def test_special_tokens_are_one_token_each(gguf: Logits, tiny_folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_folder / "tokenizer.json"))
    for token in SPECIAL:
        assert gguf.tokenize(token) == [tokenizer.token_to_id(token)]
        assert len(gguf.tokenize(token, special=False)) > 1, "as plain text it is cut like any other"


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_each_known_pre_tokenizer(pre: str, tmp_path: Path, llama_cpp: ModuleType) -> None:
    folder = write_llama(tmp_path / pre, pre)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rng = random.Random(1)
    with Logits(write_gguf(folder, tmp_path / "model.gguf"), 16) as source:
        for text in [*(_mixed(rng) for _ in range(150)), *(_unicode(rng) for _ in range(50)), "123 1234567 the and"]:
            assert source.tokenize(text) == tokenizer.encode(text, add_special_tokens=False).ids, text


def test_pre_tokenizers_differ(tmp_path: Path) -> None:
    """The test above would pass with one rule for all if they gave the same tokens."""
    folders = {pre: write_llama(tmp_path / pre, pre) for pre in PRE_TOKENIZERS}
    cut = [Tokenizer.from_file(str(folder / "tokenizer.json")).encode("don't 1234!\n\n") for folder in folders.values()]
    assert len({tuple(encoding.tokens) for encoding in cut}) == len(PRE_TOKENIZERS)


def test_what_gguf_cannot_express(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "model")
    whole = json.loads((folder / "tokenizer.json").read_text())

    def refused(word: str, **changes: object) -> None:
        (folder / "tokenizer.json").write_text(json.dumps(whole | changes))
        with pytest.raises(QuantlabError, match=word) as error:
            read_tokenizer(folder, 274)
        assert "\n" not in str(error.value)

    refused("WordPiece", model={"type": "WordPiece", "vocab": {}})
    refused("normalizer", normalizer={"type": "NFC"})
    refused("no name for", pre_tokenizer={"type": "Whitespace"})
    refused("no name for", pre_tokenizer=PRE_TOKENIZERS["gpt-2"] | {"add_prefix_space": True})
    refused("strips spaces", added_tokens=[whole["added_tokens"][0] | {"lstrip": True}])
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(QuantlabError, match="belongs to another model"):
        read_tokenizer(folder, 100)


def test_bos_is_added_only_where_the_tokenizer_adds_it(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "model")
    assert read_tokenizer(folder, 274).add == {}
    whole = json.loads((folder / "tokenizer.json").read_text())
    template = [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    whole["post_processor"] = {"type": "TemplateProcessing", "single": template, "pair": [], "special_tokens": {}}
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    assert read_tokenizer(folder, 274).add == {"bos": True}
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert read_tokenizer(folder, 274).add == {"bos": False}


def test_no_pre_tokenizer_at_all_is_an_unknown_one() -> None:
    with pytest.raises(QuantlabError, match="no name for here"):
        pre_tokenizer_name(None, "tokenizer.json")
