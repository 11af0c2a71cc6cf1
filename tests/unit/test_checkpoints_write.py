"""Writing a checkpoint: whole or not at all, in shards, with its card and its hashes; and all that is refused."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_cases import CASES, Layers, quantize, weights_of
from huggingface_hub import metadata_load, split_torch_state_dict_into_shards
from random_llama import write_llama
from safetensors.torch import load_file, save_file

from quantlab.checkpoints import manifest, write
from quantlab.checkpoints.fused import fused_absmax, stacks
from quantlab.checkpoints.read import dequantized, read_checkpoint
from quantlab.checkpoints.write import write_checkpoint
from quantlab.errors import QuantlabError, UsageError
from quantlab.formats import gptq_pack, pack_quantized
from quantlab.formats.catalog import quantize_tensor

Q_PROJ = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("source") / "random-llama", tie_word_embeddings=False)


@pytest.fixture(scope="module")
def quantized(source: Path) -> Layers:
    return quantize(weights_of(source), "int4_g32", scale_dtype="bfloat16")


def test_the_folder(source: Path, quantized: Layers, tmp_path: Path) -> None:
    folder = write_checkpoint(source, tmp_path / "deep" / "out", quantized)
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md", "quantlab.json",
    }  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == ["out"]
    config, before = (json.loads((where / "config.json").read_text()) for where in (folder, source))
    assert config.pop("quantization_config")["quant_method"] == "compressed-tensors"
    assert config == before
    theirs, ours = load_file(source / "model.safetensors"), load_file(folder / "model.safetensors")
    for name in theirs.keys() & ours.keys():
        assert torch.equal(ours[name], theirs[name])
    assert theirs.keys() - ours.keys() == {f"{name}.weight" for name in quantized}


def test_only_what_belongs_to_the_model_is_copied(source: Path, quantized: Layers, tmp_path: Path) -> None:
    here = Path(shutil.copytree(source, tmp_path / "source"))
    for name in ("LICENSE", "chat_template.jinja", "tokenizer.model", "train.py", "README.md", "pytorch_model.bin"):
        (here / name).write_text("x")
    (here / "tokenizer_cache").mkdir()
    copied = {path.name for path in write_checkpoint(here, tmp_path / "out", quantized).iterdir()}
    assert {"LICENSE", "chat_template.jinja", "tokenizer.model"} < copied
    assert not {"train.py", "pytorch_model.bin", "tokenizer_cache"} & copied
    config = json.loads((here / "config.json").read_text()) | {"auto_map": {"AutoConfig": "train.Config"}}
    (here / "config.json").write_text(json.dumps(config))
    assert (write_checkpoint(here, tmp_path / "own code", quantized) / "train.py").is_file()


def test_gptq_repeats_its_settings_for_older_loaders(source: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(source, tmp_path / "out", quantize(weights_of(source), "gptq_int4_g32"))
    repeated, config = (json.loads((folder / name).read_text()) for name in ("quantize_config.json", "config.json"))
    assert repeated == config["quantization_config"]


# shards


@pytest.mark.parametrize("shard_bytes", [36_000, 60_000])
def test_shards_and_index_are_those_of_the_hub(
    source: Path, quantized: Layers, tmp_path: Path, shard_bytes: int
) -> None:
    folder = write_checkpoint(source, tmp_path / "out", quantized, shard_bytes=shard_bytes)
    whole = load_file(write_checkpoint(source, tmp_path / "whole", quantized) / "model.safetensors")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    in_order = {name: whole[name] for name in index["weight_map"]}
    theirs = split_torch_state_dict_into_shards(dict(sorted(in_order.items(), key=lambda one: order(one[0], source))),
                                                max_shard_size=shard_bytes)  # fmt: skip
    assert index["weight_map"] == theirs.tensor_to_filename
    assert index["metadata"]["total_size"] == theirs.metadata["total_size"]
    assert index["metadata"]["total_parameters"] == sum(
        t.numel() for t in load_file(source / "model.safetensors").values()
    )
    for name in set(index["weight_map"].values()):
        assert sum(tensor.nbytes for tensor in load_file(folder / name).values()) <= shard_bytes
    again = {
        name: tensor for part in set(index["weight_map"].values()) for name, tensor in load_file(folder / part).items()
    }
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())
    assert again.keys() == whole.keys()
    read, before = dequantized(folder), dequantized(tmp_path / "whole")
    assert all(torch.equal(read[name], before[name]) for name in before)


def order(name: str, source: Path) -> tuple[int, int]:
    """Where a tensor of the new files stands: at the place of the weight that it is a part of."""
    names = [one.removesuffix(".weight") for one in write.examine(source).tensors]
    layer, _, part = name.rpartition(".")
    return names.index(layer), ("weight", "weight_packed", "weight_scale", "weight_shape").index(part)


def test_a_tensor_larger_than_a_shard_has_one_of_its_own(source: Path, quantized: Layers, tmp_path: Path) -> None:
    folder = write_checkpoint(source, tmp_path / "out", quantized, shard_bytes=1000)
    names = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert [name for name, file in names.items() if file == names["lm_head.weight"]] == ["lm_head.weight"]
    assert read_checkpoint(folder).keys() == quantized.keys()


def test_a_source_in_shards(source: Path, quantized: Layers, tmp_path: Path) -> None:
    here = Path(shutil.copytree(source, tmp_path / "source"))
    tensors = list(load_file(here / "model.safetensors").items())
    (here / "model.safetensors").unlink()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, half in zip(names, (tensors[::2], tensors[1::2]), strict=True):
        save_file(dict(half), here / name, metadata={"format": "pt"})
    weight_map = {name: names[i % 2] for i, (name, _) in enumerate(tensors)}
    (here / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    ours, theirs = (dequantized(write_checkpoint(a, tmp_path / b, quantized)) for a, b in ((here, "a"), (source, "b")))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_missing_shard(source: Path, quantized: Layers, tmp_path: Path) -> None:
    folder = write_checkpoint(source, tmp_path / "out", quantized, shard_bytes=30_000)
    next(folder.glob("model-00002-*")).unlink()
    with pytest.raises(QuantlabError, match=r"names model-00002-of-\d+.safetensors, which is missing"):
        read_checkpoint(folder)


# parameters that changed


def test_changed_parameters_are_stored_in_the_type_of_the_source(
    source: Path, quantized: Layers, tmp_path: Path
) -> None:
    norm = "model.layers.1.input_layernorm.weight"
    values = torch.linspace(0.5, 1.5, 64)
    folder = write_checkpoint(source, tmp_path / "out", quantized, parameters={norm: values})
    found = dequantized(folder)
    assert torch.equal(found[norm], values.bfloat16())
    assert torch.equal(found["model.norm.weight"], load_file(source / "model.safetensors")["model.norm.weight"])


def test_parameters_that_do_not_fit(source: Path, quantized: Layers, tmp_path: Path) -> None:
    norm = "model.norm.weight"
    for name, values, words in (
        ("model.norm.wait", torch.ones(64), "unknown parameter 'model.norm.wait'; did you mean 'model.norm.weight'"),
        (norm, torch.ones(65), r"model.norm.weight is \[64\], its new values \[65\]"),
        (norm, torch.full((64,), torch.inf), "not finite in BF16"),
        (f"{Q_PROJ}.weight", torch.ones(64, 64), "is quantized and among the changed parameters"),
    ):
        with pytest.raises(QuantlabError, match=words):
            write_checkpoint(source, tmp_path / "out", quantized, parameters={name: values})
    assert list(tmp_path.iterdir()) == []


# refusals


def _other(**options: Any) -> Callable[[Layers], Layers]:
    """One layer with other options."""
    return lambda layers: {**layers, Q_PROJ: quantize_tensor(layers[Q_PROJ].dequantize(), "int4_g32", **options)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda layers: {}, "no layer is quantized"),
        (lambda layers: {Q_PROJ.replace("q_proj", "q_prof"): layers[Q_PROJ]}, "unknown linear layer .* did you mean"),
        (lambda layers: {"model.embed_tokens": layers[Q_PROJ]}, "unknown linear layer 'model.embed_tokens'"),
        (lambda layers: {"model.norm": layers[Q_PROJ]}, "unknown linear layer 'model.norm'"),
        (lambda layers: {**layers, Q_PROJ: layers[Q_PROJ.replace("q_", "k_")]}, r"is \[64, 64\], its quantized"),
        (lambda layers: {**layers, "lm_head": quantize_tensor(torch.ones(275, 64), "int4_g32")}, "lm_head is"),
        (lambda layers: {Q_PROJ: layers[Q_PROJ]}, "q_proj is quantized and .*k_proj is not, but servers fuse the two"),
        (lambda layers: quantize_all(layers, "q4_0"), "q4_0 is in no checkpoint that a server loads"),
        (lambda layers: quantize_all(layers, "fp8_e5m2"), "fp8_e5m2 is in no checkpoint"),
        (lambda layers: {**layers, Q_PROJ: quantize_tensor(torch.ones(64, 64), "nf4")}, "got int4_g32, nf4"),
        (_other(symmetric=False, scale_dtype="bfloat16"), "int4_g32 with different options"),
        (_other(), 'scales are float16, which a server of this bfloat16 model rounds; .* scale_dtype="bfloat16"'),
        (lambda layers: quantize_all(layers, "int8", symmetric=False), "no server loads asymmetric 8-bit"),
        (lambda layers: quantize_all(layers, "gptq_int4_g32", symmetric=False), "with version=2"),
        (lambda layers: {n: quantize_tensor(Q.dequantize(), "nvfp4") for n, Q in layers.items()}, "fused_absmax"),
    ],
)  # fmt: skip
def test_what_no_server_loads_is_refused(
    change: Callable[[Layers], Layers], words: str, source: Path, quantized: Layers, tmp_path: Path
) -> None:
    with pytest.raises(QuantlabError, match=words) as caught:
        write_checkpoint(source, tmp_path / "out", change(quantized))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def quantize_all(layers: Layers, fmt: str, **options: Any) -> Layers:
    return {name: quantize_tensor(Q.dequantize(), fmt, **options) for name, Q in layers.items()}


def test_the_head_is_refused_by_name(source: Path, quantized: Layers, tmp_path: Path) -> None:
    head = load_file(source / "model.safetensors")["lm_head.weight"]
    layers = {**quantized, "lm_head": quantize_tensor(head, "int4_g32", scale_dtype="bfloat16")}
    with pytest.raises(QuantlabError, match="lm_head is the output head"):
        write_checkpoint(source, tmp_path / "out", layers)


def test_a_source_that_is_quantized_already(source: Path, quantized: Layers, tmp_path: Path) -> None:
    once = write_checkpoint(source, tmp_path / "once", quantized)
    with pytest.raises(QuantlabError, match="quantized already"):
        write_checkpoint(once, tmp_path / "twice", quantized)


def test_an_existing_folder_is_kept(source: Path, quantized: Layers, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(QuantlabError, match="exists already"):
        write_checkpoint(source, tmp_path / "out", quantized)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("shard_bytes", [0, -1])
def test_shards_of_nothing(source: Path, quantized: Layers, tmp_path: Path, shard_bytes: int) -> None:
    with pytest.raises(QuantlabError, match="shard_bytes must be positive"):
        write_checkpoint(source, tmp_path / "out", quantized, shard_bytes=shard_bytes)


def test_names_are_looked_up(source: Path, quantized: Layers, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Known: model\.layers\.0\.mlp\.down_proj"):
        write_checkpoint(source, tmp_path / "out", {"up_proj": quantized[Q_PROJ]})


# faults


def test_a_full_disk_is_found_out_before_a_byte_is_written(
    source: Path, quantized: Layers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def none_free(folder: Path, nbytes: int, purpose: str) -> None:
        asked.append(nbytes)
        raise QuantlabError(f"{purpose} needs more")

    monkeypatch.setattr(write, "require_space", none_free)
    with pytest.raises(QuantlabError, match="the checkpoint out needs more"):
        write_checkpoint(source, tmp_path / "out", quantized)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    written = write_checkpoint(source, tmp_path / "out", quantized)
    assert sum(path.stat().st_size for path in written.iterdir()) <= asked[0]


@pytest.mark.parametrize("stopped_by", [KeyboardInterrupt(), OSError(28, "No space left on device"), RuntimeError("?")])
@pytest.mark.parametrize("step", ["save_file", "model_card", "write_manifest"])
def test_an_interrupted_write_leaves_nothing(
    source: Path,
    quantized: Layers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    stopped_by: BaseException,
) -> None:
    def stop(*args: Any, **options: Any) -> None:
        raise stopped_by

    monkeypatch.setattr(write, step, stop)
    expected = QuantlabError if isinstance(stopped_by, OSError) else type(stopped_by)
    with pytest.raises(expected):
        write_checkpoint(source, tmp_path / "deep" / "out", quantized)
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_disk_that_fills_up_while_weights_are_written(source: Path, quantized: Layers, tmp_path: Path) -> None:
    """A limit on the size of files is the nearest thing to a full disk that needs no rights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(QuantlabError, match=r"cannot write model\.safetensors .*; free some space"):
            write_checkpoint(source, tmp_path / "out", quantized)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be(source: Path, quantized: Layers, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(QuantlabError, match=r"cannot write .*a file"):
        write_checkpoint(source, tmp_path / "file" / "out", quantized)
    assert (tmp_path / "file").read_text() == "mine"


# card and manifest


def test_the_card_says_how_it_was_made(source: Path, tmp_path: Path) -> None:
    made = {
        "model": "owner/name", "revision": "abc123", "method": "awq", "calibration": "128 stories | 512 tokens\neach",
        "command": "quantlab quantize owner/name --method awq", "versions": {"quantlab": "1", "torch": "2"},
    }  # fmt: skip
    folder = write_checkpoint(source, tmp_path / "out", quantize(weights_of(source), "awq_int4_g32"), made=made)
    front = metadata_load(folder / "README.md")
    assert front["base_model"] == "owner/name"
    assert front["library_name"] == "transformers"
    assert front["quantized_by"].startswith("quantlab ")
    assert "awq" in front["tags"]
    assert "license" not in front
    text = (folder / "README.md").read_text()
    for words in ("4.625 bits a weight", "at `abc123`", "128 stories \\| 512 tokens each",
                  "quantlab quantize owner/name", "quantlab 1, torch 2", "autoawq 0.2.9"):  # fmt: skip
        assert words in text
    assert str(tmp_path) not in text
    assert json.loads((folder / "quantlab.json").read_text())["made"] == made


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: apache-2.0\n---\n# It\n", "apache-2.0"),
        ("# no front matter\n", None),
        ("---\nlicense: [\n---\n", None),
        ("---\nlicense: [a, b]\n---\n", None),
        (None, None),
    ],
)
def test_the_licence_is_that_of_the_source(
    card: str | None, expected: str | None, source: Path, quantized: Layers, tmp_path: Path
) -> None:
    here = Path(shutil.copytree(source, tmp_path / "source"))
    if card is not None:
        (here / "README.md").write_text(card)
    front = metadata_load(write_checkpoint(here, tmp_path / "out", quantized) / "README.md")
    assert front.get("license") == expected
    assert "base_model" not in front, "a folder's name is no id of the Hub"
    stated = metadata_load(write_checkpoint(here, tmp_path / "b", quantized, made={"license": "mit"}) / "README.md")
    assert stated["license"] == "mit"


