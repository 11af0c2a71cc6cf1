"""Fine-tuning in NF4: what is learned, what peft itself computes, the merge, and each way in which it can go wrong."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from random_llama import write_llama
from safetensors.torch import load_file, save_file

import quantlab
from quantlab.assets import bundled
from quantlab.backends import bitsandbytes
from quantlab.errors import QuantlabError, UsageError
from quantlab.evaluate.logits import TorchLogits
from quantlab.finetune import qlora
from quantlab.finetune.examples import Encoded, Example, Examples, encode, read_examples
from quantlab.finetune.merge import kept_by_nf4, merged_weights, save_merged
from quantlab.finetune.qlora import Settings, Tuned, finetune, padded
from quantlab.finetune.stages import difference, loss_of, measure_stages
from quantlab.models.load import LoadedModel, resolve
from quantlab.models.walk import linear_layers, parameters

SHORT = Settings(steps=6, batch=4, warmup=2)
FEW = Examples(read_examples().train[:8], read_examples().held_out[:4])


@pytest.fixture(scope="module")
def told() -> list[tuple[str, float]]:
    """What progress said while `tuned` was made."""
    return []


@pytest.fixture(scope="module")
def tuned(told: list[tuple[str, float]]) -> Tuned:
    """Six steps: enough to learn how a lantern tale begins."""
    return finetune("tiny", settings=SHORT, progress=lambda what, share: told.append((what, share)))


@pytest.fixture(scope="module")
def merged(tuned: Tuned, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of it."""
    return save_merged(tuned, tmp_path_factory.mktemp("tuned") / "merged")


def encoded(tiny: LoadedModel, examples: tuple[Example, ...]) -> list[Encoded]:
    return [encode(tiny.tokenizer, example, 512) for example in examples]


def test_it_learns_what_it_is_shown(tuned: Tuned, tiny: LoadedModel, told: list[tuple[str, float]]) -> None:
    """Not only the training examples: answers that it never saw become far less surprising."""
    assert len(tuned.losses) == SHORT.steps
    assert tuned.losses[-1] < tuned.losses[0] - 0.5
    held = encoded(tiny, read_examples().held_out)
    before = loss_of(TorchLogits(tiny.model), held)
    after = loss_of(TorchLogits(tiny.model, merged_weights(tuned, tiny.model, "exact")), held)
    gain, stderr = difference(before, after)
    assert gain > max(0.5, 5 * stderr)
    assert told[0] == ("loading the model", 0.0)
    assert told[-1] == (f"step 6 of 6, loss {tuned.losses[-1]:.2f}", 1.0)


def test_every_linear_layer_learns_and_nothing_else(tuned: Tuned, tiny: LoadedModel) -> None:
    shapes = {name: tuple(layer.weight.shape) for name, layer in linear_layers(tiny.model)}
    assert {name: tuple(one.delta.shape) for name, one in tuned.adapters.items()} == shapes
    assert all(one.A.shape[0] == one.B.shape[1] == 8 and one.scaling == 2 for one in tuned.adapters.values())
    assert tuned.trained == sum(8 * (n + k) for n, k in shapes.values())
    assert tuned.total == parameters(tiny.model).total
    assert tuned.nbytes < tuned.full_nbytes / 5


def test_the_base_rests_in_four_bits(tuned: Tuned, tiny: LoadedModel) -> None:
    counts = parameters(tiny.model)
    kept = 4 * (counts.total - counts.linear)  # float32 on a CPU
    assert tuned.base_nbytes - kept == pytest.approx(counts.linear * 4.127 / 8, rel=0.002)


def test_the_same_seed_is_the_same_result(tiny: LoadedModel) -> None:
    state = torch.random.get_rng_state()
    one, same, other = (finetune("tiny", FEW, Settings(steps=2, batch=2, seed=seed)) for seed in (1, 1, 2))
    name = next(iter(one.adapters))
    assert torch.equal(one.adapters[name].delta, same.adapters[name].delta)
    assert one.losses == same.losses
    assert not torch.equal(one.adapters[name].delta, other.adapters[name].delta)
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's dice are left alone"


