# %% [markdown]
# # Lesson 3: GPTQ, GGUF and AWQ
#
# *45 to 60 minutes. No GPU and no network needed: everything below runs on this machine.*
#
# **The scenario.** Your 13B model must go on one A10, in about 3 or 4 bits. On the Hub it is there three times:
# `...-AWQ`, `...-GPTQ`, `...Q4_K_M.gguf`. Same model, nearly the same bits. One colleague read that AWQ "consistently
# outperforms" GPTQ. Another deployed a GPTQ file last month, and it was worse than plain rounding. Which of the files
# do you take? Which of them runs on your card at all? And what if you have to make your own?
#
# In lesson 2 every weight went to the nearest level. All three files do better, each in its own way. You will build
# what is inside them, and then let them compete.

# %% [markdown]
# ## What rounding did not look at
#
# The story model of lesson 2, and a matrix of it. A layer computes $y = W x$. Lesson 2 judged the error of the
# weights. What the next layer sees is the error of the **outputs**.

# %%
import torch

import quantlab
from quantlab.lesson.lesson2.story import story_model

model = story_model()
name = "model.layers.1.self_attn.k_proj"
W, stats = model.layers[name], model.stats[name]
print(f"W {list(W.shape)}: {len(W)} outputs of {W.shape[1]} inputs, seen on {stats.n_tokens:,} tokens of eight stories")

# %% [markdown]
# ## Predict first
#
# Later we give all 28 layers to GPTQ, in 3 bits, the width at which lesson 2's second colleague got into trouble.
# Lock two numbers.

# %%
from quantlab.lesson.lesson3 import exercises, predictions
from quantlab.widgets import ask, scaling_explorer, super_block_explorer, sweep_explorer

ask(predictions.damage_left)

# %%
ask(predictions.wrong_text)

# %% [markdown]
# In code it is `predictions.damage_left.lock(60)`.
#
# ## What text can tell
#
# Run some text through the model and look at the inputs X of our layer. Two things are worth keeping, and both fit in
# one matrix, $H = X^T X$ [k, k]: how loud each input is, and which inputs go together. With E = the change of the
# weights, the squared error of all outputs is $\mathrm{tr}(E H E^T)$: the text itself is not needed any more.

# %%
from quantlab.plots import Bar, bars, inputs_picture

H = stats.H.float()
inputs_picture(H)


# %% [markdown]
# Is that formula true? Once by hand, on the inputs of one story:

# %%
def output_error(E, H):
    """Relative size of the outputs' error when W changes by E."""
    return (((E @ H) * E).sum() / ((W @ H) * W).sum()).sqrt()


X = model.inputs(name, 1)[0]
E = quantlab.quantize_tensor(W, "int3_g128").dequantize() - W
by_outputs = (X @ E.T).norm() / (X @ W.T).norm()
print(f"from the outputs {by_outputs:.6f}, from H {output_error(E, X.T @ X):.6f}")

# %% [markdown]
# ## One column, and who can make up for it
#
# Round the first column of W, nothing else. Each output is now off by its error times the first input. But the other
# inputs go together with the first one, and their weights are still free. How should they move so that the outputs
# move back? It is a least-squares problem, and its answer needs H alone.

# %%
from quantlab.lesson.lesson2.story import grid_of

H = H + 0.01 * H.diagonal().mean() * torch.eye(len(H))  # a little dampening: H must have an inverse
levels = grid_of(bits=3, group=128)
p = levels.fit(W)  # one scale for each 128 weights of a row; fixed from now on
first = levels.decode(levels.encode(W, p), p)[:, 0]
e = first - W[:, 0]
others = -torch.linalg.solve(H[1:, 1:], H[1:, :1])[:, 0]  # the best answer to an error of 1
alone, answered = torch.zeros_like(W), torch.outer(e, torch.cat([torch.ones(1), others]))
alone[:, 0] = e
print(f"outputs off by {output_error(alone, H):.3%} with the first column rounded alone")
print(f"              {output_error(answered, H):.3%} when the other {len(others)} answer")

# %% [markdown]
# **That is all of GPTQ**: round a column, let the others answer, go on with the next. Two tricks make it fast.
#
# *First trick.* The inverse of H holds every answer: row j of $H^{-1}$, divided by its entry j, is how all columns must
# move when column j moves by one. *Second trick.* Once a column is rounded it may not move any more, so the next answer
# needs the inverse of a smaller H. All those inverses are in one triangular matrix: $H^{-1} = R^T R$, and row j of R,
# divided by $R_{jj}$, is the answer of the columns **behind** j.

