# %% [markdown]
# # Lab 4: the Pareto front of your GPU
#
# *About 60 minutes. With an NVIDIA GPU the cells run **live** on a real model through vLLM; without one they **rehearse**
# on this CPU with the bundled model through llama.cpp. Every figure says which. A third mode, **recorded**, replays a
# real run on an H200.*
#
# Lesson 4 judged files on paper and on your processor. Here you draw the front of your own card: what each format loses,
# how fast it is at batch 1, 8, 32 and 128, where four bits stop paying, and what to take under a budget. At the end you
# read the kernel that makes four bits fast, and run it.

# %% [markdown]
# ## What have we got?

# %%
from quantlab.lesson import lab, lab3, lab4

here = lab3.setting()
rehearsal = here.mode is lab.Mode.REHEARSAL
here

# %% [markdown]
# ## Predict
#
# With one text at a time, four bits read a quarter of the bytes. With many texts at once everyone waits for arithmetic.
# Where do the two meet on this machine?

# %%
from quantlab.lesson.lesson4 import predictions
from quantlab.widgets import ask, front_explorer

ask(predictions.crossover)

# %% [markdown]
# ## The candidates
#
# The original in 16 bits, and what this machine can run. On a GPU: four bits by the course's own `awq_gptq`, and FP8
# where the card multiplies it. In a rehearsal: three of llama.cpp's types. A second run finds what is there.

# %%
import quantlab
from quantlab.backends.quantizers.making import Text
from quantlab.lesson.tables import Table
from quantlab.models.samples import stories
from quantlab.plan.memory import weights_bytes

workshop, loaded = lab.workshop(4, here), quantlab.load(here.model)
chosen = lab4.candidates(here, loaded, workshop, Text(stories(), window=256))
rows = [(one.name, one.fmt, one.nbytes / 1e6, weights_bytes(here.planned, one.fmt) / 1e6) for one in chosen]
Table(("candidate", "format", "MB", "MB, PREDICTED"), rows, here.mode.value)

# %% [markdown]
# ## What did each lose?
#
# Perplexity, KL divergence, and a task: the bundled story endings, two choices each. The file itself is judged.

# %%
from quantlab.evaluate.rounded import Judge

by = Judge(loaded, stories=12)
found = {one.name: lab4.judge(one, by, loaded) for one in chosen}
rows = [
    (name, f"{q.perplexity:.2f}", f"{q.kl:.2g} ± {q.kl_stderr:.1g}", f"{q.right:.0%} ± {q.right_stderr:.0%}")
    for name, q in found.items()
]
Table(("candidate", "perplexity", "KL divergence, nats", "endings right"), rows, here.mode.value)

# %% [markdown]
# The task cannot tell most of them apart, and its error bars say so. The KL divergence can.
#
# ## How fast?
#
# At 1, 8, 32 and 128 texts at once; the tokens of all texts are counted. Three runs each: the slowest, the median, the
# fastest. *(Close other programs first: what shares the processor shares the figure.)*

# %%
timed = lab4.speeds(here, chosen)
rows = [(name, *(f"{by[b][1]:,.0f} ({by[b][0]:,.0f} to {by[b][2]:,.0f})" for b in lab4.BATCHES)) for name, by in timed.items()]
Table(("tokens a second", *(f"batch {b}" for b in lab4.BATCHES)), rows, here.mode.value)

# %% [markdown]
# And the planner? Its bound knows this machine's bandwidth and arithmetic (on a CPU both are measured now), the bytes of
# each format, and nothing else.

# %%
card = lab4.card(here)
bound = {one.name: lab4.predicted(here, one, card) for one in chosen}
rows = [(name, *(f"{timed[name][b][1] / by[b]:.0%}" for b in lab4.BATCHES)) for name, by in bound.items()]
rate = f"{card.bandwidth / 1e9:.0f} GB/s, {card.rate_16 / 1e9:,.0f} billion operations a second"
Table(("measured, of the bound", *(f"batch {b}" for b in lab4.BATCHES)), rows, f"PREDICTED for {card.label}: {rate}")