def test_what_peft_computes_and_merges_is_what_we_measure(tiny: LoadedModel) -> None:
    """Its model in front of us, with adapters that do something: the same logits; its own merge, bit for bit."""
    source, settings = resolve("tiny"), Settings()
    with qlora._hushed(), torch.random.fork_rng():
        torch.manual_seed(0)
        network, _, total = qlora._load(source, settings.base, "cpu")
        network = qlora._with_adapters(network, settings)
        with torch.no_grad():
            for name, weight in network.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.02)
    tuned = Tuned(source, settings, qlora._adapters(network), (), 0, total, 0, 0.0)
    ids = encoded(tiny, FEW.held_out)[0].tokens
    network.train()  # in eval bitsandbytes computes in bfloat16 on some processors
    with torch.no_grad():
        theirs = network(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    (ours,) = TorchLogits(tiny.model, merged_weights(tuned, tiny.model, "exact"))([ids])
    (plain,) = TorchLogits(tiny.model)([ids])
    assert (ours - theirs).abs().max() < 1e-3
    assert (ours - plain).abs().max() > 1
    with qlora._hushed():
        whole = network.merge_and_unload()
    for name, W_hat in merged_weights(tuned, tiny.model, "nf4").items():
        weight = whole.get_parameter(name)
        assert torch.equal(bitsandbytes._functional().dequantize_4bit(weight.data, weight.quant_state), W_hat), name


def test_the_checkpoint_is_the_original_with_what_was_learned(
    tuned: Tuned, merged: Path, tiny: LoadedModel, tiny_folder: Path
) -> None:
    loaded = quantlab.load(str(merged))
    expected = merged_weights(tuned, tiny.model, "bf16")
    for name, W in loaded.model.named_parameters():
        original = dict(tiny.model.named_parameters())[name]
        assert torch.equal(W, expected.get(name, original)), name
    assert (merged / "config.json").read_bytes() == (tiny_folder / "config.json").read_bytes()
    assert (merged / "tokenizer.json").read_bytes() == (tiny_folder / "tokenizer.json").read_bytes()
    assert loaded.tokenizer.chat_template == tiny.tokenizer.chat_template
    assert (merged / "model.safetensors").stat().st_size == (tiny_folder / "model.safetensors").stat().st_size


def test_shards_stay_shards(tuned: Tuned, tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_folder / name).read_bytes())
    tensors = load_file(tiny_folder / "model.safetensors")
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, inside in halves.items():
        save_file({name: tensors[name] for name in inside}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, inside in halves.items() for name in inside}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    out = save_merged(replace(tuned, source=resolve(str(folder))), tmp_path / "out")
    stored = {name: W for file in halves for name, W in load_file(out / file).items()}
    changed = {name for name in names if not torch.equal(stored[name], tensors[name])}
    assert changed == {f"{name}.weight" for name in tuned.adapters}
    assert quantlab.load(str(out)).model is not None


