# %% [markdown]
# # Lesson 2: Rounding to levels
#
# *45 to 60 minutes. No GPU and no network needed: everything below runs on this machine.*
#
# **The scenario.** Lesson 1 left you with one A10 and its 24 GB. Llama-2-13B fits in 4 bits; in 3 bits there would be
# room for longer texts. One colleague says: "You round 13 billion numbers. The errors multiply. It will talk nonsense."
# Another says: "Only the last digits change. Take 3 bits." Both sound sure, and neither has measured anything.
#
# You will write the rounding yourself, in five lines; see what it does to a real matrix; open the bytes of a file; and
# find out where both colleagues are wrong.

# %% [markdown]
# ## A real matrix
#
# The bundled story model has 28 of them. We take a small one: the matrix that makes the keys in the second block.

# %%
import torch

import quantlab

tiny = quantlab.load("tiny")
W = tiny.model.model.layers[1].self_attn.k_proj.weight.detach()
print(f"{W.shape[0]} rows of {W.shape[1]} weights, from {W.min():.3f} to {W.max():.3f}")
print("the first eight:", [round(w, 4) for w in W[0, :8].tolist()])

# %% [markdown]
# ## Predict first
#
# We shall round **every** layer of the model to 3 bits: each weight becomes one of 8 numbers. Then we let it read new
# stories, and ask at every place: is its most likely next token still the one that it was? Lock a number.

# %%
from quantlab.lesson.lesson2 import exercises, predictions
from quantlab.widgets import ask, levels_explorer, salience_explorer, weight_explorer

ask(predictions.same_word)

# %% [markdown]
# In code it is `predictions.same_word.lock(75)`.
#
# ## Eight weights by hand
#
# With 4 bits there are 16 codes, so 16 levels. Let the largest weight decide how far apart they are: the **scale** is
# one step. A weight divided by the scale, rounded, is its **code**; the code times the scale is what comes back.

# %%
from quantlab.lesson.tables import Table, claims_table

w = W[0, :8]
scale = w.abs().max() / 7.5  # 15 steps between 16 levels, half of them on each side
codes = (w / scale).round()
rows = zip(*([round(x, 4) + 0.0 for x in t.tolist()] for t in (w, codes, codes * scale, codes * scale - w)), strict=True)
Table(("weight", "code", "what comes back", "error"), list(rows), f"4 bits, scale {scale:.4f}")

# %% [markdown]
# One code in the table is 8, and there is no such code: 16 codes go from -8 to 7. It must be **clamped** to 7. The scale
# is stored as well, in 16 bits, so we round it first. That is **round to nearest**, the baseline of every paper:


