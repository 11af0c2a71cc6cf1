"""Small tokenizers of every kind that GGUF files are written for: tokenizer.json and tokenizer_config.json as dicts."""

from __future__ import annotations

from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

SENTENCEPIECE = "sentencepiece"  # has no rule that cuts words first
GPT4_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def _split(pattern: str) -> dict[str, Any]:
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [cut, BYTE_LEVEL | {"use_regex": False}]}


PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "gpt-2": BYTE_LEVEL,
    "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]},
    "llama-bpe": _split(GPT4_SPLIT.replace("DIGITS", "{1,3}")),
    "qwen2": _split(GPT4_SPLIT.replace("DIGITS", "")),
    "tekken": _split(TEKKEN_SPLIT),
}
MERGES = [
    "t h",
    "th e",
    "Ġ the",
    "i n",
    "a n",
    "an d",
    "Ġ and",
    "Ġ a",
    "e r",
    "1 2",
    "12 3",
    "123 4",
    "' s",
    "Ġ Ġ",
    "r e",
    "the R",  # one word for every rule but tekken's
    "( the",  # and for those that let any character lead a word
    "© Ã",  # joins é and É, as bytes
]
_TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"


def added_token(token_id: int, content: str, special: bool = True) -> dict[str, Any]:
    """An entry of `added_tokens`."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    return {"id": token_id, "content": content, **flags}


def byte_level(pre: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two special tokens, the 256 bytes, and a few merges; for Qwen's rule, what else Qwen has."""
    tokens = ["<|begin|>", "<|end|>", *sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
        "ignore_merges": pre in ("llama-bpe", "tekken"),
        "vocab": {token: i for i, token in enumerate(tokens)}, "merges": [merge.split(" ") for merge in MERGES],
    }  # fmt: skip
    whole = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [added_token(i, tokens[i]) for i in range(2)],
        "pre_tokenizer": PRE_TOKENIZERS[pre], "decoder": BYTE_LEVEL, "model": model,
    }  # fmt: skip
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": _TEMPLATE}
    settings |= {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    if pre == "qwen2":  # no BOS of its own, a padding token, tokens that are added without being special
        more = [("<|endoftext|>", True), ("<|fim|>", False), ("<tool_call>", False)]
        whole["added_tokens"] += [added_token(len(tokens) + i, *each) for i, each in enumerate(more)]
        whole |= {"normalizer": {"type": "NFC"}, "post_processor": BYTE_LEVEL}
        settings |= {
            "bos_token": None,
            "pad_token": {"__type": "AddedToken", "content": "<|endoftext|>"},
            "add_bos_token": False,
        }
    return whole, settings


def sentencepiece() -> tuple[dict[str, Any], dict[str, Any]]:
    """<unk>, BOS and EOS, a token for each byte, pieces in the order of their scores, single characters."""
    pieces = ["▁t", "er", "in", "▁a", "he", "▁the", "re", "nd", "▁and", "▁▁", "▁▁▁▁", "ing", "the", "there", "'s"]
    letters = "▁abcdefghijklmnopqrstuvwxyzTHEONCU0123456789.,!?'é漢"
    control = ["<unk>", "<s>", "</s>"]
    tokens = [*control, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, *letters]
    vocab = {token: i for i, token in enumerate(tokens)}
    splits = [(p[:cut], p[cut:]) for p in pieces for cut in range(1, len(p)) if p[:cut] in vocab and p[cut:] in vocab]
    model = {
        "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
        "vocab": vocab, "merges": [list(pair) for pair in splits],
    }  # fmt: skip
    spaces = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    back = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    begin = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    whole = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added_token(i, token) for i, token in enumerate(control)],
        "normalizer": {"type": "Sequence", "normalizers": spaces}, "pre_tokenizer": None, "model": model,
        "post_processor": {"type": "TemplateProcessing", "single": begin, "pair": begin,
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": back},
    }  # fmt: skip
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    return whole, settings | {"unk_token": "<unk>", "chat_template": _TEMPLATE}
