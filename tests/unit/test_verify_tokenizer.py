"""Tokenizers of other models, special ids that are no tokens, and chat templates that nobody can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from verify_cases import copy_of, edit, must_find

from quantlab.checkpoints.manifest import write_manifest
from quantlab.checkpoints.verify import verify


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return copy_of(tiny_folder, tmp_path / "model")


def _answers(folder: Path, name: str) -> list[bool | None]:
    return [check.passed for check in verify(folder, quick=True).checks if check.name == name]


def test_a_vocabulary_larger_than_the_embedding(folder: Path) -> None:
    def grow(content: dict[str, Any]) -> None:
        content["model"]["vocab"] |= {f"new{i}": 4096 + i for i in range(10)}

    edit(folder, "tokenizer.json", grow)
    must_find(folder, "tokenizer", "new9", "4,105", "4,096 rows", "10 tokens", "copy the tokenizer", quick=True)


def test_an_added_token_beyond_the_embedding(folder: Path) -> None:
    edit(folder, "tokenizer.json", lambda content: content["added_tokens"].append({"id": 4096, "content": "<|x|>"}))
    must_find(folder, "tokenizer", "<|x|>", "4,096 rows", quick=True)


def test_a_unigram_vocabulary_is_a_list(folder: Path) -> None:
    pairs = [[f"t{i}", -1.0] for i in range(5000)]
    edit(folder, "tokenizer.json", lambda content: content.update(model={"type": "Unigram", "vocab": pairs}))
    must_find(folder, "tokenizer", "t0", quick=True)  # the added tokens have its ids


def test_a_tokenizer_of_a_small_model_is_told(folder: Path) -> None:
    few = {f"t{i}": i + 10 for i in range(300)}
    edit(folder, "tokenizer.json", lambda content: content["model"].update(vocab=few))
    assert _answers(folder, "tokenizer") == [None]


def test_a_tokenizer_that_is_not_the_one_of_the_manifest(folder: Path) -> None:
    """Another one of the same size: no shape tells."""
    write_manifest(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    a, b = list(content["model"]["vocab"])[1000:1002]
    vocab = content["model"]["vocab"]
    vocab[a], vocab[b] = vocab[b], vocab[a]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    found = verify(folder, quick=False)
    assert [check.name for check in found.checks if check.passed is False] == ["manifest"]
    assert "tokenizer.json" in str(found.fault)


def test_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    must_find(folder, "tokenizer", "no tokenizer", quick=True)


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", "{}", '{"model": {}}', '{"model": {"vocab": 3}}', '{"model": {"vocab": {"a": "b"}}}',
        '{"model": {"vocab": {"a": -1}}}', '{"model": {"vocab": {"a": true}}}', '{"model": {"vocab": [[]]}}',
        '{"model": {"vocab": {"a": 1e400}}}', '{"model": {"vocab": {"a": 1, "b": 1}}}', "[" * 100_000,
        '{"model": {"vocab": {}}, "added_tokens": 3}',
        '{"model": {"vocab": {}}, "added_tokens": [{"id": null, "content": "x"}]}',
    ],
)  # fmt: skip
def test_a_tokenizer_that_makes_no_sense(folder: Path, content: str) -> None:
    (folder / "tokenizer.json").write_text(content)
    must_find(folder, "tokenizer", "tokenizer.json", quick=True)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("value", [4096, -2, "1", [1, 9999], 1.5])
def test_special_ids_that_are_no_tokens(folder: Path, name: str, value: object) -> None:
    edit(folder, name, lambda content: content.update(eos_token_id=value))
    must_find(folder, "tokenizer", name, "eos_token_id", "4,096", quick=True)


@pytest.mark.parametrize("value", [None, -1, 1, [0, 1, 4095]])
def test_special_ids_that_are_well(folder: Path, value: object) -> None:
    edit(folder, "generation_config.json", lambda content: content.update(eos_token_id=value))
    assert verify(folder, quick=True).ok


BROKEN = ("{% if x %}", "{{ messages", "{% endfor %}", "{{ a b }}", "{% unknown %}", "{{" + "(" * 5000, "{{ 1 +* 2 }}")


@pytest.mark.parametrize("template", BROKEN)
def test_an_unreadable_template(folder: Path, template: str) -> None:
    edit(folder, "tokenizer_config.json", lambda content: content.update(chat_template=template))
    must_find(folder, "template", "tokenizer_config.json", "cannot be read", quick=True)


def test_an_unreadable_template_in_a_file_of_its_own(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for m in messages %}")
    must_find(folder, "template", "chat_template.jinja", "line 1", quick=True)
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    must_find(folder, "template", "chat_template.jinja", "no text", quick=True)


@pytest.mark.parametrize("template", [3, [3], [{"name": "x"}], {"a": "b"}])
def test_a_template_that_is_no_text(folder: Path, template: object) -> None:
    edit(folder, "tokenizer_config.json", lambda content: content.update(chat_template=template))
    assert not verify(folder, quick=True).ok


def test_templates_that_transformers_reads(folder: Path) -> None:
    """Loop controls, and the block by which it marks what the model said."""
    template = "{% for m in messages %}{% if loop.index > 9 %}{% break %}{% endif %}{% generation %}{{ m }}"
    template += "{% endgeneration %}{% endfor %}"
    named = [{"name": "default", "template": template}, {"name": "tool_use", "template": "{{ tools | tojson }}"}]
    edit(folder, "tokenizer_config.json", lambda content: content.update(chat_template=named))
    assert _answers(folder, "template") == [True]


def test_a_template_is_parsed_and_never_run(folder: Path) -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}"
    edit(folder, "tokenizer_config.json", lambda content: content.update(chat_template=endless))
    assert _answers(folder, "template") == [True]


def test_a_model_without_a_template_is_told(folder: Path) -> None:
    edit(folder, "tokenizer_config.json", lambda content: content.pop("chat_template"))
    assert _answers(folder, "template") == [None]