# %%
def round_to_nearest(w, bits):
    """One group of weights -> the levels they snap to."""
    steps = 2**bits - 1
    scale = (w.abs().max() / (steps / 2)).half().float()
    codes = (w / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return codes * scale


# %% [markdown]
# Five lines. Do they do what the library does, which stores a checkpoint that vLLM can serve? To the last bit:

# %% tags=["nbval-check-output"]
stored = quantlab.quantize_tensor(W, "int4_g128")
assert torch.equal(round_to_nearest(W[0, :128], bits=4), stored.dequantize()[0, :128])
print(f"128 weights, {len(stored.dequantize()[0, :128].unique())} different values left")

# %% [markdown]
# ## See it: the matrix snaps to its levels
#
# Above: a part of the matrix, blue above zero, red below. Beneath it the same part rounded, then the errors. The grey
# hill shows where the weights are, the blue bars how many of them snap to each level.
#
# **Before you move anything, say what you expect:** at which width will your eye see a difference?

# %%
levels_explorer(W)

# %% [markdown]
# Three things to try:
#
# 1. Bits from 8 down to 2. Each bit less makes the error about twice as large. Why twice?
# 2. At 4 bits, the group from 512 down to 16. The error falls, and something else rises. What do you pay with?
# 3. At 4 bits, the levels from *symmetric* to *normal quantiles*. Look where the blue bars stand.
#
# ### Exercise 1
#
# Now the whole matrix, with a scale for each group.

# %%
exercises.groups


# %%
def round_in_groups(W, bits, group):
    """W [n, k] -> its nearest levels [n, k], with a scale for each `group` neighbours of a row."""
    ...


exercises.groups.check(round_in_groups)

# %% [markdown]
# Stuck? `exercises.groups.hint()`, and at last `exercises.groups.solution()`.
#
# ## The price of a small group
#
# The largest weight of a group sets the steps for all its neighbours. Fewer neighbours, finer steps; but each group
# stores its scale.

# %%
from quantlab.lesson.lesson2.story import relative_error, rounded

rows = []
for group in (512, 256, 128, 64, 32, 16):
    errors = [f"{relative_error(W, rounded(W, bits, group)):.1%}" for bits in (4, 3, 2)]
    rows.append((group, f"4 + 16/{group} = {4 + 16 / group:.3f}", *errors))
Table(("group", "bits a weight (at 4)", "error at 4 bits", "at 3", "at 2"), rows, "Error: share of the weights' size")

# %% [markdown]
# The first step down is cheap: from 512 to 128 you pay a tenth of a bit, and the error falls by a seventh. *A common
# misconception: "the smaller the group, the better". From 512 to 16 you pay one whole bit and the error falls by a
# third; one more bit for the codes would have halved it.*
#
# ## Symmetric or not
#
# Weights are spread around zero, but a group of 32 is never quite balanced. A **zero point** lets the levels run from
# the smallest weight to the largest.
#
# ### Exercise 2

# %%
exercises.asymmetric


# %%
def round_asymmetric(w, bits):
    """One group w [g] -> its nearest levels [g] between its smallest and its largest weight."""
    ...


exercises.asymmetric.check(round_asymmetric)

# %% [markdown]
# What does it bring on real weights? The error over all 28 matrices of the model, with the zero point's bits counted:

# %%
from quantlab.lesson.lesson2.story import story_model

model = story_model()
rows = []
for bits in (8, 4, 3, 2):
    even, uneven = (model.weight_error(model.rounded(bits, 128, symmetric)) for symmetric in (True, False))
    rows.append((bits, f"{even:.2%}", f"{uneven:.2%}", f"{1 - uneven / even:.0%}", bits / 128))
Table(("bits", "symmetric", "with zero point", "less error", "more bits a weight"), rows, "All layers, groups of 128")

# %% [markdown]
# ## One weight, and an outlier
#
# Now pick a single weight. See its code, its scale, its error, the byte that holds it, in the formats that people
# deploy. Then let one neighbour grow. **Which weights pay for it?**

# %%
weight_explorer(W)

# %% [markdown]
# 1. `int4_g32`, outlier x 16: nearly the whole group lands on one level. *A common misconception: "clip the outlier
#    away". It may be the most important weight of its row.*
# 2. The same outlier in `nf4`, `q4_k` and `fp8_e4m3`. Which format minds least, and what do its ticks look like?
# 3. Press *Formula* and read the bits a weight: the row of 256 is short, so a scale for the whole row weighs more here.
#
# ## NF4: put the levels where the weights are
#
# The hill in the first explorer is the normal distribution. Most weights are near zero, so let most levels be there:
# take them at equal shares of the **hill**, not at equal distances. From scratch:

# %%
tail = 1 - (1 / 32 + 1 / 30) / 2  # the outermost level: at 1 the quantile would be infinite
above = torch.special.ndtri(torch.linspace(tail, 0.5, 9)[:-1].double())  # 8 levels above zero
below = torch.special.ndtri(torch.linspace(tail, 0.5, 8)[:-1].double())  # 7 below
nf4 = torch.cat([-below, torch.zeros(1), above.flip(0)]).float()
nf4 = nf4 / nf4.max()
print([round(level, 4) for level in nf4.tolist()])

# %% [markdown]
# Is that bitsandbytes' table? It is the one in every QLoRA checkpoint:

# %% tags=["nbval-check-output"]
from quantlab.backends import bitsandbytes

theirs = bitsandbytes.quantize(W, "nf4")
print("largest difference from bitsandbytes' table below 1e-6:", bool((nf4 - theirs.state.code).abs().max() < 1e-6))

# %% [markdown]
# ### Exercise 3

# %%
exercises.nf4_codes


# %%
def nf4_codes(w, levels):
    """One block w [64], the 16 levels in [-1, 1] -> the code of each weight, 0 to 15."""
    ...


exercises.nf4_codes.check(nf4_codes)

# %% [markdown]
# The same on all 65,536 weights, against the production library: same bytes, same weights.

# %% tags=["nbval-check-output"]
ours = quantlab.quantize_tensor(W, "nf4")
assert torch.equal(ours.parts["weight"].flatten(), theirs.codes.flatten())  # two codes to a byte, the first one high
assert torch.equal(ours.dequantize(), theirs.dequantize())
print(f"{ours.nbytes:,} bytes, equal to bitsandbytes' in every bit")

# %% [markdown]
# **Is uneven better?** For weights like these, yes, a little; for others, no. Both columns pay 4.5 bits a weight.

# %%
generator = torch.Generator().manual_seed(0)
kinds = {"the story model's": W, "normal": torch.randn(W.shape, generator=generator)}
kinds["evenly spread"] = torch.rand(W.shape, generator=generator) - 0.5
kinds["a few huge ones"] = torch.randn(W.shape, generator=generator) ** 5
rows = []
for name, V in kinds.items():
    uneven, even = (relative_error(V, quantlab.quantize_tensor(V, fmt).dequantize()) for fmt in ("nf4", "int4_g32"))
    rows.append((name, f"{uneven:.1%}", f"{even:.1%}"))
Table(("weights", "nf4, blocks of 64", "int4, groups of 32"), rows, "Error at 4.5 bits a weight")

# %% [markdown]
# So the web's sentences about levels can be checked already:

# %%
claims_table(["R1", "R2", "R3"])

# %% [markdown]
# *R2 is on many slides. 0.8125 is 13/16: a level of an even grid. NF4 has nothing between 0.7230 and 1.*
#
# ## Floats of 8 and 4 bits
#
# A float has uneven levels by birth: each time the exponent grows, the steps double. GPUs multiply FP8 (Ada, Hopper)
# and FP4 (Blackwell) directly, so these are levels that the hardware knows.

# %%
from quantlab.formats.codebook import FP4_LEVELS, NF4_LEVELS
from quantlab.plots import Bar, bars, number_lines

octets = torch.arange(256).to(torch.uint8)
e4m3, e5m2 = (octets.view(kind).float() for kind in (torch.float8_e4m3fn, torch.float8_e5m2))
lines = {"INT4": range(-8, 8), "NF4": NF4_LEVELS.tolist(), "FP4, bitsandbytes": FP4_LEVELS.tolist()}
lines["FP4, E2M1"] = [s * x for s in (-1, 1) for x in (0, 0.5, 1, 1.5, 2, 3, 4, 6)]
lines["FP8, E4M3"] = e4m3[e4m3.isfinite()].tolist()
lines["FP8, E5M2"] = e5m2[e5m2.isfinite()].tolist()
number_lines(lines)

# %% [markdown]
# ### Exercise 4

# %%
exercises.e4m3


# %%
def e4m3(byte):
    """The number that the byte s eeee mmm stands for."""
    ...


exercises.e4m3.check(e4m3)

# %% [markdown]
# The whole family on our matrix. Look at INT8 and FP8: nearly the same bytes. An even grid suits weights without outliers.

# %%
names = ("int8", "fp8_e4m3", "q8_0", "q6_k", "q4_k", "nf4", "int4_g32", "nvfp4", "mxfp4", "q4_0", "int4_g128", "q2_k")
stored = {name: quantlab.quantize_tensor(W, name) for name in names}
rows = [(name, Q.bits_per_weight, f"{relative_error(W, Q.dequantize()):.2%}") for name, Q in stored.items()]
Table(("format", "bits a weight", "error"), rows, "One matrix, round to nearest or the format's own search")

# %% [markdown]
# ## From numbers to bytes
#
# A file holds no codes and scales, it holds bytes. The same integers have many layouts, and a reader with the wrong one
# gets noise. Here is the first block of our matrix in Q4_0, llama.cpp's simplest 4-bit format: 18 bytes, 32 weights.

# %% tags=["nbval-check-output"]
import gguf

block = stored["q4_0"].to_bytes()[:18]
print("scale:", block[:2].hex(), " codes:", block[2:].hex(" "))
assert block == gguf.quants.quantize(W[0, :32].numpy(), gguf.GGMLQuantizationType.Q4_0).tobytes()
print("the gguf package writes the same 18 bytes")

# %% [markdown]
# ### Exercise 5
#
# Read them back, from bytes alone.

# %%
exercises.q4_0_block

# %%
import struct


def q4_0(block):
    """The 32 weights in 18 bytes: a float16 scale, then 16 bytes of two codes each."""
    ...


exercises.q4_0_block.check(q4_0)

# %% [markdown]
# **Q4_K** is what most GGUF files are made of. 256 weights share a super-block of 144 bytes; inside, each 32 have a
# scale and a minimum of their own, in 6 bits, so that even the scales are rounded to levels. The first 64 by hand:

# %%
raw = stored["q4_k"].to_bytes()[:144]
d, dmin = struct.unpack("<ee", raw[:4])  # the scale of the scales, the scale of the minima
scales, codes = raw[4:16], raw[16:]  # 12 bytes of 6-bit numbers; two codes to a byte
first = [d * (scales[0] & 63) * (c & 15) - dmin * (scales[4] & 63) for c in codes[:32]]
second = [d * (scales[1] & 63) * (c >> 4) - dmin * (scales[5] & 63) for c in codes[:32]]
by_hand = torch.tensor(first + second)

# %% tags=["nbval-check-output"]
import numpy as np

theirs = gguf.quants.dequantize(np.frombuffer(raw, np.uint8), gguf.GGMLQuantizationType.Q4_K)
assert torch.equal(by_hand, stored["q4_k"].dequantize()[0, :64])
assert torch.equal(by_hand, torch.from_numpy(theirs)[:64])
print(f"64 weights from {4 + 12 + 32} of the 144 bytes, equal to quantlab's and to the gguf package's")

# %% [markdown]
# ## Do the errors add up?
#
# The first colleague's point. One output of a layer is a sum of hundreds of products, and each weight in it is a little
# off. If all errors had the same sign, they would add up. They do not: rounding goes up as often as down.

# %%
from quantlab.lesson.lesson2.accumulation import inside_one_output, through_the_layers

one = inside_one_output("model.layers.1.self_attn.k_proj", bits=4, group=128)
print(f"{one.terms} errors in one output: together {one.of_straight[0]:.2%} of what they would be, all of one sign")
print(f"if the signs were tossed with a coin: {one.walk:.2%}")

# %% [markdown]
# Exactly a coin's toss: of n errors about $\sqrt{n}$ remain. And through the layers? We round each half of a block alone,
# then all of them, and look at the last hidden state.

# %%
total = through_the_layers(bits=4, group=128)
rows = [Bar(f"only {name}", error) for name, error in total.alone.items()]
rows += [Bar("if independent (root of squares)", total.independent), Bar("if they added up", total.straight)]
rows += [Bar("all together, measured", total.together, 0, True)]
bars(rows, "Rounding every layer to 4 bits", "error of the last hidden state, share of its size")

# %% [markdown]
# Measured over independent: 1 would mean that no error knows of any other.

# %%
ratio, stderr = total.of_independent
print(f"{ratio:.3f} ± {stderr:.3f} (one standard error, over stories)")

# %% [markdown]
# So errors **accumulate as a root of squares**. They neither multiply nor vanish: twice the layers, 1.4 times the error.
# More weights do not make it worse. Larger steps do, since every single error grows with them.
#
# ## The reveal
#
# And the second colleague, who wants 3 bits? We round every layer and read eight new stories.

# %%
quality = {bits: model.quality(model.rounded(bits)) for bits in (8, 6, 5, 4, 3, 2)}
predictions.same_word.reveal(100 * quality[3].top1_agreement)

# %%
rows = [Bar(f"{bits} bits", q.top1_agreement, q.top1_stderr, bits == 3) for bits, q in quality.items()]
bars(rows, "The same next token as with 16 bits", "share of places in eight new stories (bars: one standard error)")

# %% [markdown]
# Round to nearest is nearly free at 8 bits and costs little at 6. Then every bit hurts more than the one before. Yet
# perplexity, which many tables print, hardly moves until 3 bits. Lesson 4 asks which of the two you should believe.

# %%
rows = [
    (f"{bits} bits", f"{q.kl_mean:.4f} ± {q.kl_stderr:.4f}", f"{q.perplexity:.1f} ± {q.perplexity_stderr:.1f}")
    for bits, q in quality.items()
]
rows.append(("16 bits", "0", f"{model.original.perplexity:.1f} ± {model.original.perplexity_stderr:.1f}"))
Table(("layers in", "KL divergence, nats a token", "perplexity"), rows, "The story model, groups of 128, symmetric")

# %% [markdown]
# ## Not all weights are equal
#
# What an error does depends on what it is multiplied by. If some inputs are much larger than others, then the weights
# that read them matter more: they are **salient**. AWQ's authors found about 1% of them, and two ways to protect them.
#
# 1. Keep them in 16 bits. Good, but a matrix of two widths is slow.
# 2. Scale them up by s before rounding, and their inputs down by s. Nothing changes, except that their steps become s
#    times finer: $W x = (W s)(x / s)$.

# %%
salience_explorer()

# %% [markdown]
# 1. *Keep in 16 bits*, chosen by activations, by weights, by chance. Which choice helps, and how much?
# 2. Now the inputs *with outliers x 20*. Large models have such inputs; the story model has none, so we plant some: the
#    five largest inputs are multiplied by 20, and the weights that read them divided by 20. **What it computes is the
#    same.** What does rounding do now? Which choice finds the culprits?
# 3. Scale instead of keeping: find the best s, as trained and with outliers. Why does it get worse beyond?
#
# The whole model, measured in the same way:

# %%
from quantlab.lesson.lesson2.salience import model_quality

rows = []
for how, choice, scale in (
    ("nothing protected", None, None), ("1% by chance", "chance", None), ("1% by weights", "weights", None),
    ("1% by activations", "activations", None), ("those scaled x 2", "activations", 2), ("those x 8", "activations", 8),
):  # fmt: skip
    found = [model_quality(choice, scale, planted, 3, 0.01) for planted in (1, 20)]
    rows.append((how, *(f"{q.kl_mean:.3f} ± {q.kl_stderr:.3f}" for q in found)))
Table(("3 bits, groups of 128", "as trained", "with outliers x 20"), rows, "KL divergence, nats a token")

# %% [markdown]
# An honest result: in this small model the salient 1% is real (by activations beats by chance, far outside the error
# bars) and hardly matters. With the outliers of a large model it is nearly everything. A paper's table is true of the
# models in it; yours may differ. Measure.
#
# So what do the web's sentences come to? This takes a few seconds: it measures.

# %%
claims_table(["R4", "R5", "R6"])

# %%
claims_table(["R7", "R8"])

# %% [markdown]
# R8 hangs on one word: which loss is *significant*? Change it, or any other input:

# %%
from quantlab.lesson.claims import check

for percent in (1, 5, 20):
    print(f"R8, if {percent}% more perplexity is significant: {check('R8', significant_percent=percent).verdict}")

# %% [markdown]
# ## Yours
#
# Two open exercises. The first takes any matrix: a layer by name, a tensor from a model of yours, rows that you type.

# %%
exercises.own_matrix

# %%
mine = {
    "weights": "model.layers.1.self_attn.k_proj",
    "bits": 4,
    "group": 32,
    "error": ...,
}
exercises.own_matrix.check(mine)

# %% [markdown]
# The second takes the beginning of a story of yours.

# %%
exercises.own_prompt

# %%
mine = {
    "prompt": "The dog ran to the",
    "bits": ...,
}
exercises.own_prompt.check(mine)

# %% [markdown]
# ## What to take away
#
# - Code = round(weight / scale). The largest weight of a group sets the scale, and its neighbours pay.
# - A smaller group, a zero point, uneven levels: three ways to a smaller error, each with a price in bits.
# - NF4 has levels where normal weights are. It is no law: for evenly spread weights an even grid wins.
# - The same integers have many byte layouts; a format is a grid **and** a packing.
# - Rounding errors are independent, nearly: they accumulate as a root of squares.
# - Which weights matter is decided by their inputs. How much it matters is decided by your model.
#
# ## Sources
#
# Jacob et al. 2018 (integer grids); Dettmers et al. 2023, arXiv 2305.14314 (NF4); Micikevicius et al. 2022, arXiv
# 2209.05433 (FP8); the OCP Microscaling specification 1.0 (FP4 E2M1, MXFP4); llama.cpp's `ggml-quants.c` (Q4_0, Q4_K);
# Frantar et al. 2022, arXiv 2210.17323 (GPTQ); Lin et al. 2023, arXiv 2306.00978 (AWQ). `quantlab claims R5` prints a
# claim with its inputs and how its figure was obtained.
#
# **Next:** [lab 2](../labs/02_round_it_yourself.ipynb): quantize a real model with your own code, write a checkpoint
# that vLLM loads, and talk to it.