def test_the_manifest_knows_every_file(source: Path, quantized: Layers, tmp_path: Path) -> None:
    folder = write_checkpoint(source, tmp_path / "out", quantized, made={"method": "rtn", "at": Path("x")})
    files = json.loads((folder / "quantlab.json").read_text())["files"]
    assert files.keys() == {path.name for path in folder.iterdir()} - {"quantlab.json"}
    assert manifest.check_manifest(folder) == {"method": "rtn", "at": "x"}


def _edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / "quantlab.json").read_text())
        change(content)
        (folder / "quantlab.json").write_text(json.dumps(content))

    return edit


def _flip(folder: Path) -> None:
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (_flip, r"model\.safetensors is not the file that was written, its SHA-256 differs"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer.json has 2 bytes"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda folder: (folder / "more.safetensors").write_bytes(b""), "holds more.safetensors, which"),
        (lambda folder: (folder / "quantlab.json").unlink(), "has no quantlab.json"),
        (lambda folder: (folder / "quantlab.json").write_text("[1]"), "no JSON object"),
        (lambda folder: (folder / "quantlab.json").write_bytes(b" " * 10_000_001), "more than a manifest ever takes"),
        (_edit(lambda content: content.pop("files")), "lists no files"),
        (_edit(lambda content: content["files"].update({"../x": {"bytes": 1, "sha256": ""}})), "'../x' that makes"),
        (_edit(lambda content: content["files"].update({"x": 1})), "'x' that makes no sense"),
    ],
)  # fmt: skip
def test_the_manifest_finds_what_changed(
    fault: Callable[[Path], object], words: str, source: Path, quantized: Layers, tmp_path: Path
) -> None:
    folder = write_checkpoint(source, tmp_path / "out", quantized)
    fault(folder)
    with pytest.raises(QuantlabError, match=words):
        manifest.check_manifest(folder)


