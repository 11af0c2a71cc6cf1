"""Distil the story model into one a quarter its size, and hold it against quantizing the large one to as many bytes.

    python tools/distil.py [--stories 1500] [--steps 600] [--model assets/story-model-small]

The teacher writes the stories that the student learns from (no other text is needed), and the student learns the
teacher's whole distribution at every word: loss = KL(teacher, student) at temperature 1 (Hinton, Vinyals and Dean 2015,
arXiv 1503.02531). A quarter of an hour on two cores. Both are then measured on the bundled stories, which neither saw.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import quantlab
from quantlab import atomic
from quantlab.evaluate.logits import Baseline, TorchLogits
from quantlab.evaluate.quality import Quality, measure, measure_baseline
from quantlab.evaluate.windows import evaluation_texts, make_windows
from quantlab.models.load import load

WORDS = 200  # tokens of a written story
BATCH = 32
FORMATS = ("q2_k", "q3_k", "q4_k", "q5_k", "q8_0")


def student_of(config: Any) -> LlamaForCausalLM:
    """Half as wide, three layers of four: a quarter of the parameters."""
    small = LlamaConfig(**{
        **config.to_dict(), "hidden_size": config.hidden_size // 2, "intermediate_size": config.intermediate_size // 2,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 1, "dtype": "float32",
    })  # fmt: skip
    return LlamaForCausalLM(small)


def written(teacher: Any, count: int) -> Tensor:
    """Stories that the teacher makes up [count, WORDS + 1], token ids."""
    found = []
    for start in range(0, count, 100):
        begin = torch.full((min(100, count - start), 1), teacher.config.bos_token_id)
        with torch.inference_mode():
            found.append(teacher.generate(begin, attention_mask=torch.ones_like(begin), do_sample=True, top_k=0,
                                          max_new_tokens=WORDS, min_new_tokens=WORDS, pad_token_id=1))  # fmt: skip
        print(f"\r{start + len(begin)} of {count} stories written", end="", flush=True)
    print()
    return torch.cat(found).clone()


def learn(student: nn.Module, teacher: nn.Module, texts: Tensor, steps: int) -> None:
    """Minimise the KL divergence at every word of every text; AdamW, a warm-up and a cosine."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    compiled: Any = torch.compile(student)
    began = time.perf_counter()
    for step in range(steps):
        tokens = texts[torch.randint(len(texts), (BATCH,))]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            right = teacher(tokens).logits
        with torch.autocast("cpu", torch.bfloat16):
            said = compiled(tokens).logits
        log_p, log_q = right.float().log_softmax(-1).flatten(0, 1), said.float().log_softmax(-1).flatten(0, 1)
        loss = nn.functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == steps - 1:
            seconds = time.perf_counter() - began
            print(f"step {step:4} of {steps}, {seconds:5.0f} s: KL divergence {loss.item():.3f} nats", flush=True)


def quantized(teacher: nn.Module, fmt: str) -> tuple[dict[str, Tensor], int]:
    """Every matrix, the embeddings too, in a format: values by name, and bytes of the whole model."""
    weights, nbytes = {}, 0
    for name, W in teacher.named_parameters():
        if W.dim() == 2:
            Q = quantlab.quantize_tensor(W.detach(), fmt)
            weights[name] = Q.dequantize()
            nbytes += Q.nbytes
        else:
            nbytes += 2 * W.numel()
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]  # tied: one table, stored once
    return weights, nbytes


def row(name: str, parameters: int, nbytes: int, found: Quality) -> dict[str, Any]:
    """One line of what is kept."""
    return {"name": name, "parameters": parameters, "nbytes": nbytes, "perplexity": found.perplexity,
            "kl": found.kl_mean, "kl_stderr": found.kl_stderr, "same_top": found.top1_agreement}  # fmt: skip


def keep(student: Any, folder: Path, teachers: Path) -> None:
    """The student as a model folder in bfloat16, with the teacher's tokenizer; an existing folder is an error."""
    with atomic.new_folder(folder) as new:
        student.bfloat16().save_pretrained(new)
        student.float()
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(teachers / file, new)
        (new / "generation_config.json").unlink(missing_ok=True)
        (new / "model.safetensors").chmod(0o644)


def main() -> None:
    """Write, learn, measure, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stories", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("assets/recorded/distilled.json"))
    parser.add_argument("--model", type=Path, default=Path("assets/story-model-small"))
    args = parser.parse_args()
    if args.model.exists():  # said before the training, not after it
        raise SystemExit(f"{args.model} exists already; name another folder with --model, or remove it")
    torch.manual_seed(0)
    loaded = load("tiny")
    teacher: Any = loaded.model
    student = student_of(loaded.config)
    sizes = [sum(p.numel() for p in one.parameters()) for one in (teacher, student)]
    print(f"teacher {sizes[0]:,} parameters, student {sizes[1]:,}")
    began = time.perf_counter()
    texts = written(teacher, args.stories)
    wrote = time.perf_counter() - began
    learn(student, teacher, texts, args.steps)
    learned = time.perf_counter() - began - wrote
    rounded = {name: W.detach().bfloat16().float() for name, W in student.named_parameters()}
    student.load_state_dict(rounded, strict=False)
    student.eval()
    keep(student, args.model, loaded.source.folder)
    windows = make_windows(evaluation_texts(), loaded.tokenizer, loaded.source.folder, 512)
    baseline = Baseline(TorchLogits(teacher), windows, loaded.config.vocab_size)
    rows = [row("original, bf16", sizes[0], 2 * sizes[0], measure_baseline(baseline)),
            row("distilled, bf16", sizes[1], 2 * sizes[1], measure(TorchLogits(student), baseline))]  # fmt: skip
    for fmt in FORMATS:
        weights, nbytes = quantized(teacher, fmt)
        rows.append(row(f"original, {fmt}", sizes[0], nbytes, measure(TorchLogits(teacher, weights), baseline)))
    where = {"date": time.strftime("%Y-%m-%d"), "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
             "torch": torch.__version__.split("+")[0]}  # fmt: skip
    found = {"where": where, "stories": args.stories, "words": WORDS, "steps": args.steps, "batch": BATCH,
             "write_s": round(wrote), "learn_s": round(learned), "rows": rows}  # fmt: skip
    atomic.write_text(args.out, json.dumps(found, indent=1) + "\n")
    for one in rows:
        size = f"{one['nbytes'] / 1e6:6.2f} MB"
        print(f"{one['name']:20} {size}  perplexity {one['perplexity']:7.2f}, KL {one['kl']:.4f}")


if __name__ == "__main__":
    main()
