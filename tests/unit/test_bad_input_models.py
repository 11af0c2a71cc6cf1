"""Every wrong model folder is one clear sentence with its remedy: before anything is loaded where that is possible."""

from __future__ import annotations

import json
import struct

import pytest
from bad_models import WEIGHTS, both, copy_of, edit, header, joined, put, remove, rename, sharded, split, weights, write

from quantlab.errors import QuantlabError, UsageError
from quantlab.models.load import load, resolve

NORM = "model.norm.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"
INDEX = "model.safetensors.index.json"


def swap_offsets(table):
    table[NORM]["data_offsets"] = [0, table[NORM]["data_offsets"][1] - table[NORM]["data_offsets"][0]]


def drop_tensor(content):
    """Leave one tensor out, and close the gap."""
    table, body = split(content)
    begin, end = table.pop(NORM)["data_offsets"]
    for name, entry in table.items():
        if name != "__metadata__" and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset - (end - begin) for offset in entry["data_offsets"]]
    return joined(table, body[:begin] + body[end:])


def not_finite(content):
    table, body = split(content)
    begin = table[NORM]["data_offsets"][0]
    return joined(table, body[:begin] + b"\xc0\x7f" + body[begin + 2 :])  # a NaN in bfloat16


def longer_vocabulary(folder):
    table = json.loads((folder / "tokenizer.json").read_text())
    table["model"]["vocab"]["zzzz"] = 70_000
    write(folder, "tokenizer.json", json.dumps(table))


def remove_all(folder):
    for path in folder.iterdir():
        path.unlink()