def test_sizes_alone_read_nothing(source: Path, quantized: Layers, tmp_path: Path) -> None:
    folder = write_checkpoint(source, tmp_path / "out", quantized)
    _flip(folder)
    manifest.check_manifest(folder, hashes=False)


# layers that servers fuse


def test_fused_layers_share_their_largest_magnitude() -> None:
    tops = {"0.q_proj": 1.0, "0.k_proj": 3.0, "0.v_proj": 2.0, "1.q_proj": 5.0, "0.gate_proj": 7.0, "0.down_proj": 6.0}
    weights = {name: torch.tensor([[-top, 0.0]]) for name, top in tops.items()}
    assert fused_absmax(weights) == {**tops, "0.q_proj": 3.0, "0.v_proj": 3.0}
    assert stacks(weights) == [("0.q_proj", "0.k_proj", "0.v_proj")]


def test_nvfp4_with_one_scale_for_fused_layers(source: Path, tmp_path: Path) -> None:
    found = read_checkpoint(write_checkpoint(source, tmp_path / "out", CASES["nvfp4"][1](weights_of(source))))
    scales = {name: Q.parts["weight_global_scale"] for name, Q in found.items()}
    for stack in stacks(found):
        assert len({scales[name].item() for name in stack}) == 1
    assert len({scale.item() for scale in scales.values()}) > 2


def test_a_scale_that_loses_nothing_may_have_another_type(source: Path, tmp_path: Path) -> None:
    """int4 scales in float32 that are bfloat16 numbers all the same."""
    made = {}
    fmt = pack_quantized.build("int4_g32", bits=4, group=32, scale_dtype="float32")
    for name, W in weights_of(source).items():
        p = fmt.grid.fit(W)
        p["scale"] = p["scale"].bfloat16().float()
        made[name] = fmt.store(fmt.grid.encode(W.float(), p), p)
    assert read_checkpoint(write_checkpoint(source, tmp_path / "out", made)).keys() == made.keys()


def test_gptq_of_whole_rows_spells_minus_one(source: Path, tmp_path: Path) -> None:
    layers = quantize(weights_of(source), gptq_pack.build("gptq_int4", bits=4, group=None))
    config = json.loads((write_checkpoint(source, tmp_path / "out", layers) / "config.json").read_text())
    assert config["quantization_config"]["group_size"] == -1
