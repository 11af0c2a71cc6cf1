"""A GGUF file: head, metadata, tensors, tokenizer, all in one.

The head is read bounded (quantlab.formats.gguf_head), so that a crafted file ends in a sentence. What remains to be
compared: the tensors lie one behind the other as ggml demands; their names and shapes are those of the architecture
with the sizes in the metadata; the tokenizer has a token for each row. In a full run the tensors follow
(gguf_values.py).

Group size, bits and packing are fixed by a tensor's type, so no config can contradict them; a wrong type shows where
the next tensor would begin.

Reference: ggml's gguf.cpp, `gguf_init_from_file_ptr` ("tensor has offset, expected") and llama.cpp's
src/llama-model-loader.cpp (release of llama-cpp-python 0.3.36).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from quantlab.checkpoints.gguf_families import FAMILIES, expected_shapes, gguf_name
from quantlab.checkpoints.verify.gguf_values import check_values
from quantlab.checkpoints.verify.headers import as_text, is_pointer
from quantlab.checkpoints.verify.result import Findings
from quantlab.checkpoints.verify.tokenizer import check_rows, check_template
from quantlab.errors import QuantlabError
from quantlab.formats.gguf_file import GgufFile, open_gguf
from quantlab.formats.gguf_head import alignment_of, padded

KIND = "gguf"
_SIZES = {  # config.json's names
    "hidden_size": "embedding_length", "intermediate_size": "feed_forward_length", "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
}  # fmt: skip
_OPTIONAL = {"num_key_value_heads": "attention.head_count_kv", "head_dim": "attention.key_length"}
_SPECIAL = ("bos", "eos", "padding", "unknown", "eot")
_MAY_LACK = ("output.weight", ".bias")  # tied to the embedding; not every Llama has biases
_NO_WEIGHTS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def check_gguf(path: Path, quick: bool, progress: Callable[[str, float], None], findings: Findings) -> str:
    """Run every check on a GGUF file, and give its kind."""
    progress("head", 0.0)
    if is_pointer(path):
        findings.fault("files", f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull`")
        return "unknown"
    try:
        file = open_gguf(path)
    except QuantlabError as error:
        findings.fault("headers", str(error))
        return "unknown"
    findings.well("headers", f"{len(file.values)} values of metadata, {len(file.tensors):,} tensors, all in the file")
    _offsets(file, findings)
    config = _config(file, findings)
    if config is not None:
        _shapes(file, config, findings)
    _tokens(file, findings)
    if not quick and not findings.failed("headers"):
        check_values(file, config or {}, progress, findings)
    return KIND


def _offsets(file: GgufFile, findings: Findings) -> None:
    """Each tensor begins where the one before it ends, padded: ggml refuses anything else."""
    alignment, at = alignment_of(file.values), 0
    for info in file.tensors.values():
        if info.offset != at:
            how = "overlaps the one before it" if info.offset < at else "leaves a gap before it"
            what = f"{info.name} in {file.path} begins at {info.offset:,} instead of {at:,}: it {how}"
            findings.fault("headers", f"{what}; its type or its shape is wrong: download or convert the file again")
            return
        at = padded(info.offset + info.nbytes, alignment)
    if not file.tensors:
        findings.fault("headers", f"{file.path} holds no tensors; download or convert it again")
    size = file.path.stat().st_size
    if size > file.data_start + at:
        findings.unsure("headers", f"{size - file.data_start - at:,} bytes follow the last tensor, and mean nothing")


def _config(file: GgufFile, findings: Findings) -> dict[str, Any] | None:
    """The sizes of the model by the names of config.json; None where the metadata do not give them."""
    said = file.metadata
    architecture = said.get("general.architecture")
    if not isinstance(architecture, str):
        findings.fault("config", f"{file.path} names no general.architecture; convert the model again")
        return None
    if said.get("split.count", 1) not in (0, 1):
        findings.unsure("config", f"this is one of {as_text(said['split.count'])} files; the others were not looked at")
        return None
    config: dict[str, Any] = {"architecture": architecture}
    for name, key in (_SIZES | _OPTIONAL).items():
        value = said.get(f"{architecture}.{key}")
        if value is None and name in _OPTIONAL:
            continue
        if type(value) is not int or not 0 < value < 2**31:
            if architecture not in {family.architecture for family in FAMILIES}:
                findings.unsure("config", f"{architecture} has sizes of its own kind, which were not compared")
                return None
            what = f"{file.path} has {architecture}.{key} {as_text(value)}, no size of a model; convert it again"
            findings.fault("config", what)
            return None
        config[name] = value
    for key in ("rope.freq_base", "attention.layer_norm_rms_epsilon"):
        value = said.get(f"{architecture}.{key}")
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
            what = f"{file.path} has {architecture}.{key} {value}, which must be positive; convert it again"
            findings.fault("config", what)
    findings.well("config", f"the metadata describe a {architecture}")
    return config


def _shapes(file: GgufFile, config: dict[str, Any], findings: Findings) -> None:
    """Names and shapes against the architecture and its sizes."""
    architecture = config["architecture"]
    family = next((family for family in FAMILIES if family.architecture == architecture), None)
    layers = config["num_hidden_layers"]
    if family is None:
        findings.unsure("shapes", f"{as_text(architecture)} is not described here: shapes were not compared")
        return
    if layers > len(file.tensors):
        what = f"{file.path} says {layers:,} blocks and holds {len(file.tensors):,} tensors; it is not whole"
        findings.fault("shapes", f"{what}: download or convert it again")
        return
    embedding = file.tensors.get("token_embd.weight")
    biased = {setting: any(name.endswith(".bias") for name in file.tensors) for setting in family.may_be_biased}
    vocabulary = embedding.shape[0] if embedding is not None else 1
    shapes = expected_shapes(family, {**config, **biased, "vocab_size": vocabulary})
    names = {gguf_name(name): shape for name, shape in shapes.items()}
    for name, shape in names.items():
        if name not in file.tensors:
            if not name.endswith(_MAY_LACK):
                what = f"{name} is missing in {file.path}, a {architecture} needs it; convert the model again"
                findings.fault("shapes", what, "missing")
        elif file.tensors[name].shape != shape:
            have = list(file.tensors[name].shape)
            what = f"{name} is {have}, the metadata imply {list(shape)}; they do not belong together: convert it again"
            findings.fault("shapes", what, "another shape")
    if surplus := sorted(file.tensors.keys() - names.keys() - {*_NO_WEIGHTS}):
        what = f"{surplus[0]} has no place in a {architecture} of these sizes ({len(surplus):,} such tensors)"
        findings.fault("shapes", f"{what}; convert the model again")
    findings.well("shapes", "every tensor has the name and shape that the metadata imply")


def _tokens(file: GgufFile, findings: Findings) -> None:
    """The tokenizer inside the file."""
    said, embedding = file.metadata, file.tensors.get("token_embd.weight")
    tokens = said.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        what = f"{file.path} holds no tokenizer, or one that makes no sense; convert the model again with its tokenizer"
        findings.fault("tokenizer", what)
        return
    rows = embedding.shape[0] if embedding is not None else len(tokens)
    if len(tokens) < rows:
        what = f"{file.path} has {len(tokens):,} tokens and {rows:,} rows in token_embd, which llama.cpp refuses"
        findings.fault("tokenizer", f"{what}; convert the model again with its tokenizer")
    else:
        check_rows(dict(enumerate(tokens)), rows, str(file.path), findings)
    _beside_tokens(said, len(tokens), str(file.path), findings)
    template = said.get("tokenizer.chat_template")
    if isinstance(template, str):
        check_template(template, str(file.path), findings)
    else:
        findings.unsure("template", "there is no chat template; a server cannot answer a chat, only go on with a text")


def _beside_tokens(said: Mapping[str, Any], tokens: int, where: str, findings: Findings) -> None:
    """Types and scores, one for each token, and special ids that exist."""
    for key in ("token_type", "scores"):
        values = said.get(f"tokenizer.ggml.{key}")
        if values is not None and not (isinstance(values, list) and len(values) == tokens):
            what = f"{where} has {tokens:,} tokens and another number of tokenizer.ggml.{key}; convert the model again"
            findings.fault("tokenizer", what)
    for role in _SPECIAL:
        value = said.get(f"tokenizer.ggml.{role}_token_id")
        if value is not None and not (type(value) is int and 0 <= value < tokens):
            what = f"{where} has {role}_token_id {as_text(value)}, which is no token of {tokens:,}"
            findings.fault("tokenizer", f"{what}; convert the model again")