# %% [markdown]
# How to read it: near 100% the machine is at its roof. A small share at batch 1 means that something else than reading
# takes the time: a small model's layers, unpacking, the engine itself. *(More than 100%? The bundled model's weights fit
# into a processor's cache, which is faster than the memory that was measured.)*
#
# ## The crossover
#
# From which batch is the smallest file no longer faster than 16 bits?

# %%
small = next(one for one in chosen if one.fmt in ("q4_0", "awq_int4_g128", "int4_g128"))
planned = lab4.predicted_crossover(here, small, chosen[0], card)
met = lab4.measured_crossover(timed[small.name], timed[lab4.ORIGINAL])
gains = {b: timed[small.name][b][1] / timed[lab4.ORIGINAL][b][1] for b in lab4.BATCHES}
print(f"{small.name} against 16 bits:", ", ".join(f"batch {b}: {gain:.2f} times as fast" for b, gain in gains.items()))
print("PREDICTED: the matrices gain nothing", f"from batch {planned:.0f}" if planned else "never: it always gains")
print("measured: no faster, beyond the spread,", f"at batch {met}" if met else f"at none up to {lab4.BATCHES[-1]}")

# %%
predictions.crossover.reveal(met or lab4.BATCHES[-1])

# %% [markdown]
# On a CPU the two need not agree: the plan takes it that weights become 16-bit numbers before they are multiplied, as on a
# GPU, while llama.cpp multiplies 4-bit codes by 8-bit inputs there, as whole numbers, and gains arithmetic too.
#
# *(Where it was faster at every batch, the largest that was tried is shown: the true one lies beyond.)*
#
# And on a data-centre card? A run that was kept: vLLM on an H200, Llama-3.1-8B's shape in three formats, prompts and
# answers of 128 tokens.

# %%
from quantlab.lesson import gpu_run
from quantlab.plan.speed import crossover

fast = {fmt: gpu_run.vllm(fmt) for fmt in gpu_run.formats()}
rows = [(b, *(f"{by[b][1]:,.0f}" if b in by else "" for by in fast.values())) for b in fast["bf16"]]
meeting = crossover(gpu_run.MODEL, "int4_g128", "bf16", gpu_run.CARD)
print(f"PREDICTED: int4_g128's gain shrinks from batch {meeting.full_until:.0f}, and is gone at {meeting.none_from:.0f}")
Table(("texts at once", *(f"{fmt}, tokens/s" for fmt in fast)), rows, gpu_run.provenance())

# %% [markdown]
# One text: 4 bits are a third faster, not three times, for something else than reading takes most of a step there. With
# 128 texts all is level. At 12,000 tokens a second something else than the card is in the way, the server's own work or the
# client's: the roof does not know of either. A bound is a bound.
#
# ## The front, and a budget
#
# At batch 1, what each file loses against its speed and its bytes. Move the budget.

# %%
from quantlab.evaluate.report import Row

rows = [
    Row(name, name, "", here.mode.name, nbytes=size, kl_mean=kl, kl_stderr=error, decode_tps=tps[1],
        decode_range=(tps[0], tps[2]), decode_predicted=bound[name][1])
    for name, size, kl, error, tps in lab4.as_rows(chosen, found, timed, batch=1)
]  # fmt: skip
front_explorer(rows)

# %% [markdown]
# Would you choose the same at batch 128? Put `batch=128` and `bound[name][128]` in the cell above and run it again.
#
# ## vLLM's flow, without a GPU
#
# In a rehearsal vLLM's CPU build, if its environment is there, serves a four-bit checkpoint to eight readers at once.
# Its INT4 is *slower* than 16 bits on a CPU, so this is a rehearsal of the flow and no measurement of the format. On a
# GPU the table above is vLLM's already.

# %%
from quantlab.backends.quantizers.offers import Wish
from quantlab.serve.engines import ENGINES

missing = ENGINES["vllm"].missing()
if rehearsal and not missing:
    made = lab3.make(here.model, Wish("quantlab", "gptq", bits=4), workshop, Text(stories()[:8], window=256))
    flow = lab4.served(made.path, (1, 8), repeats=1, tokens=16)
    print(", ".join(f"batch {batch}: {speed[1]:.0f} tokens/s" for batch, speed in flow.items()))
