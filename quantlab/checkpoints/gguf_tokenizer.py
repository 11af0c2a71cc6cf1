"""A Hugging Face tokenizer as the metadata of a GGUF file, so that llama.cpp tokenizes the same.

A GGUF file carries its own tokenizer. Three things decide whether the tokens agree:

    tokens, token types   the strings in the order of their ids; CONTROL marks `<|end|>` and its like, which text
                          must not produce by accident; UNUSED fills ids that the tokenizer never gives
    merges                "left right", best first: the order is the algorithm
    pre                   the *name* of the rule that first cuts text into words. GGUF stores no regular expression:
                          llama.cpp looks the name up in its own table, so a rule it has no name for cannot be stored

That is byte-level BPE, of Llama 3, Qwen and most models of today. Older ones have a SentencePiece vocabulary, where
scores stand for merges and nothing is cut first (quantlab.checkpoints.gguf_sentencepiece).

Where llama.cpp cuts otherwise than the model's own tokenizer, all the same: it never normalizes, so that text which is
not in Unicode's form NFC differs for Qwen; and in "tekken" (newer Mistral) capital letters outside ASCII differ.

Reference: llama.cpp's converter (conversion/base.py, `_set_vocab_gpt2`; gguf 0.19, `SpecialVocab`) and its
src/llama-vocab.cpp, release of llama-cpp-python 0.3.36. It finds `pre` by hashing the tokens of one long string, which
needs each new vocabulary to be registered; here the rule itself is read from tokenizer.json. Left out: WordPiece and
Unigram, other normalizers, several chat templates (the one called "default" is taken).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import TokenType

from quantlab.checkpoints.gguf_sentencepiece import has_space_prefix, is_sentencepiece, read_pieces
from quantlab.errors import QuantlabError
from quantlab.formats.gguf_values import Kind, Value
from quantlab.models.folder import read_json

_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD_ENDS = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_CUT = ("ByteLevel", False)  # no regular expression of its own: the step before did the cutting


def _gpt4(digits: str) -> str:
    """GPT-4's regular expression; families differ in how many digits may stand together."""
    return rf"{_ENGLISH}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{_WORD_ENDS}"


_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _WORD_ENDS
)
# (step, setting) in the order of tokenizer.json -> llama.cpp's name for it (src/llama-vocab.cpp)
PRE_TOKENIZERS = {
    (("ByteLevel", True),): "gpt-2",  # GPT-2's regular expression, built into the step
    (("Digits", True), ("ByteLevel", True)): "smollm",  # each digit by itself first
    (("Split", _gpt4("{1,3}")), _CUT): "llama-bpe",
    (("Split", _gpt4("")), _CUT): "qwen2",
    (("Split", _TEKKEN), _CUT): "tekken",
}
_SETTING = {"ByteLevel": "use_regex", "Digits": "individual_digits"}
_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # transformers' word -> GGUF's
_NORMALIZERS = (None, {"type": "NFC"})


@dataclass(frozen=True)
class GgufTokenizer:
    """What the file says about text. A byte-level BPE has merges, a SentencePiece vocabulary has scores."""

    model: str  # llama.cpp's name of the algorithm: "gpt2" for every byte-level BPE, "llama" for SentencePiece
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    special_ids: dict[str, int]  # "bos" -> 0
    add: dict[str, bool]  # "bos" -> put it before every text
    chat_template: str | None
    space_prefix: bool = True  # of SentencePiece: a space before every text

    def metadata(self) -> dict[str, Value]:
        """The keys tokenizer.ggml.* and tokenizer.chat_template."""
        said = {
            "model": Value(Kind.STRING, self.model),
            "pre": Value(Kind.STRING, self.pre),
            "tokens": Value(Kind.ARRAY, self.tokens, Kind.STRING),
            "token_type": Value(Kind.ARRAY, self.types, Kind.INT32),
        }
        if self.scores:
            said["scores"] = Value(Kind.ARRAY, self.scores, Kind.FLOAT32)
        if self.merges:
            said["merges"] = Value(Kind.ARRAY, self.merges, Kind.STRING)
        if not self.space_prefix:
            said["add_space_prefix"] = Value(Kind.BOOL, False)
        for role, token_id in self.special_ids.items():
            said[f"{_SPECIAL[role]}_token_id"] = Value(Kind.UINT32, token_id)
        for role, value in self.add.items():
            said[f"add_{role}_token"] = Value(Kind.BOOL, value)
        keys = {f"tokenizer.ggml.{key}": value for key, value in said.items()}
        if self.chat_template is not None:
            keys["tokenizer.chat_template"] = Value(Kind.STRING, self.chat_template)
        return keys


