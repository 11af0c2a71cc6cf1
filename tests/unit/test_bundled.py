"""What comes with quantlab is there, whole and well-formed, and damage to it is found."""

from __future__ import annotations

import json
import shutil

import pytest

from quantlab.assets import bundled
from quantlab.errors import QuantlabError
from quantlab.models import bundled as files
from quantlab.models.folder import examine


def test_nothing_is_wrong_with_the_bundled_files():
    assert files.problems() == []
    assert "story model (22 MB)" in files.summary()


def test_the_model_is_what_the_course_promises(tiny_folder):
    checkpoint = examine(tiny_folder)
    config = checkpoint.config
    assert config["model_type"] == "llama"
    assert config["hidden_size"] % 256 == config["intermediate_size"] % 256 == 0  # K-quants
    assert config["head_dim"] == 64
    assert config["num_attention_heads"] % config["num_key_value_heads"] == 0
    assert config["num_key_value_heads"] < config["num_attention_heads"]  # grouped-query attention
    assert config["max_position_embeddings"] >= 512
    assert {entry.dtype for entry in checkpoint.tensors.values()} == {"BF16"}
    assert (tiny_folder / "model.safetensors").stat().st_size <= 24_000_000
    assert "chat_template" in json.loads((tiny_folder / "tokenizer_config.json").read_text())


def cut_weights(root):
    path = root / "assets/story-model/model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut_weights, "model.safetensors is cut short"),
        (lambda root: (root / "assets/story-model/tokenizer.json").unlink(), "holds no tokenizer"),
        (lambda root: (root / "assets/stories/endings.jsonl").unlink(), "endings.jsonl is missing or damaged"),
        (lambda root: (root / "assets/stories/prompts.jsonl").write_text("{}\n"), "has 1 lines instead of 40"),
        (lambda root: (root / "lessons/01.ipynb").write_text("{}"), "01.ipynb is damaged"),
        (lambda root: (root / "labs/01.ipynb").unlink(), "labs holds no notebook"),
        (lambda root: shutil.rmtree(root / "labs"), "labs is missing from this installation"),
    ],
)
def test_damage_is_found(damage, said, tmp_path, monkeypatch):
    shutil.copytree(bundled("assets/story-model"), tmp_path / "assets/story-model")
    shutil.copytree(bundled("assets/stories"), tmp_path / "assets/stories")
    for name in ("lessons", "labs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "01.ipynb").write_text('{"cells": []}')
    monkeypatch.setattr("quantlab.assets._PACKAGE", tmp_path / "quantlab")
    assert files.problems() == []
    damage(tmp_path)
    [problem] = files.problems()
    assert said in problem
    assert "; " in problem  # and what to do about it


def test_a_file_that_is_not_bundled():
    with pytest.raises(QuantlabError, match="the bundled no/such is missing from this installation; install quantlab"):
        bundled("no/such")


def test_an_installed_quantlab_looks_inside_itself_alone(tmp_path, monkeypatch):
    for folder in ("quantlab/_bundle/lessons", "labs"):  # somebody else's `labs` in site-packages
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr("quantlab.assets._PACKAGE", tmp_path / "quantlab")
    assert bundled("lessons") == tmp_path / "quantlab/_bundle/lessons"
    with pytest.raises(QuantlabError, match="the bundled labs is missing"):
        bundled("labs")