# %%
R = torch.linalg.cholesky(torch.linalg.inv(H), upper=True)
inverse = torch.linalg.inv(H)
print("row 0 of the inverse:", torch.allclose(inverse[0, 1:] / inverse[0, 0], others, atol=1e-4))
print("row 0 of R:          ", torch.allclose(R[0, 1:] / R[0, 0], others, atol=1e-4))
later = -torch.linalg.solve(H[8:, 8:], H[8:, 7:8])[:, 0]  # columns 0 to 6 are done: column 7 is next
print("row 7 of R:          ", torch.allclose(R[7, 8:] / R[7, 7], later, atol=1e-4))

# %% [markdown]
# ### Exercise 1
#
# Write the step that the sweep repeats.

# %%
exercises.gptq_step


# %%
def step(W, R, j, w_hat):
    """W [n, k] once column j is w_hat [n]: the columns behind it answer, those before it stay."""
    ...


exercises.gptq_step.check(step)


# %% [markdown]
# Stuck? `exercises.gptq_step.hint()`, and at last `exercises.gptq_step.solution()`. The whole sweep, in eight lines:

# %%
def sweep(W, R, levels, p):
    """Round column after column; the ones behind make up for each error."""
    W = W.clone()
    for j in range(W.shape[1]):
        scale, zero = p["scale"][:, j // 128], p["zero"][:, j // 128]
        w_hat = levels.value(levels.snap(W[:, j], scale, zero), scale, zero)
        error = (W[:, j] - w_hat) / R[j, j]
        W[:, j:] -= error[:, None] * R[j, j:]  # puts column j on its level, and moves those behind it
    return W


by_hand = sweep(W, R, levels, p)
nearest = levels.decode(levels.encode(W, p), p)
print(f"round to nearest {output_error(nearest - W, H):.2%}, GPTQ {output_error(by_hand - W, H):.2%}")

# %% [markdown]
# Eight lines against the library's, which works in blocks of columns, and against llm-compressor's GPTQ, which writes
# the checkpoints that vLLM recommends: are the codes the same? (One code in a thousand may fall the other way: a
# different order of the same sums.)

# %% tags=["nbval-check-output"]
from quantlab.formats.catalog import get
from quantlab.lesson.lesson3.libraries import llm_compressor_gptq
from quantlab.methods.gptq import gptq

ours = gptq(W, stats, get("int3_g128"), act_order=False).dequantize()
in_order = gptq(W, stats, get("int3_g128")).dequantize()  # the library's default: the loudest column first
theirs = llm_compressor_gptq(W, stats, levels)  # the same default
print("ours like the library's:          ", bool(((by_hand - ours).abs() < 1e-6).float().mean() > 0.999))
print("the library like llm-compressor's:", bool(((in_order - theirs).abs() < 1e-6).float().mean() > 0.999))

# %% [markdown]
# ## See it: the sweep
#
# Above, how far every weight is from the original **at this moment**: left of the front they sit on levels, right of it
# they have moved to make up for what was done. Beneath, round to nearest. On the right, what the outputs have lost.
#
# **Before you move anything:** GPTQ's weights end up *farther* from the original ones than rounding's. How can its
# outputs be nearer?

# %%
sweep_explorer(W, stats)

# %% [markdown]
# 1. Take *Columns* from 0 to the end. Where does GPTQ's curve rise fastest, and why there? (Who is left to answer?)
# 2. Change the order to *loudest input first*: llm-compressor calls it `actorder`, GPTQModel `desc_act`. What gets
#    better, and which columns are now done last?
# 3. 2 bits. Press *Formula* at the last column: no one is behind it.
#
# *A common misconception: "GPTQ finds better levels". Levels and scales are the same as before. It finds better
# **codes**: a weight may go to the farther level, if its neighbours can make use of that.*
#
# ## AWQ: move the weights instead
#
# AWQ looks at the diagonal alone. Lesson 2 showed the identity: multiply a column by s, divide its input by s, and
# nothing has changed. In numbers, with any s, before rounding:

# %% tags=["nbval-check-output"]
s = (torch.arange(W.shape[1]) % 7 + 1).double()
plain, moved = X.double() @ W.double().T, (X.double() / s) @ (W.double() * s).T
print("the same outputs, to 1 part in 10^12:", bool((moved - plain).norm() < 1e-12 * plain.norm()))

# %% [markdown]
# After rounding, column j's error is divided by $s_j$; but a larger column takes a larger share of its group's levels,
# and the quiet ones pay. How far to go? AWQ tries: $s = (\text{mean}|x|)^a$, with twenty values of a, and takes the
# best.

# %%
scaling_explorer()

# %% [markdown]
# 1. Move the exponent. Grey shows who caused the error without scaling, red and blue who causes it now.
# 2. *Outliers x 20*: the loudest 1% of the inputs are made 20 times louder and their weights 20 times smaller, which
#    changes nothing in what the layer computes. What does the curve do? Which kind of layer do large models have?
# 3. Is the best exponent the same in 4 bits and in 2?
#
# ### Exercise 2

# %%
exercises.awq_rounding

# %%
from quantlab.lesson.lesson2.story import rounded  # noqa: F401


def awq_round(W, x, a, bits, group):
    """W [n, k], its columns scaled by x^a, rounded, scaled back; x [k]: the mean size of each input."""
    ...


exercises.awq_rounding.check(awq_round)

# %% [markdown]
# The search in four lines. AutoAWQ has the same one; we call its own code on the same inputs. Does it choose the same
# scale? (`down_proj`, because AutoAWQ judges that layer by its own outputs, as we do.)

# %% tags=["nbval-check-output"]
from quantlab.lesson.lesson3.libraries import autoawq_scale
from quantlab.methods.awq import normalized, scaled_error

down = "model.layers.1.mlp.down_proj"
V, X, fmt = model.layers[down], torch.cat(model.inputs(down, 2)), get("awq_int4_g128")
x = X.abs().mean(0)
tried = [normalized((x ** (a / 20)).clamp(min=1e-4)) for a in range(20)]
mine = min(tried, key=lambda s: scaled_error(V, X.T @ X, fmt, s))
print("AutoAWQ's scale is ours:", bool(torch.allclose(mine, autoawq_scale(V, X), rtol=1e-3)))

# %% [markdown]
# AWQ's second step is **clipping**: a group's largest weight sets the scale; a range a few percent smaller moves that
# weight and serves the other 127. For each group the best of ten ranges is taken.
#
# ## Three libraries, two methods
#
# "AWQ" and "GPTQ" are names of papers. What ran on the file that you downloaded was a library:

# %%
from quantlab.lesson.lesson3.libraries import differences
from quantlab.lesson.tables import Table, claims_table

Table(*differences(), "What they do differently (read in their sources)")

# %% [markdown]
# Two of these matter most. **What each block sees:** if block 5 is calibrated on what the *quantized* blocks 0 to 4
# send, it can make up for their errors too; if on the original inputs, it cannot. **Long texts:** AutoAWQ drops every
# calibration text longer than its limit without a word; if all are too long, it dies with `torch.cat(): expected a
# non-empty list`.

# %%
claims_table(["F1", "F7"])

# %% [markdown]
# ## GGUF: spend bits on scales
#
# llama.cpp went another way. No columns, no H: better **scales**. A K-quant has two floors of them: 32 weights share a
# scale and a minimum of 6 bits; eight such sub-blocks share two float16. Open the first super-block of our matrix:

# %%
super_block_explorer(W, stats)

# %% [markdown]
# 1. *Weight* from 0 to 31: only the byte of codes moves. Sub-block 0 and 1: the **same** bytes of codes. Why?
# 2. *Sub-block* from 3 to 4: now four bytes hold one scale and one minimum. (4 to 7 were squeezed in later.)
# 3. *Scales for: weighed by the inputs*. The codes' bytes change little. What does change?
#
# ### Exercise 3
#
# The twelve bytes in the middle are the only tricky ones.

# %%
exercises.six_bits

# %%
import torch


def six_bits(octets):
    """12 bytes -> 8 scales and 8 minima, whole numbers from 0 to 63 [2, 8]."""
    ...


exercises.six_bits.check(six_bits)

# %% [markdown]
# All 256 weights from their 144 bytes, by hand, and then by llama.cpp's own package:

# %% tags=["nbval-check-output"]
import struct

import gguf
import numpy as np

from quantlab.formats.gguf_k_bytes import split_six

raw = quantlab.quantize_tensor(W, "q4_k").to_bytes()[:144]
d, dmin = struct.unpack("<ee", raw[:4])
scales, minima = split_six(torch.tensor(list(raw[4:16]), dtype=torch.uint8))  # the exercise
codes = torch.tensor(list(raw[16:])).reshape(4, 1, 32)  # 32 bytes for two sub-blocks: low halves, high halves
codes = torch.cat([codes & 15, codes >> 4], 1).reshape(8, 32)
block = d * scales[:, None] * codes - dmin * minima[:, None]
theirs = gguf.quants.dequantize(np.frombuffer(raw, np.uint8), gguf.GGMLQuantizationType.Q4_K)
print("256 weights, as the gguf package reads them:", np.allclose(block.flatten(), theirs, atol=1e-7))

# %% [markdown]
# And do we *write* what llama.cpp writes? Its own C code quantizes the whole model, and we compare the bytes of every
# layer that it put in Q4_K:

# %% tags=["nbval-check-output"]
from quantlab.lesson.lesson3.llama_files import same_as_llama_cpp

print(same_as_llama_cpp("q4_k_m"))

# %% [markdown]
# ## Importance: the diagonal again
#
# llama.cpp can look at text too. Its `imatrix` is the mean square of every input, the diagonal of H. Errors are weighed
# by it when a scale is chosen. The heart of that search is a line of least squares:
#
# ### Exercise 4

# %%
exercises.best_scale


# %%
def best_scale(w, q, importance):
    """The s with the smallest sum of importance (w - s q)^2; all three [g]."""
    ...


exercises.best_scale.check(best_scale)

# %% [markdown]
# ## FP8, MXFP4, NVFP4: the card's own numbers
#
# These need no search: the hardware fixes the levels, and often multiplies in them. What is left to choose is the
# scale. MXFP4 has a power of two for 32 weights; NVFP4 an 8-bit float for 16, and one float32 for all. Why did NVIDIA
# spend more on scales? Look at one block whose largest weight is 6.9:

# %%
w = torch.cat([torch.tensor([6.9]), torch.linspace(-6, 6, 31)])[None]  # one block of MXFP4, two of NVFP4
rows = []
for fmt in ("mxfp4", "nvfp4", "fp8_e4m3"):
    Q = quantlab.quantize_tensor(w, fmt)
    back, bits = Q.dequantize()[0], get(fmt).layout.bits_per_weight
    rows.append((fmt, bits, round(back[0].item(), 3), f"{(back - w[0]).norm() / w.norm():.1%}"))
Table(("format", "bits a weight", "6.9 becomes", "error of all 32"), rows, "A power of two cannot reach every largest weight")

# %% [markdown]
# ### Exercise 5

# %%
exercises.nvfp4_block

# %%
import torch


def nvfp4(codes, scale, global_scale):
    """The 16 weights in 8 bytes, the scale of the block, and the tensor's own."""
    ...


exercises.nvfp4_block.check(nvfp4)

# %% [markdown]
# ## Both at once
#
# AWQ and GPTQ do not exclude each other: scales first, then the sweep. `awq_gptq` of this course goes three steps
# further. The scales are chosen by **what GPTQ will pay**, $1/R_{jj}^2$ for a squared error in column j, instead of
# $H_{jj}$. After the sweep, scales and codes are refined in turn. And it has a better **aim**: block 5 receives inputs
# X that are off already. GPTQ aims at $W X$; `awq_gptq` aims at $W X_0$, what the *original* model's inputs would have
# given, so that a layer also repairs what those before it broke. That wants much text: on sixteen stories it brought
# nothing, on sixty it did (docs/log.md). So the contest below goes without.
#
# The whole interface is one line: any method, any format, any model of a known family. It changes the model in place,
# reports, and can put everything back.

# %%
done = quantlab.quantize(model.loaded, "rtn", "int3_g128")
print(f"{done.bits_per_weight:.3f} bits a weight, squared error of the weights {done.mean('weight_error'):.1%}")
loaded = done.undo()

# %% [markdown]
# ## The reveal
#
# Now the contest. The same sixteen stories to look at, the same 8 levels in groups of 128, eight new stories to be
# judged on.

# %%
from quantlab.lesson.lesson3.contest import enter, enter_llama_cpp, left_of, table_rows

three = {method: enter(method, "int3_g128") for method in ("rtn", "awq", "gptq", "awq_gptq")}
share, stderr = left_of(three["gptq"], three["rtn"])
print(f"GPTQ leaves {share:.1%} ± {stderr:.1%} of the damage of rounding to nearest")
predictions.damage_left.reveal(100 * share)

# %%
rows = [Bar(m, e.quality.kl_mean, e.quality.kl_stderr, m == "awq_gptq") for m, e in three.items()]
bars(rows, "3.125 bits a weight, one model, four ways to choose the codes", "KL divergence, nats a token", percent=False)

# %% [markdown]
# Now every family of this lesson at one size: **4.5 bits a weight**, scales included. (HQQ looks at no text: it moves
# scales so that the many small weights fit well and the few large ones do not decide; Badri and Shaji 2023.) The last
# row is llama.cpp's own file, which spends more on some layers and quantizes the embeddings too.

# %%
pairs = [(m, "int4_g32") for m in ("rtn", "hqq", "awq", "gptq")]
pairs += [("rtn", "nf4"), ("rtn", "nvfp4"), ("rtn", "q4_k"), ("imatrix", "q4_k")]
four = [enter(method, fmt) for method, fmt in pairs]
ranked = [*sorted(four, key=lambda e: e.quality.kl_mean), enter_llama_cpp("q4_k_m")]
Table(("method", "format", "bits", "KL, nats a token", "same next token"), table_rows(ranked), "The story model")

# %% [markdown]
# Read it twice. From the best to the worst at the **same size** it is a factor of two, about what one more bit buys.
# And Q4_K is up there with GPTQ, even without text: two floors of scales are a good way to spend half a bit.
#
# The production libraries take minutes together, too long for a lesson; lab 3 runs them. Here is a run that was kept, all
# on the same text:

# %%
from quantlab.lesson.lesson3 import recorded

kept = [row for bits in (4, 3) for row in recorded.of("tiny", bits).values()]
rows = [(r.bits, r.name, f"{r.kl:.4f} ± {r.kl_stderr:.4f}", f"{r.quantize_s:.0f}", f"{r.peak_mib:,.0f}") for r in kept]
Table(("bits", "library", "KL, nats a token", "seconds", "MiB"), rows, recorded.provenance())

# %% [markdown]
# So what of the web's sentences? Each is computed or measured now, on your machine, or cited.

# %%
claims_table(["F2", "F3"])

# %% [markdown]
# *F2 is the sentence from the scenario. AWQ's paper has it right for its models; on this one GPTQ is ahead at both
# widths, outside the error bars. "Consistently" is the wrong word. `quantlab claims F2` prints every part.*
#
# ## Sabotage
#
# All of this hangs on the text that the methods looked at. What if it is the wrong text? GPTQ, 3 bits, always as many
# tokens, judged on stories:

# %%
from quantlab.lesson.lesson3 import calibrations

kinds = ("stories", "no BOS", "random tokens", "Python code")
wrong = {kind: enter("gptq", "int3_g128", calibrations.text(kind)) for kind in kinds}
predictions.wrong_text.reveal(wrong["Python code"].quality.kl_mean / wrong["stories"].quality.kl_mean)

# %%
rows = [Bar(f"GPTQ on {k}", e.quality.kl_mean, e.quality.kl_stderr, k == "Python code") for k, e in wrong.items()]
awq = enter("awq", "int3_g128", calibrations.text("Python code"))
rows += [Bar("AWQ on stories", three["awq"].quality.kl_mean, three["awq"].quality.kl_stderr)]
rows += [Bar("AWQ on Python code", awq.quality.kl_mean, awq.quality.kl_stderr)]
rows += [Bar("round to nearest, no text", three["rtn"].quality.kl_mean, three["rtn"].quality.kl_stderr)]
bars(rows, "3 bits, judged on stories", "KL divergence, nats a token", percent=False)

# %% [markdown]
# There is the second colleague's file. On the wrong text GPTQ is **worse than plain rounding**: it made the outputs
# right for inputs that never come. AWQ, which takes one number for each input from the text, loses much less. And noise
# does less harm than the wrong language: random tokens at least excite all inputs alike.
#
# How much of the *right* text is enough?

# %%
counts = {n: enter("gptq", "int3_g128", calibrations.text(f"{n} stories")) for n in (1, 60)}
counts[16] = three["gptq"]
rows = [Bar(f"{n} stories" if n > 1 else "1 story", counts[n].quality.kl_mean, counts[n].quality.kl_stderr, n == 16) for n in sorted(counts)]
bars(rows, "GPTQ in 3 bits, by the amount of text", "KL divergence, nats a token", percent=False)

# %%
claims_table(["F11"])

# %% [markdown]
# One story is worse than none. Here H has 512 x 512 numbers (1,024 x 1,024 in `down_proj`), and a story has 300 tokens:
# most directions were never seen, and GPTQ feels free to put errors there. *Rule of thumb: several times more tokens
# than inputs, and text like that of your users.*
#
# ## One number in a file
#
# A server believes `config.json`. An AWQ checkpoint of the story model was stored in groups of 128; the copy says 256.
# Not a byte of the weights is damaged.

# %%
from quantlab.lesson.lesson3.wrong_group import quality_if_believed, what_the_verifier_says

for group in (128, 256, 512):
    q = quality_if_believed(group)
    print(f"groups of {group}: KL {q.kl_mean:.3f}, the same next token at {q.top1_agreement:.0%} of places")
print("\nquantlab verify:", what_the_verifier_says(256))

# %% [markdown]
# No error, no crash, no warning: just noise. `quantlab verify DIR` compares what the file claims with what is there,
# before a server loads it.

# %%
claims_table(["F6", "F8", "F9", "F10"])

# %% [markdown]
# ## Who runs what
#
# A file is of use only where something runs it. *Native*: the card multiplies in this type. *Weight only*: the weights
# become 16 bits on their way into the multiplication; the memory is saved all the same.

# %%
from quantlab.doctor.gpu import ask_driver
from quantlab.plan.support import generation, runs_on
from quantlab.plots import support_picture

cards = [card for card in ask_driver().gpus if card.capability >= (7, 0)]
mine = generation(cards[0].capability) if cards else None
print(f"here: {cards[0].name}, {mine}" if cards else "no NVIDIA GPU here: llama.cpp runs GGUF files on this CPU")
support_picture(runs_on("vLLM"), mine, "vLLM: formats by the generation of the card")

# %%
claims_table(["F4", "F5"])

# %% [markdown]
# The scenario's A10 is an Ampere: AWQ and GPTQ run, FP8 saves memory only, NVFP4 would give nothing but its size. (NF4
# and GGUF need a plugin in today's vLLM, `vllm-bnb-plugin` and `vllm-gguf-plugin`; llama.cpp is GGUF's own engine.)
#
# What does it take to *make* such a file, for a large model? Less memory than is said, because one block at a time is
# enough; and any checkpoint from the Hub may bring code of its own:

# %%
claims_table(["F12", "F13"])

# %% [markdown]
# ## Yours
#
# Two open exercises. The first takes a layer: one of these, or weights and inputs of a model of your own.

# %%
exercises.own_layer

# %%
mine = {
    "layer": "model.layers.0.self_attn.o_proj",
    "bits": ...,
}
exercises.own_layer.check(mine)

# %% [markdown]
# The second takes your own text. Say what you expect before you measure.

# %%
exercises.own_text

# %%
mine = {
    "texts": [
        "The committee shall submit its report, together with the audited "
        "accounts, before the end of the quarter."
    ],
    "outcome": ...,
}
exercises.own_text.check(mine)

# %% [markdown]
# And with your own prompts: `Judge(quantlab.load("tiny"), text=Path("my.txt"))` from `quantlab.evaluate.rounded`
# measures any weights on any text; `quantlab compare tiny --bits 4` sets all methods side by side, the libraries too.

# %% [markdown]
# ## What to take away
#
# - What counts is the error of the outputs, $\mathrm{tr}(E H E^T)$. Text gives H; the weights alone do not.
# - **GPTQ** chooses codes: each column's error is made up for by the columns behind it. **AWQ** moves weights on the
#   grid: loud inputs get finer steps. **K-quants** spend bits on two floors of scales. **NF4, FP8, FP4** have fixed levels
#   and need no text.
# - At equal bits the choice of codes is worth nearly one bit. Equal bits, equal text, error bars: else a ranking says
#   nothing.
# - The more a method takes from text, the more it wins on the right text, and the more it loses on the wrong one.
# - A file is codes, scales, and a config that must agree with them. Verify before you serve.

# %% [markdown]
# ## Sources
#
# Frantar et al. 2022, arXiv 2210.17323 (GPTQ); Lin et al. 2023, arXiv 2306.00978 (AWQ); Li et al. 2025, arXiv
# 2504.02692 (GPTAQ: the aim); Badri and Shaji 2023 (HQQ); llama.cpp's `ggml-quants.c` and `tools/imatrix`; the OCP
# Microscaling specification 1.0 and NVIDIA, "Introducing NVFP4" (2025); AutoAWQ 0.2.9, llm-compressor 0.14, GPTQModel 7.7;
# vLLM's page of supported hardware. `quantlab claims F4` prints a claim with all that it rests on.
#
# **Next:** [lab 3](../labs/03_awq_gptq_gguf_for_real.ipynb): the real libraries on a real model with your own text,
# verified, served and compared; and a model that learns in NF4 and is deployed in AWQ.