# what is done to a copy of the bundled model -> words of the sentence that must follow; found without loading anything
FOUND_BY_LOOKING = {
    "empty folder": (remove_all, "is empty", "copy or download"),
    "no config": (remove("config.json"), "holds no config.json"),
    "config is not JSON": (put("config.json", '{"model_type": "llama",'), "config.json is not valid JSON (line 1"),
    "config is binary": (put("config.json", b"\xff\xfe\x00"), "config.json is not a JSON text file"),
    "config is a list": (put("config.json", "[1]"), "config.json holds no JSON object"),
    "config is too deep": (put("config.json", "[" * 100_000), "config.json is not"),
    "config of nothing": (put("config.json", "{}"), "names no model_type"),
    "pickle only": (rename(WEIGHTS, "pytorch_model.bin"), "only a pickle checkpoint (pytorch_model.bin)", "refused"),
    "pickle named pt": (rename(WEIGHTS, "model.pt"), "only a pickle checkpoint (model.pt)", "safetensors version"),
    "GGUF only": (rename(WEIGHTS, "model.gguf"), "holds model.gguf but no safetensors", "original model"),
    "no weights": (remove(WEIGHTS), "holds no model.safetensors"),
    "weights by another name": (rename(WEIGHTS, "adapter.safetensors"), "holds neither model.safetensors nor"),
    "weights empty": (put(WEIGHTS, b""), "does not start as a safetensors file does", "again"),
    "weights of seven bytes": (put(WEIGHTS, b"1234567"), "does not start as a safetensors file does"),
    "weights are a pickle in disguise": (put(WEIGHTS, b"PK\x03\x04" + bytes(4096)), "does not start as"),
    "weights are a Git LFS pointer": (
        put(WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"), "`git lfs pull`"),
    "header longer than the file": (put(WEIGHTS, struct.pack("<Q", 5000) + b"{}"), "is cut short"),
    "header over the limit": (put(WEIGHTS, struct.pack("<Q", 100_000_001) + b"{}"), "does not start as"),
    "header not JSON": (put(WEIGHTS, joined(b'{"a": ', b"")), "damaged header (not valid JSON)"),
    "header too deep": (put(WEIGHTS, joined(b'{"a": ' + b"[" * 100_000, b"")), "damaged header (not valid JSON)"),
    "header a list": (put(WEIGHTS, joined(b"[]", b"")), "does not start as"),
    "a tensor twice": (put(WEIGHTS, joined(b'{"a": {}, "a": {}}', b"")), "damaged header (not valid JSON)"),
    "no tensors": (put(WEIGHTS, joined({}, b"")), "holds no tensors"),
    "unknown type": (header(lambda t: t[NORM].update(dtype="F5")), f"its entry for '{NORM}' makes no sense"),
    "negative shape": (header(lambda t: t[NORM].update(shape=[-512])), f"its entry for '{NORM}' makes no sense"),
    "offsets missing": (header(lambda t: t[NORM].pop("data_offsets")), f"its entry for '{NORM}' makes no sense"),
    "shape of other bytes": (header(lambda t: t[NORM].update(shape=[511])), "bytes are not BF16 of shape [511]"),
    "overlap": (header(swap_offsets), "overlaps the one before it"),
    "a gap": (header(lambda t: t.pop(QUERY)), "leaves a gap before it"),
    "truncated": (weights(lambda content: content[:-1000]), "is cut short: 1,000 of", "again"),
    "cut in half": (weights(lambda content: content[: len(content) // 2]), "is cut short"),
    "too long": (weights(lambda content: content + b"junk"), "has 4 bytes too many"),
    "a missing shard": (
        both(sharded, remove("model-00002-of-00002.safetensors")), "names model-00002-of-00002", "1 of 2 shards"),
    "an index of nothing": (both(sharded, put(INDEX, "{}")), "has no weight_map"),
    "an index that lists too much": (
        both(sharded, edit(INDEX, weight_map={"x": "model-00001-of-00002.safetensors"})),
        "lists x, which no shard holds"),
    "an index that leaves its folder": (
        both(sharded, edit(INDEX, weight_map={"x": "../x.safetensors"})), "not a safetensors file beside it"),
    "an index that names a pickle": (
        both(sharded, edit(INDEX, weight_map={"x": "x.bin"})), "'x.bin', which is not a safetensors file"),
    "no tokenizer": (remove("tokenizer.json"), "holds no tokenizer", "copy tokenizer.json"),
    "unknown type of model": (edit("config.json", model_type="lama"), "type 'lama'", "not a language model"),
    "not a language model": (edit("config.json", model_type="vit", architectures=["ViTModel"]), "type 'vit'"),
    "another head": (edit("config.json", architectures=["LlamaForSequenceClassification"]), "not a language model"),
    "quantized already": (
        edit("config.json", quantization_config={"quant_method": "awq"}), "quantized already (awq)", "original model"),
    "code of its own": (
        edit("config.json", model_type="mine", auto_map={"AutoModelForCausalLM": "mine.Mine"}),
        "Python code of its own, which is refused", "--trust-remote-code"),
}  # fmt: skip

# the same, found while loading
FOUND_BY_LOADING = {
    "a tensor is missing": (weights(drop_tensor), f"{NORM} and 0 other tensors are missing"),
    "weights not finite": (weights(not_finite), f"{NORM} in", "not finite"),
    "config of a wider model": (edit("config.json", intermediate_size=1280), "config.json asks for [", "do not belong"),
    "config of a deeper model": (edit("config.json", num_hidden_layers=5), "are missing in", "do not belong"),
    "config of a shallower model": (edit("config.json", num_hidden_layers=3), "are not in the config", "do not belong"),
    "config of a giant": (edit("config.json", hidden_size=65536, head_dim=64), "parameters and the weights hold"),
    "config of a tower": (edit("config.json", num_hidden_layers=10**9), "more layers than the weights have tensors"),
    "config of another vocabulary": (edit("config.json", vocab_size=5000), "config.json asks for [5000, 512]"),
    "a word for a size": (edit("config.json", hidden_size="wide"), "does not describe a model: Validation error"),
    "heads that do not divide": (edit("config.json", num_attention_heads=7), "does not describe a model"),
    "an activation nobody knows": (edit("config.json", hidden_act="zzz"), "does not describe a model"),
    "tokenizer not JSON": (put("tokenizer.json", "{"), "tokenizer.json is not valid JSON"),
    "tokenizer of nothing": (put("tokenizer.json", "{}"), "the tokenizer in", "cannot be read"),
    "tokenizer of another model": (longer_vocabulary, "does not match the model", "70000 ('zzzz')", "4096 rows"),
    "special ids out of range": (edit("config.json", eos_token_id=4096), "eos_token_id of the config.json", "4096"),
    "special ids out of range, generation": (
        edit("generation_config.json", pad_token_id=9999), "pad_token_id of the generation_config", "9999"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND_BY_LOOKING)
def test_found_by_looking(name, tiny_folder, tmp_path):
    broken, *words = FOUND_BY_LOOKING[name]
    folder = copy_of(tiny_folder, tmp_path / "model")
    broken(folder)
    with pytest.raises(QuantlabError) as caught:
        resolve(str(folder))
    one_sentence(caught.value, *words)


@pytest.mark.parametrize("name", FOUND_BY_LOADING)
def test_found_by_loading(name, tiny_folder, tmp_path, capfd):
    broken, *words = FOUND_BY_LOADING[name]
    folder = copy_of(tiny_folder, tmp_path / "model")
    broken(folder)
    with pytest.raises(QuantlabError) as caught:
        load(str(folder))
    one_sentence(caught.value, *words)
    assert capfd.readouterr() == ("", "")  # the sentence is all there is to say


def one_sentence(error, *words):
    message = str(error)
    assert error.exit_code == 1
    assert "\n" not in message
    for word in words:
        assert word in message


def test_the_copy_itself_is_fine_whole_or_in_shards(tiny_folder, tmp_path):
    whole = load(str(copy_of(tiny_folder, tmp_path / "whole")))
    folder = copy_of(tiny_folder, tmp_path / "shards")
    sharded(folder)
    parts = load(str(folder))
    for (name, one), (_, other) in zip(whole.model.named_parameters(), parts.model.named_parameters(), strict=True):
        assert one.equal(other), name


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("/nowhere/at/all", "there is no model folder /nowhere/at/all"),
        ("./nowhere", "there is no model folder"),
        ("~/nowhere/at/all", "there is no model folder"),
        ("a/b/c", "there is no model folder a/b/c"),
        (__file__, "is a file; give the folder"),
    ],
)
def test_a_missing_folder(model, words):
    with pytest.raises(QuantlabError, match=words):
        resolve(model)


@pytest.mark.parametrize("model", ["", "  "])
def test_an_empty_name(model):
    with pytest.raises(UsageError, match="name is empty"):
        resolve(model)


def test_a_folder_that_cannot_be_read(tiny_folder, tmp_path, monkeypatch):
    folder = copy_of(tiny_folder, tmp_path / "model")

    def denied(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.iterdir", denied)  # root may read every folder, so the fault is injected
    with pytest.raises(QuantlabError, match=r"cannot read the folder .*: Permission denied; check its permissions"):
        resolve(str(folder))


def test_a_revision_is_for_the_hub(tiny_folder):
    with pytest.raises(UsageError, match="leave it out"):
        resolve(str(tiny_folder), revision="main")
    with pytest.raises(UsageError, match="leave it out"):
        resolve("tiny", revision="main")


def test_consent_to_code_is_by_name(tiny_folder, tmp_path):
    folder = copy_of(tiny_folder, tmp_path / "model")
    edit("config.json", model_type="mine", auto_map={"AutoModelForCausalLM": "mine.Mine"})(folder)
    for consent in (True, "another"):
        with pytest.raises(UsageError, match=f"name that model: --trust-remote-code {folder}"):
            resolve(str(folder), trust_remote_code=consent)
    assert resolve(str(folder), trust_remote_code=str(folder)).trusted


def test_code_from_another_repository_is_refused_even_so(tiny_folder, tmp_path):
    folder = copy_of(tiny_folder, tmp_path / "model")
    edit("config.json", model_type="mine", auto_map={"AutoModelForCausalLM": "other/repo--mine.Mine"})(folder)
    with pytest.raises(QuantlabError, match="from another repository"):
        resolve(str(folder), trust_remote_code=str(folder))


def test_a_model_with_both_its_own_code_and_a_known_type_runs_without_that_code(tiny_folder, tmp_path):
    folder = copy_of(tiny_folder, tmp_path / "model")
    edit("config.json", auto_map={"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Config"})(folder)
    write(folder, "evil.py", "raise SystemExit('the code of the model ran')")
    assert type(load(str(folder)).model).__name__ == "LlamaForCausalLM"


def test_too_little_memory(tiny_folder, monkeypatch):
    import psutil

    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(available=2**20))
    with pytest.raises(QuantlabError, match=r"takes about 0\.1 GiB of memory, 0\.0 GiB are free; close other programs"):
        load("tiny")