def read_tokenizer(folder: Path, vocab_size: int) -> GgufTokenizer:
    """The tokenizer of a Hugging Face folder; raises QuantlabError for one that GGUF cannot express."""
    where = str(folder / "tokenizer.json")
    whole = read_json(folder / "tokenizer.json")
    config, model_config = (_optional(folder / name) for name in ("tokenizer_config.json", "config.json"))
    model = whole.get("model") or {}
    if model.get("type") != "BPE":
        raise QuantlabError(f"{where} uses {model.get('type')}; GGUF is written here for BPE tokenizers")
    added = whole.get("added_tokens") or []
    tokens, types = _tokens(model["vocab"], added, vocab_size, where)
    scores: list[float] = []
    if pieces := is_sentencepiece(model):
        types, scores = read_pieces(model, tokens, types)
    elif whole.get("normalizer") not in _NORMALIZERS:
        raise QuantlabError(f"{where} uses a normalizer, which GGUF has no place for; take it out")
    return GgufTokenizer(
        model="llama" if pieces else "gpt2",
        pre="default" if pieces else pre_tokenizer_name(whole.get("pre_tokenizer"), where),
        tokens=tokens,
        types=types,
        merges=[] if pieces else [_merge(pair) for pair in model["merges"]],
        scores=scores,
        special_ids=_special_ids(config, model_config, added),
        add=_add(config, whole.get("post_processor")),
        chat_template=_chat_template(folder, config),
        space_prefix=not pieces or has_space_prefix(whole, where),
    )


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


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
        control = token["special"] or _looks_special(token["content"])
        names[token["id"]] = token["content"] if control else token["content"].replace("\u2581", " ")
        types[token["id"]] = TokenType.CONTROL if control else TokenType.USER_DEFINED
    if names and max(names) >= size:
        raise QuantlabError(
            f"{where} has token id {max(names)}, but the model's vocabulary ends at {size - 1}; "
            "the tokenizer belongs to another model"
        )
    ids = range(size)
    return [names.get(i, f"[PAD{i}]") for i in ids], [int(types.get(i, TokenType.UNUSED)) for i in ids]


def _looks_special(content: str) -> bool:
    """Whether llama.cpp takes an added token for a control token though it is not marked as one."""
    around = (("<|", "|>"), ("<\uff5c", "\uff5c>"), ("<unused", ">"))
    between = any(content.startswith(start) and content.endswith(end) for start, end in around)
    return between or content in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")


def _merge(pair: str | list[str]) -> str:
    return pair if isinstance(pair, str) else " ".join(pair)  # byte-level BPE writes a space as U+0120


def _content(token: Any) -> str | None:
    """A special token of tokenizer_config.json: a string, or an AddedToken written out."""
    return token.get("content") if isinstance(token, dict) else token


def _special_ids(config: dict[str, Any], model_config: dict[str, Any], added: list[dict[str, Any]]) -> dict[str, int]:
    """Ids of the special tokens that tokenizer_config.json names; of others, what config.json says."""
    ids = {token["content"]: token["id"] for token in added}
    named = {role: ids.get(_content(config.get(f"{role}_token")) or "") for role in _SPECIAL}
    stated = {role: model_config.get(f"{role}_token_id") for role in _SPECIAL}  # may be a list
    found = {role: named[role] if named[role] is not None else stated[role] for role in _SPECIAL}
    return {role: token_id for role, token_id in found.items() if isinstance(token_id, int)}


def _add(config: dict[str, Any], post_processor: dict[str, Any] | None) -> dict[str, bool]:
    """Whether BOS and EOS are put around every text: what a post-processor does, unless the config overrules it."""
    steps = (post_processor or {}).get("processors", [post_processor or {}])
    add = {role: False for role in ("bos", "eos") if any(step.get("type") == "ByteLevel" for step in steps)}
    template: list[dict[str, Any]] = next((s["single"] for s in steps if s.get("type") == "TemplateProcessing"), [])
    around = [piece.get("SpecialToken", {}).get("id") for piece in template]
    if len(around) > 1:
        for role, token in (("bos", around[0]), ("eos", around[-1])):
            if token is not None:
                add[role] = token == _content(config.get(f"{role}_token"))
    stated = {role: config.get(f"add_{role}_token") for role in ("bos", "eos")}
    return add | {role: value for role, value in stated.items() if isinstance(value, bool)}


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    beside = folder / "chat_template.jinja"  # transformers 5 writes it here
    template = config.get("chat_template") or (beside.read_text(encoding="utf-8") if beside.is_file() else None)
    if isinstance(template, list):
        template = next((each.get("template") for each in template if each.get("name") == "default"), None)
    return template if isinstance(template, str) else None
