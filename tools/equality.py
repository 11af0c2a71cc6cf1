"""Ours against each library's, format by format: the same codes, the same bytes, the same logits? And who loads it?

    python tools/equality.py --work /tmp/equality                               tiny: about half an hour
    python tools/equality.py --work /tmp/equality --models tiny smollm2
    python tools/equality.py --work /tmp/equality --models tiny smollm2 --all --without autoawq

Every pair is made twice with `quantlab quantize`'s own machinery, by quantlab and by the library, from the same
calibration tokens, and compared (tools/equality_figures.py). Then transformers, llama.cpp and vLLM load what was made,
each where it lives. What was made and found stays in --work and is not done again, so that a long run can be
interrupted; delete a file there to repeat it. Writes docs/equality.md, and docs/equality.json beside it, where models
that are not asked for stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import equality_figures as figures
import torch
from equality_page import ENGINES, page
from logprobs_elsewhere import ask

from quantlab.atomic import write_text
from quantlab.backends.environments import python_of
from quantlab.backends.quantizers.libraries import LIBRARIES
from quantlab.backends.quantizers.making import Text, quantize
from quantlab.backends.quantizers.offers import GGUF, LLAMA_CPP_GGUF, OUR_GGUF, Choice, Wish, choose
from quantlab.errors import QuantlabError
from quantlab.evaluate.logits import TorchLogits
from quantlab.evaluate.windows import Windows, evaluation_texts, make_windows
from quantlab.models.load import LoadedModel, load
from quantlab.serve.engines import vllm_python

ROOT = Path(__file__).resolve().parent.parent
AWQ_LIKE = (
    "it judges a scale by what a whole module sends (attention with its softmax), we by what the layers send, each "
    "output relative to its size; a column that gets another scale gets other codes"
)
GPTQ_LIKE = "every code depends on the inputs that were seen and on the codes before it, so that a last bit moves many"
WHY = {
    "llm-compressor gptq": f"{GPTQ_LIKE}; it runs the model in bfloat16 to see the inputs, we in float32",
    "gptqmodel gptq": f"{GPTQ_LIKE}; it dampens by 0.05, we by 0.01, and it has an order of columns of its own",
    "gptqmodel awq": f"{AWQ_LIKE}; it runs the model in bfloat16, and stores scales in it, not in float16",
    "autoawq awq": AWQ_LIKE,
}


@dataclass(frozen=True)
class Pair:
    """A library's way to store a model."""

    library: str
    method: str
    format: str
    symmetric: bool | None = None
    quick: bool = True  # on SmolLM2 too; --all takes the others as well, some of which take an hour there

    @property
    def why(self) -> str:
        """What differs in two independent runs; empty where nothing may."""
        return WHY.get(f"{self.library} {self.method}", "")

    def wishes(self, group: int) -> tuple[Wish, Wish]:
        """(ours, theirs), with groups of so many where the format leaves a choice."""
        size = group if self.format in ("int", "awq_int", "gptq_int") else None
        bits = 4 if size else None
        name = "llm_int8" if self.format == "int8" and self.library == "bitsandbytes" else self.format
        return tuple(Wish(who, self.method, name, bits, size, self.symmetric) for who in ("quantlab", self.library))  # type: ignore[return-value]