print(missing or "vLLM is here")

# %% [markdown]
# ## Inside: a kernel for four bits
#
# Why is four bits faster at all, if every weight must become 16 bits again before it is multiplied? Because that happens
# **on the way**: packed words are read from memory, and unpacked in registers. Here is the course's kernel, in Triton:

# %%
from pathlib import Path

from quantlab import kernels

source = (Path(kernels.__file__).parent / "w4a16.py").read_text(encoding="utf-8")
print(source[source.index("@triton.jit") : source.index("def matmul")].rstrip())

# %% [markdown]
# Its heart is `code`: the i-th four bits of a word, less 8, as a float, without one conversion. In torch, and more slowly:
# shift, mask, less 8, times the scale of the group.

# %% tags=["nbval-check-output"]
import torch

W = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
Q = quantlab.quantize_tensor(W, "int4_g128")
words, scale = Q.parts["weight_packed"], Q.parts["weight_scale"].float()
codes = torch.stack([(words >> (4 * i)) & 15 for i in range(8)], dim=-1).reshape(64, 512)
by_hand = (codes - 8) * scale.repeat_interleave(128, dim=1)
print("by hand = dequantized:", torch.equal(by_hand, Q.dequantize()))

# %% [markdown]
# **Write it yourself:** what must change in the kernel if the *first* code lay in the *highest* bits, as in AutoAWQ's
# column order? (`code(words, 7 - i)`, and its power of 16; a test of this course makes just that mistake, and sees it.)
#
# Does it work? On a GPU it is compiled; without one Triton's interpreter runs it, program by program, in slow motion:

# %%
from quantlab.kernels.check import check_kernel

if problem := kernels.available():
    print(problem)
else:
    done = check_kernel(n=64, k=512, batch=2)
    print(f"{done.where}: off by at most {done.error:.1e} of the largest output (float16 rounds at 5e-4)")

# %% [markdown]
# And how near to the roof is it? For one text, everything that must be read, over the card's bandwidth, is the least time.
# The aim is 80% of it at batch 1.

# %%
if rehearsal or kernels.available():
    print("REHEARSAL: the interpreter's time says nothing; with a GPU this cell times the kernel.")
else:
    for batch in (1, 4, 16):
        done = check_kernel(n=14336, k=4096, batch=batch)
        share = 1e9 * done.gb_per_s / card.bandwidth
        print(f"batch {batch}: {done.microseconds:.0f} microseconds, {done.gb_per_s:.0f} GB/s, {share:.0%} of the roof")

# %%
rows = [
    (f"{row['n']} x {row['k']}", f"{row['w4a16_us']:.0f}", f"{row['fp16_us']:.0f}", f"{row['roof']:.0%}")
    for row in gpu_run.kernel()
]
Table(("matrix, one text", "ours, microseconds", "float16", "of the roof"), rows, gpu_run.provenance())

# %% [markdown]
# So this kernel beats 16 bits by half, and reaches a sixth to a third of the roof: readable, not finished. What is left is in how `x`
# is read (every eighth number) and in how few words are on their way at once.

# %% [markdown]
# ## What you have shown
#
# - One table for loss, one for speed, both with their spread; and a front that belongs to **this** machine.
# - What four bits gain depends on the batch. The planner names the crossover; the measurement says where it really is.
# - Weight-only formats are a matter of reading: the kernel unpacks on the way, and multiplies in 16 bits.
#
# **Open questions for you.** Which of your services runs at batch 1, and which at 128? Measure with *your* lengths:
# `lab4.TOKENS` is 64, and long texts have large KV caches, which no weight format makes smaller.
#
# *Sources: llama.cpp's llama-batched-bench; vLLM; Frantar et al. 2024, arXiv 2408.11743 (Marlin); Tillet et al. 2019
# (Triton), and its documentation; Williams, Waterman and Patterson 2009. `quantlab claims Q4` prints that claim.*
#
# **Next:** [lesson 5](../lessons/05_serving_at_scale.ipynb), serving at scale.