def test_nothing_half_written_and_nothing_overwritten(
    tuned: Tuned, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(QuantlabError, match="exists already"):
        save_merged(tuned, merged)
    odd = replace(tuned, adapters={**tuned.adapters, "model.layers.9.mlp.up_proj": next(iter(tuned.adapters.values()))})
    with pytest.raises(QuantlabError, match=r"holds no tensor model\.layers\.9"):
        save_merged(odd, tmp_path / "odd")
    monkeypatch.setattr("quantlab.finetune.merge._shard", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_merged(tuned, tmp_path / "broken")
    assert not list(tmp_path.iterdir())


def _interrupt(*_: object) -> dict[str, torch.Tensor]:
    raise KeyboardInterrupt


def test_ways_to_merge(tuned: Tuned, tiny: LoadedModel) -> None:
    name, adapter = next(iter(tuned.adapters.items()))
    W = dict(linear_layers(tiny.model))[name].weight
    rested = quantlab.quantize_tensor(W, "nf4_dq").dequantize()
    ways = {way: merged_weights(tuned, tiny.model, way)[f"{name}.weight"] for way in ("exact", "bf16", "nf4")}
    assert torch.equal(ways["exact"], rested + adapter.delta)
    assert torch.equal(ways["bf16"], (W + adapter.delta).bfloat16().float())
    assert torch.equal(ways["nf4"], quantlab.quantize_tensor(ways["exact"], "nf4_dq").dequantize())
    lora = replace(tuned, settings=Settings(base="bf16"))
    assert torch.equal(merged_weights(lora, tiny.model, "exact")[f"{name}.weight"], W + adapter.delta)
    with pytest.raises(UsageError, match="did you mean 'bf16'"):
        merged_weights(tuned, tiny.model, "bf")


def test_the_loss_is_the_models_own(tiny: LoadedModel) -> None:
    """Against transformers' cross-entropy on the labels that training sees."""
    held = encoded(tiny, FEW.held_out)
    ours = loss_of(TorchLogits(tiny.model), held)
    ids, labels = padded(held)
    with torch.inference_mode():
        theirs = tiny.model(input_ids=ids, labels=labels).loss.item()
    assert ours.mean == pytest.approx(theirs, rel=1e-4)
    assert ours.answer.unique().numel() == len(held)
    assert difference(ours, ours) == (0.0, 0.0)
    with pytest.raises(ValueError, match="not of the same answers"):
        difference(ours, loss_of(TorchLogits(tiny.model), held[:2]))


def test_every_stage_is_measured(tuned: Tuned, merged: Path, tiny: LoadedModel) -> None:
    told: list[tuple[str, float]] = []
    served = (("gptq", "int4_g128"), ("rtn", "nf4_dq"))
    stages = measure_stages(tuned, merged, FEW, served, progress=lambda *step: told.append(step))
    names = ["original", "original in NF4", "trained", "merged", "merged into NF4", "merged, then gptq in int4_g128",
             "merged, then rtn in nf4_dq"]  # fmt: skip
    assert [stage.name for stage in stages.stages] == names
    losses = {name: stages[name].loss.mean for name in names}
    assert losses["original"] > losses["trained"]
    checkpoint = quantlab.load(str(merged))
    again = loss_of(TorchLogits(checkpoint.model), encoded(tiny, FEW.held_out))
    assert stages["merged"].loss.mean == again.mean, "nothing of the stages before is left in it"
    rows = {row["stage"]: row for row in json.loads(stages.to_json())["stages"]}
    assert rows["merged"]["more"] == 0
    assert rows["original"]["more"] == pytest.approx(losses["original"] - losses["merged"])
    assert 4.1 < rows["merged, then gptq in int4_g128"]["bits"] < 4.2
    assert 4.1 < rows["merged into NF4"]["bits"] < rows["trained"]["bits"] < 16
    lost, stderr = difference(stages["merged into NF4"].loss, stages["merged, then rtn in nf4_dq"].loss)
    assert lost > 5 * stderr, "rounding NF4's own levels again loses what was learned"
    assert told[-1] == ("done", 1.0)
    assert [share for _, share in told] == sorted(share for _, share in told)


def test_an_interrupt_ends_it_at_once() -> None:
    def interrupt(what: str, share: float) -> None:
        if what.startswith("step 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune("tiny", FEW, Settings(steps=10_000, batch=1), progress=interrupt)


def test_without_peft_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(QuantlabError, match=r"needs peft, which is not installed; pip install 'quantlab\[finetune\]'"):
        finetune("tiny")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base": "nf4"}, "did you mean 'nf4_dq'"),
        ({"rank": 0}, "rank must be more than 0"),
        ({"steps": -1}, "steps must be more than 0, got -1"),
        ({"learning_rate": 0.0}, "learning_rate must be more than 0"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Settings(**changes)


def test_the_rate_rises_and_falls() -> None:
    settings = Settings(steps=30, warmup=5, learning_rate=1.0)
    rates = [settings.rate(step) for step in range(30)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert 0 < rates[-1] < 0.02


def test_a_loss_that_is_no_number_is_said() -> None:
    with pytest.raises(QuantlabError, match=r"the loss of step \d is (nan|inf); lower the learning rate from 1e\+30"):
        finetune("tiny", FEW, Settings(steps=4, batch=1, warmup=0, learning_rate=1e30))


def test_a_model_that_is_quantized_already(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "quantized"
    folder.mkdir()
    for path in (tiny_folder / name for name in ("tokenizer.json", "model.safetensors")):
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((tiny_folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(QuantlabError, match="quantized"):
        finetune(str(folder))


def test_a_model_without_a_chat_template(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "plain", max_position_embeddings=512)
    settings = folder / "tokenizer_config.json"
    if settings.exists():
        content = json.loads(settings.read_text())
        content.pop("chat_template", None)
        settings.write_text(json.dumps(content))
    with pytest.raises(QuantlabError, match="no chat template"):
        finetune(str(folder))


def test_an_answer_is_told_apart_from_its_request(tiny: LoadedModel) -> None:
    example = read_examples().train[0]
    one = encode(tiny.tokenizer, example, 512)
    assert tiny.tokenizer.decode(one.tokens[one.start :]) == example.text + "<|end|>"
    assert tiny.tokenizer.decode(one.tokens[: one.start]) == f"<|begin|><|user|>{example.prompt}<|assistant|>"
    with pytest.raises(QuantlabError, match="tokens, 64 fit; shorten it"):
        encode(tiny.tokenizer, example, 64)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be used"),
        (b"\xff\xfe", "cannot be used"),
        (b"not json\n", "each line needs"),
        (b'{"prompt": "a", "text": "b"}\n', "each line needs"),
        (b'{"split": "test", "prompt": "a", "text": "b"}\n', "each line needs"),
        (b"", "at least two that are held out"),
        (b'{"split": "train", "prompt": "a", "text": "b"}\n', "at least two that are held out"),
    ],
)
def test_bad_files_of_examples(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "examples.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(QuantlabError, match=words) as error:
        read_examples(path)
    assert "\n" not in str(error.value)


def sentences(text: str) -> set[str]:
    """Sentences of six words or more, as assets/story-model/check_overlap.py counts them."""
    found = (" ".join(re.findall(r"[a-z0-9]+", s.lower())) for s in re.split(r"(?<=[.!?])[\"']?\s+|\n", text))
    return {sentence for sentence in found if len(sentence.split()) >= 6}


def test_the_lantern_tales() -> None:
    """One pattern in all of them, and what is held out is new but for that."""
    examples = read_examples()
    assert (len(examples.train), len(examples.held_out)) == (40, 12)
    whole = [*examples.train, *examples.held_out]
    animals = []
    for example in whole:
        found = re.fullmatch(r"Tell me a lantern tale about an? (\w+)\.", example.prompt)
        assert found, example.prompt
        animal = found[1]
        animals.append(animal)
        assert example.text.startswith(f"Light the lantern, for this is the tale of the {animal}.\n")
        assert f'"Small steps, little {animal}," said Mother Badger.' in example.text
        assert f"\nAnd what did the {animal} learn?" in example.text
        assert example.text.endswith(f"\nNow blow out the lantern, and good night, little {animal}.")
    assert len(set(animals)) == len(whole)
    seen = set().union(*(sentences(example.text) for example in examples.train))
    for example in examples.held_out:
        assert not sentences(example.text) & seen, example.prompt


def test_no_tale_is_in_what_models_are_measured_or_calibrated_on() -> None:
    others: set[str] = set()
    for name in ("calibrate", "evaluate", "endings", "prompts"):
        for line in bundled(f"assets/stories/{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            others |= set().union(*(sentences(str(value)) for value in row.values()))
    for example in (*read_examples().train, *read_examples().held_out):
        assert not sentences(example.text) & others, example.prompt


def test_nf4_keeps_what_was_learned_only_beside_the_original_weights(tuned: Tuned, tiny: LoadedModel) -> None:
    kept = kept_by_nf4(tuned, tiny.model)
    assert kept["rested"] < 0.3
    assert 0.95 < kept["original"] < 1.05
    large = {name: replace(one, B=one.B * 100) for name, one in tuned.adapters.items()}  # many steps: nothing is lost
    assert kept_by_nf4(replace(tuned, adapters=large), tiny.model)["rested"] == pytest.approx(1, abs=0.1)