PAIRS = (
    *(Pair("bitsandbytes", "rtn", name) for name in ("nf4", "nf4_dq", "fp4", "fp4_dq", "llm_int8")),
    Pair("llm-compressor", "rtn", "int", True),
    Pair("llm-compressor", "rtn", "int8"),
    *(Pair("llm-compressor", "rtn", name) for name in ("fp8_e4m3_channel", "fp8_e4m3_block128", "nvfp4", "mxfp4")),
    *(Pair("llama.cpp", "rtn", name, quick=name in ("q8_0", "q4_0", "q4_1", "q4_k_m", "q6_k", "iq4_nl"))
      for name in OUR_GGUF if name in LLAMA_CPP_GGUF),
    *(Pair("llama.cpp", "imatrix", name, quick=False) for name in ("q4_k_m", "q2_k", "iq4_xs")),
    Pair("llm-compressor", "gptq", "int", True),
    Pair("gptqmodel", "gptq", "gptq_int", True, quick=False),
    Pair("gptqmodel", "awq", "awq_int", quick=False),
    Pair("autoawq", "awq", "awq_int", quick=False),
)  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A model, and how it is treated: groups, windows of 512 tokens to calibrate on, stories to measure on.

    searched: windows for AWQ, whose search the libraries repeat for every candidate: ten minutes a block with 32.
    """

    name: str
    group: int
    windows: int
    searched: int
    stories: int


MODELS = {model.name: model for model in (Model("tiny", 128, 32, 4, 60), Model("smollm2", 64, 8, 2, 8))}


@dataclass
class Bench:
    """A model and the folder where everything about it is kept."""

    model: Model
    work: Path

    @cached_property
    def loaded(self) -> LoadedModel:
        """The original."""
        return load(self.model.name)

    @cached_property
    def text(self) -> Windows:
        """What perplexity is measured on."""
        texts = evaluation_texts()[: self.model.stories]
        return make_windows(texts, self.loaded.tokenizer, self.loaded.source.folder, 512)

    @cached_property
    def tokens(self) -> list[list[int]]:
        """What the loaders are asked about: the beginnings of four stories."""
        return [list(window.tokens[:64]) for window in self.text.windows[:4]]

    def kept(self, name: str, find: Any) -> dict[str, Any]:
        """The JSON object of this name, found once."""
        path = self.work / f"{name}.json"
        if not path.exists():
            write_text(path, json.dumps(find(), indent=1))
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def place(self, wish: Wish) -> Path:
        """Where a wish is kept."""
        choice = choose(wish)
        name = f"{choice.offer.library}-{choice.offer.method}-{choice.format}"
        return self.work / (f"{name}.gguf" if choice.offer.family in GGUF else name)

    def make(self, wish: Wish) -> dict[str, Any]:
        """What making it took, or the sentence that says why it could not be made."""
        place, choice = self.place(wish), choose(wish)
        return self.kept(f"made-{place.name}", lambda: self._make(wish, choice, place))

    def _make(self, wish: Wish, choice: Choice, place: Path) -> dict[str, Any]:
        samples = self.model.searched if choice.offer.method == "awq" else self.model.windows
        text = Text(None, window=512, samples=samples) if choice.offer.text else Text()
        say(f"{self.model.name}: making {place.name}")
        try:
            made = quantize(self.model.name, wish, place, calibration=text)
        except QuantlabError as error:
            return {"error": str(error).partition(" (log:")[0]}
        return {"seconds": made.seconds, "bits": made.bits_per_weight, "versions": made.versions}

    def compare(self, pair: Pair) -> dict[str, Any]:
        """A row of the page."""
        ours, theirs = map(self.place, pair.wishes(self.model.group))
        made = [self.make(wish) for wish in pair.wishes(self.model.group)]
        row = asdict(pair) | {"why": pair.why, "name": choose(pair.wishes(self.model.group)[1]).format, "made": made}
        if errors := [one["error"] for one in made if "error" in one]:
            return row | {"error": errors[0]}
        say(f"{self.model.name}: comparing {theirs.name}")
        return row | self.kept(f"compared-{theirs.name}", lambda: self._compare(ours, theirs))

    def _compare(self, ours: Path, theirs: Path) -> dict[str, Any]:
        began = time.perf_counter()
        alike = figures.identical(ours, theirs)
        found = figures.measure(ours, theirs, self.loaded, self.text, alike)
        same = figures.same(ours, theirs)
        return {**same.to_dict(), "identical": alike, **asdict(found), "compare_s": time.perf_counter() - began}

    def loads(self, engine: str, python: Path, places: list[Path]) -> dict[str, dict[str, Any]]:
        """What an engine predicts from each, against what our dequantized weights predict: mean, largest difference."""
        missing = [place for place in places if not (self.work / f"{engine}-{place.name}.json").exists()]
        if missing:
            say(f"{self.model.name}: {engine} loads {len(missing)} checkpoints")
            said = ask(engine, python, missing, self.tokens, self.tokens[0][:8], self.work / f"{engine}.log")
        return {
            place.name: self.kept(f"{engine}-{place.name}", lambda at=place: self._judge(said[at], at))
            for place in places
        }

    def _judge(self, said: dict[str, Any], place: Path) -> dict[str, Any]:
        said.pop("folder", None)  # a path of this machine
        if "error" in said:
            return {"error": said["error"], "versions": said["versions"]}
        theirs = torch.cat([torch.tensor(row) for row in said.pop("logprobs")])
        source = (
            TorchLogits(self.loaded.model)
            if place == self.loaded.source.folder
            else figures.source_of(place, self.loaded, bfloat16=True)
        )
        ours = figures.log_probabilities(source, self.tokens)
        apart = (theirs - ours).abs()
        text = self.loaded.tokenizer.decode(said.pop("answer"))
        return said | {"mean": float(apart.mean()), "largest": float(apart.max()), "answer": text}


def say(what: str) -> None:
    """To stderr."""
    print(time.strftime("%H:%M:%S"), what, file=sys.stderr, flush=True)


def where_it_loads(bench: Bench, rows: list[dict[str, Any]], pairs: list[Pair], asked: Sequence[str]) -> dict[str, Any]:
    """The rows, each with what the engines said of both checkpoints; and what they said of the model as it was."""
    sides = {}
    original = bench.loaded.source.folder
    for row, pair in zip(rows, pairs, strict=True):
        places = list(map(bench.place, pair.wishes(bench.model.group)))
        sides[pair] = [] if "error" in row or pair.library == "llama.cpp" else places
    engines: dict[str, dict[str, dict[str, Any]]] = {}
    apart = python_of("gptqmodel")
    for engine, python, chosen in (
        ("transformers", Path(sys.executable), ("bitsandbytes", "llm-compressor")),
        ("transformers", apart, ("gptqmodel", "autoawq")),
        ("vllm", vllm_python(), tuple(LIBRARIES)),
    ):
        places = [place for pair, both in sides.items() if pair.library in chosen for place in both]
        if python and engine in asked:
            said = bench.loads(engine, python, list(dict.fromkeys([original, *places])))
            engines.setdefault(engine, {}).update(said)
    for row, pair in zip(rows, pairs, strict=True):
        said = {engine: [found[p.name] for p in sides[pair] if p.name in found] for engine, found in engines.items()}
        row["loads"] = {engine: found for engine, found in said.items() if found}
    return {"bf16": {engine: found[original.name] for engine, found in engines.items()}, "rows": rows}


def main() -> None:
    """Make, compare, load, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder for what is done once")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["tiny"])
    parser.add_argument("--all", action="store_true", help="every pair on SmolLM2 too: hours")
    parser.add_argument("--without", nargs="+", choices=LIBRARIES, default=[], help="libraries to leave out")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), help="who is to load them")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "equality.json")
    args = parser.parse_args()
    found: dict[str, Any] = json.loads(args.out.read_text(encoding="utf-8"))["models"] if args.out.exists() else {}
    for name in args.models:
        bench = Bench(MODELS[name], args.work.absolute() / name)
        bench.work.mkdir(parents=True, exist_ok=True)
        every = args.all or name == "tiny"
        pairs = [pair for pair in PAIRS if pair.library not in args.without and (pair.quick or every)]
        out = [f"{pair.library} {pair.method} {pair.format}" for pair in PAIRS if pair not in pairs]
        rows = [bench.compare(pair) for pair in pairs]
        found[name] = {"date": time.strftime("%Y-%m-%d"), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                       "avx512": torch.cpu._is_avx512_supported(),
                       "group": bench.model.group, "windows": bench.model.windows, "searched": bench.model.searched,
                       "stories": bench.model.stories, "left_out": out,
                       "tokens": sum(len(ids) - 1 for ids in bench.tokens),
                       **where_it_loads(bench, rows, pairs, args.engines)}  # fmt: skip
    facts = {"models": found}
    write_text(args.out, json.dumps(facts, indent=1) + "\n")
    write_text(args.out.with_suffix(".md"), page(facts))
    print(args.out.with_suffix(".md"))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
