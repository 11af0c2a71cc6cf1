"""Write the model card: every figure in it is measured here, on the exported checkpoint.

    python card.py --data DIR      needs the training data for the held-out perplexities

The checkpoint is loaded with transformers, as a learner would load it, in float32 arithmetic.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from text import read_all
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
SOURCES = ("tiny", "fairy", "classics", "pulp")
SAMPLES = ("Once upon a time there was a little", "Tom had a red boat.")
ASKED = "Tell me a story with the words cat, boat, happy."


@torch.no_grad()
def perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> tuple[float, int]:
    """(perplexity, tokens): each text alone from its beginning, in windows of the context, no overlap."""
    nats, count, context = 0.0, 0, model.config.max_position_embeddings
    for text in texts:
        ids = torch.tensor([0, *tokenizer(text, add_special_tokens=False).input_ids, 1])
        for window in (ids[at : at + context + 1] for at in range(0, len(ids) - 1, context)):
            logits = model(window[None, :-1]).logits[0]
            nats += F.cross_entropy(logits, window[1:], reduction="sum").item()
            count += len(window) - 1
    return math.exp(nats / count), count


@torch.no_grad()
def sample(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, ids: list[int], seed: int) -> str:
    torch.manual_seed(seed)
    out = model.generate(torch.tensor([ids]), max_new_tokens=180, do_sample=True, temperature=0.7, top_p=0.95)
    return tokenizer.decode(out[0][len(ids) :], skip_special_tokens=True).strip()


def samples(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> str:
    """Three samples, the first that this seed gives: not picked."""
    blocks = []
    for start in SAMPLES:
        told = sample(model, tokenizer, [0, *tokenizer(start, add_special_tokens=False).input_ids], seed=0)
        blocks.append(f"> **{start}** {told}")
    chat = [{"role": "user", "content": ASKED}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
    blocks.append(f"> *{ASKED}*\n>\n> {sample(model, tokenizer, ids, seed=0)}")
    return "\n\n".join(re.sub(r"\n(?!>)", "\n> ", block) for block in blocks)


def draw_curve(log: list[dict[str, float]]) -> None:
    """loss-curve.png: training and held-out loss against tokens."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    looks = (("black", "-"), ("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", ":"), ("#CC79A7", "-."))
    for name, (colour, line) in zip(("train", *SOURCES), looks, strict=True):
        label = "training mixture (running mean)" if name == "train" else f"held out: {name}"
        points = [(row["tokens"] / 1e6, row[name]) for row in log if name in row]
        axes.plot(*zip(*points, strict=True), line, color=colour, label=label)
    axes.set(title="Training the story model", xlabel="tokens seen (millions)", ylabel="loss (nats a token)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "loss-curve.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    training = json.loads((HERE / "training.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(HERE)
    model = AutoModelForCausalLM.from_pretrained(HERE, dtype=torch.float32)
    _, held_out = read_all(data)
    sets = {name: [d.text for d in held_out if d.source == name] for name in SOURCES}
    own = (HERE.parent / "stories/evaluate.jsonl").read_text(encoding="utf-8").splitlines()
    sets["own"] = [json.loads(line)["text"] for line in own]
    measured = {name: perplexity(model, tokenizer, texts) for name, texts in sets.items()}
    draw_curve(training["log"])
    weights = HERE / "model.safetensors"
    template = (HERE / "card-template.md").read_text(encoding="utf-8")
    plan, last = training["plan"], training["log"][-1]
    card = template.format(
        parameters=training["parameters"],
        megabytes=weights.stat().st_size / 1e6,
        sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        hours=last["seconds"] / 3600,
        tokens=last["tokens"] / 1e6,
        final_train=last["train"],
        documents={name: len(texts) for name, texts in sets.items()},
        ppl={name: value for name, (value, _) in measured.items()},
        count={name: n for name, (_, n) in measured.items()},
        samples=samples(model, tokenizer),
        **plan,
    )
    (HERE / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
