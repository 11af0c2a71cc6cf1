"""llama.cpp reads our GGUF file and cuts text into the same tokens as the tokenizer.json it came from, one by one."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from random_llama import write_llama
from random_tokenizers import PRE_TOKENIZERS, SENTENCEPIECE
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
# texts on which llama.cpp's rule is the tokenizer's own, where it is not on all
LIKE_THEIRS: dict[str, Callable[[str], bool]] = {
    "qwen2": lambda text: unicodedata.is_normalized("NFC", text),
    "tekken": str.isascii,
}


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


@pytest.mark.parametrize("pre", [*PRE_TOKENIZERS, SENTENCEPIECE])
def test_each_known_tokenizer(pre: str, tmp_path: Path, llama_cpp: ModuleType) -> None:
    folder = write_llama(tmp_path / pre, pre)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rng = random.Random(1)
    sample = [*(_mixed(rng) for _ in range(400)), *(_unicode(rng) for _ in range(100)), "123 1234567 the theRe and", ""]
    sample = [text for text in sample if LIKE_THEIRS.get(pre, lambda text: True)(text)]
    assert len(sample) > 10
    with Logits(write_gguf(folder, tmp_path / "model.gguf"), 16) as source:
        for text in sample:
            assert source.tokenize(text) == tokenizer.encode(text, add_special_tokens=False).ids, text


@pytest.mark.parametrize(("pre", "text", "same"), [("qwen2", "cafe\u0301", "café"), ("tekken", "éÉ", "é É")])
def test_where_llama_cpp_cuts_otherwise(pre: str, text: str, same: str, tmp_path: Path, llama_cpp: ModuleType) -> None:
    """What the docstring of gguf_tokenizer admits, so that it is mended when llama.cpp is."""
    folder = write_llama(tmp_path / pre, pre)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with Logits(write_gguf(folder, tmp_path / "model.gguf"), 16) as source:
        assert source.tokenize(text) != tokenizer.encode(text, add_special_tokens=False).ids
        assert source.tokenize(same) == tokenizer.encode(same, add_special_tokens=False).ids


def test_pre_tokenizers_differ(tmp_path: Path) -> None:
    """The test above would pass with one rule for all if they gave the same tokens."""
    folders = {pre: write_llama(tmp_path / pre, pre) for pre in PRE_TOKENIZERS}
    text = "theRe\n(the 1234"
    cut = [Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text) for folder in folders.values()]
    assert len({tuple(encoding.tokens) for encoding in cut}) == len(PRE_TOKENIZERS)


def _vocab_size(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["vocab_size"])


def test_what_gguf_cannot_express(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "model")
    whole, size = json.loads((folder / "tokenizer.json").read_text()), _vocab_size(folder)

    def refused(word: str, **changes: object) -> None:
        (folder / "tokenizer.json").write_text(json.dumps(whole | changes))
        with pytest.raises(QuantlabError, match=word) as error:
            read_tokenizer(folder, size)
        assert "\n" not in str(error.value)

    refused("WordPiece", model={"type": "WordPiece", "vocab": {}})
    refused("normalizer", normalizer={"type": "Lowercase"})
    refused("no name for", pre_tokenizer={"type": "Whitespace"})
    refused("no name for", pre_tokenizer=PRE_TOKENIZERS["gpt-2"] | {"add_prefix_space": True})
    refused("strips spaces", added_tokens=[whole["added_tokens"][0] | {"lstrip": True}])
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(QuantlabError, match="belongs to another model"):
        read_tokenizer(folder, 100)


def test_bos_is_added_only_where_the_tokenizer_adds_it(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "model")
    size = _vocab_size(folder)
    assert read_tokenizer(folder, size).add == {}
    whole = json.loads((folder / "tokenizer.json").read_text())
    template = [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    whole["post_processor"] = {"type": "TemplateProcessing", "single": template, "pair": [], "special_tokens": {}}
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    assert read_tokenizer(folder, size).add == {"bos": True}
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert read_tokenizer(folder, size).add == {"bos": False}


def test_no_pre_tokenizer_at_all_is_an_unknown_one() -> None:
    with pytest.raises(QuantlabError, match="no name for here"):
        pre_tokenizer_name(None, "tokenizer.json")
