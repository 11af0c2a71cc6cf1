"""`verify` on files with bytes flipped, cut out and put in: a sentence or a failed check, never a crash, hang or flood.

Bounded: each look takes at most SECONDS and MEMORY. Deterministic: hypothesis draws the same mutations each time. For a
search without end see tools/fuzz_verify.py.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from verify_fuzz import FORMATS, Mutation, header_end, looked_at, mutated, small_checkpoint, small_gguf, small_model

SECONDS = 5.0  # for a look that takes a tenth of that on an idle machine
MEMORY = 64 * 2**20  # of Python, where the files take 100 kB
RESIDENT = 512 * 2**20  # of the whole process, all looks of a test together
INDEX = "model.safetensors.index.json"

FUZZ = settings(
    max_examples=40, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
WHERE = st.floats(0, 1, exclude_max=True)
MUTATIONS: st.SearchStrategy[list[Mutation]] = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), WHERE, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("cut"), WHERE, st.binary(min_size=1, max_size=1)),
        st.tuples(st.just("end"), WHERE, st.just(b"")),
        st.tuples(
            st.just("insert"), WHERE, st.sampled_from([b"9" * 30, b'"', b"[", b"-", b"\xff" * 8, b"null", b"1e999"])
        ),
    ),
    min_size=1,
    max_size=4,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(scope="module")
def checkpoints(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    made = {kind: small_checkpoint(model, folder / kind, kind) for kind in FORMATS}
    return {**made, "shards": small_checkpoint(model, folder / "shards", "packed", shard_bytes=12_000)}


@contextmanager
def _bounded() -> Iterator[None]:
    """Time and memory of one look."""
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    tracemalloc.start()
    start = time.perf_counter()
    try:
        yield
        took, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert took < SECONDS
    assert peak < MEMORY
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before < RESIDENT


def _look(folder: Path, name: str, content: bytes) -> None:
    """Look at the folder with one file changed, and put the file back."""
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(content)
    try:
        with _bounded():
            looked_at(folder)
    finally:
        path.write_bytes(whole)


def test_nothing_is_wrong_with_them_unchanged(model: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Or every mutation would end at the same fault."""
    for path in (model, *checkpoints.values(), small_gguf(model, tmp_path / "model.gguf")):
        found = looked_at(path)
        assert found is not None
        assert found.ok, found.to_json()


@FUZZ
@given(kind=st.sampled_from([*FORMATS, "shards"]), mutations=MUTATIONS)
def test_headers_of_safetensors(checkpoints: dict[str, Path], kind: str, mutations: list[Mutation]) -> None:
    path = min(checkpoints[kind].glob("*.safetensors"))
    _look(checkpoints[kind], path.name, mutated(path.read_bytes(), mutations, header_end(path)))


@FUZZ
@given(kind=st.sampled_from(list(FORMATS)), mutations=MUTATIONS)
def test_config(checkpoints: dict[str, Path], kind: str, mutations: list[Mutation]) -> None:
    _look(checkpoints[kind], "config.json", mutated((checkpoints[kind] / "config.json").read_bytes(), mutations))


@FUZZ
@given(kind=st.sampled_from(list(FORMATS)), data=st.data(), value=JSON)
def test_config_that_is_json_of_any_kind(
    checkpoints: dict[str, Path], kind: str, data: st.DataObject, value: object
) -> None:
    """One setting, at any depth, becomes something else."""
    config = json.loads((checkpoints[kind] / "config.json").read_text())
    place = config
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    _look(checkpoints[kind], "config.json", json.dumps(config).encode())


@FUZZ
@given(mutations=MUTATIONS)
def test_index(checkpoints: dict[str, Path], mutations: list[Mutation]) -> None:
    folder = checkpoints["shards"]
    _look(folder, INDEX, mutated((folder / INDEX).read_bytes(), mutations))


@FUZZ
@given(
    name=st.sampled_from(["tokenizer.json", "tokenizer_config.json", "generation_config.json", "quantlab.json"]),
    mutations=MUTATIONS,
)
def test_files_beside_the_weights(checkpoints: dict[str, Path], name: str, mutations: list[Mutation]) -> None:
    folder = checkpoints["packed"]
    _look(folder, name, mutated((folder / name).read_bytes(), mutations))


@FUZZ
@given(template=st.text(st.sampled_from("{%}| mesagif orndlt'\"()[]."), max_size=60))
def test_chat_templates(checkpoints: dict[str, Path], template: str) -> None:
    _look(checkpoints["packed"], "tokenizer_config.json", json.dumps({"chat_template": template}).encode())


@FUZZ
@given(kind=st.sampled_from(list(FORMATS)), mutations=MUTATIONS)
def test_weights(checkpoints: dict[str, Path], kind: str, mutations: list[Mutation]) -> None:
    """Any bytes for codes and scales, in a file whose header is well."""
    path = checkpoints[kind] / "model.safetensors"
    raw, end = path.read_bytes(), header_end(path)
    flips = [(what, where, content) for what, where, content in mutations if what == "flip"] or [("flip", 0.5, b"\x7f")]
    _look(checkpoints[kind], path.name, raw[:end] + mutated(raw[end:], flips))


@FUZZ
@given(mutations=MUTATIONS)
def test_gguf_heads(small: Path, mutations: list[Mutation]) -> None:
    _look_at_file(small, mutated(small.read_bytes(), mutations, header_end(small)))


@FUZZ
@given(mutations=MUTATIONS)
def test_gguf_anywhere(small: Path, mutations: list[Mutation]) -> None:
    _look_at_file(small, mutated(small.read_bytes(), mutations))


@FUZZ
@given(raw=st.binary(max_size=200))
def test_gguf_of_any_bytes(small: Path, raw: bytes) -> None:
    _look_at_file(small, b"GGUF\x03\x00\x00\x00" + raw)


@pytest.fixture(scope="module")
def small(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_gguf(model, tmp_path_factory.mktemp("gguf") / "model.gguf")


def _look_at_file(path: Path, content: bytes) -> None:
    other = path.with_name("other.gguf")
    other.write_bytes(content)
    with _bounded():
        looked_at(other)
