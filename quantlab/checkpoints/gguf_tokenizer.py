"""A Hugging Face byte-level BPE tokenizer as the metadata of a GGUF file, so that llama.cpp tokenizes the same.

A GGUF file carries its own tokenizer. Three things decide whether the tokens agree:

    tokens, token types   the strings in the order of their ids; CONTROL marks `<|end|>` and its like, which text
                          must not produce by accident; UNUSED fills ids that the tokenizer never gives
    merges                "left right", best first: the order is the algorithm
    pre                   the *name* of the rule that first cuts text into words. GGUF stores no regular expression:
                          llama.cpp looks the name up in its own table, so a rule it has no name for cannot be stored

Reference: llama.cpp's converter (conversion/base.py, `_set_vocab_gpt2`; gguf 0.19, `SpecialVocab`). It finds `pre` by
hashing the tokens of one long string, which needs each new vocabulary to be registered; here the rule itself is read
from tokenizer.json. Left out: SentencePiece, WordPiece, tokenizers with a normalizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType

from quantlab.errors import QuantlabError
from quantlab.models.folder import read_json

# (step, setting) in the order of tokenizer.json -> llama.cpp's name for it (src/llama-vocab.cpp)
PRE_TOKENIZERS = {
    (("ByteLevel", True),): "gpt-2",  # GPT-2's regular expression, built into the step
    (("Digits", True), ("ByteLevel", True)): "smollm",  # each digit by itself first
    (
        (
            "Split",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        ("ByteLevel", False),
    ): "llama-bpe",
}
_SETTING = {"ByteLevel": "use_regex", "Digits": "individual_digits"}
_SPECIAL = ("bos", "eos", "unk", "pad")


@dataclass(frozen=True)
class GgufTokenizer:
    """What the file says about text."""

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    special_ids: dict[str, int]  # "bos" -> 0
    add: dict[str, bool]  # "bos" -> put it before every text
    chat_template: str | None

    def write(self, writer: GGUFWriter) -> None:
        """Add the keys tokenizer.ggml.* and tokenizer.chat_template."""
        writer.add_tokenizer_model("gpt2")  # llama.cpp's name for every byte-level BPE
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        for role, token_id in self.special_ids.items():
            getattr(writer, f"add_{role}_token_id")(token_id)
        for role, value in self.add.items():
            getattr(writer, f"add_add_{role}_token")(value)
        if self.chat_template is not None:
            writer.add_chat_template(self.chat_template)


def read_tokenizer(folder: Path, vocab_size: int) -> GgufTokenizer:
    """The tokenizer of a Hugging Face folder; raises QuantlabError for one that GGUF's BPE cannot express."""
    where = str(folder / "tokenizer.json")
    whole = read_json(folder / "tokenizer.json")
    beside = folder / "tokenizer_config.json"
    config = read_json(beside) if beside.is_file() else {}
    model = whole.get("model") or {}
    if model.get("type") != "BPE" or whole.get("normalizer") is not None:
        kind = model.get("type") if whole.get("normalizer") is None else "a normalizer"
        raise QuantlabError(f"{where} uses {kind}; GGUF is written here for byte-level BPE without a normalizer")
    tokens, types = _tokens(model["vocab"], whole.get("added_tokens") or [], vocab_size, where)
    return GgufTokenizer(
        pre=pre_tokenizer_name(whole.get("pre_tokenizer"), where),
        tokens=tokens,
        types=types,
        merges=[_merge(pair) for pair in model["merges"]],
        special_ids=_special_ids(config, tokens),
        add=_add(config, whole.get("post_processor")),
        chat_template=_chat_template(folder, config),
    )


def pre_tokenizer_name(pre_tokenizer: dict[str, Any] | None, where: str) -> str:
    """llama.cpp's name for a pre-tokenizer of tokenizer.json.

    >>> pre_tokenizer_name({"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}, "here")
    'gpt-2'
    """
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer or {"type": None}])
    key = tuple((step["type"], _setting(step)) for step in steps)
    if key not in PRE_TOKENIZERS or any(step.get("add_prefix_space") for step in steps):
        kinds = " then ".join(str(step["type"]) for step in steps)
        raise QuantlabError(
            f"{where} cuts text with a rule that llama.cpp has no name for here ({kinds}); "
            f"known are {', '.join(sorted(PRE_TOKENIZERS.values()))}"
        )
    return PRE_TOKENIZERS[key]


def _setting(step: dict[str, Any]) -> Any:
    if step["type"] == "Split":
        regular = step.get("behavior") == "Isolated" and not step.get("invert")
        return step.get("pattern", {}).get("Regex") if regular else None
    return step.get(_SETTING.get(step["type"], ""))


def _tokens(vocab: dict[str, int], added: list[dict[str, Any]], size: int, where: str) -> tuple[list[str], list[int]]:
    """Strings and types by id; holes are UNUSED, as in llama.cpp's converter."""
    names = {token_id: token for token, token_id in vocab.items()}
    types = dict.fromkeys(names, TokenType.NORMAL)
    for token in added:
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
            raise QuantlabError(
                f"{where}: the added token {token['content']!r} strips spaces or matches whole words only, "
                "which GGUF cannot say; remove the flag or leave out the llama.cpp formats"
            )
        names[token["id"]] = token["content"]
        types[token["id"]] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    if names and max(names) >= size:
        raise QuantlabError(
            f"{where} has token id {max(names)}, but the model's vocabulary ends at {size - 1}; "
            "the tokenizer belongs to another model"
        )
    ids = range(size)
    return [names.get(i, f"[PAD{i}]") for i in ids], [int(types.get(i, TokenType.UNUSED)) for i in ids]


def _merge(pair: str | list[str]) -> str:
    return pair if isinstance(pair, str) else " ".join(pair)  # byte-level BPE writes a space as U+0120


def _content(token: Any) -> str | None:
    """A special token of tokenizer_config.json: a string, or an AddedToken written out."""
    return token.get("content") if isinstance(token, dict) else token


def _special_ids(config: dict[str, Any], tokens: list[str]) -> dict[str, int]:
    ids = {token: i for i, token in enumerate(tokens)}
    named = {role: _content(config.get(f"{role}_token")) for role in _SPECIAL}
    return {role: ids[token] for role, token in named.items() if token in ids}


def _add(config: dict[str, Any], post_processor: dict[str, Any] | None) -> dict[str, bool]:
    """Whether BOS and EOS are put around every text: what a post-processor does, unless the config overrules it."""
    steps = (post_processor or {}).get("processors", [post_processor or {}])
    template: list[dict[str, Any]] = next((s["single"] for s in steps if s.get("type") == "TemplateProcessing"), [])
    around = [piece.get("SpecialToken", {}).get("id") for piece in template]
    add = {}
    if len(around) > 1:
        for role, token in (("bos", around[0]), ("eos", around[-1])):
            if token is not None:
                add[role] = token == _content(config.get(f"{role}_token"))
    stated = {role: config.get(f"add_{role}_token") for role in ("bos", "eos")}
    return add | {role: value for role, value in stated.items() if isinstance(value, bool)}


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    beside = folder / "chat_template.jinja"  # transformers 5 writes it here
    template = config.get("chat_template") or (beside.read_text(encoding="utf-8") if beside.is_file() else None)
    return template if isinstance(template, str) else None
