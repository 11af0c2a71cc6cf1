# %% [markdown]
# # Lesson 1: The memory problem
#
# *45 to 60 minutes. No GPU and no network needed: everything below runs on this machine.*
#
# **The scenario.** Your team wants to serve Llama-3-70B. On the shelf is one A10, a GPU with 24 GB. A guide on the web
# says that 4 bits make the model "run on a 24 GB card". Somebody has to sign the order. You have this notebook.
#
# You will learn to count what a model needs, byte by byte, from nothing but its `config.json`; to tell which "fits in
# 24 GB" is arithmetic and which is hope; and to find the mistake in a calculator within a minute.

# %% [markdown]
# ## A real model, on this machine
#
# The course carries a small language model, trained from scratch on little stories. It is a Llama like the big one:
# the same parts with the same names, only fewer and narrower. Let it talk before we weigh it.

# %%
import torch

import quantlab

tiny = quantlab.load("tiny")
start = tiny.tokenizer("<|begin|>Once upon a time there was a", add_special_tokens=False, return_tensors="pt")
torch.manual_seed(0)
told = tiny.model.generate(**start, max_new_tokens=60, do_sample=True, temperature=0.7)
print(tiny.tokenizer.decode(told[0], skip_special_tokens=True))

# %% [markdown]
# ## Predict first
#
# Each layer's weights will be stored in **4 bits** instead of 16, in groups of 128 with one 16-bit scale each. So how
# many bits will each weight of the *whole* model take? Lock a number. At the end of the lesson you measure it.

# %%
from quantlab.lesson.lesson1 import exercises, predictions
from quantlab.widgets import ask, memory_explorer

ask(predictions.four_bit_file)

# %% [markdown]
# In code it is `predictions.four_bit_file.lock(4.2)`. A locked number cannot be changed, and nobody sees it but you.
#
# ## Weights: one multiplication, and what it leaves out
#
# A weight in bf16 takes 2 bytes. So the first answer is parameters times two:

# %%
parameters = sum(weight.numel() for weight in tiny.model.parameters())
print(f"{parameters:,} parameters x 2 bytes = {parameters * 2 / 1e6:.2f} MB")

# %% [markdown]
# Believe nothing: here is the file.

# %% tags=["nbval-check-output"]
weights_file = tiny.source.folder / "model.safetensors"
on_disk = weights_file.stat().st_size
print(f"the file holds {on_disk:,} bytes: {on_disk - 2 * parameters:,} more than {2 * parameters:,}")


# %% [markdown]
# The difference is the file's header: names and shapes. Everything else is weights.
#
# ## From a config to bytes, tensor by tensor
#
# You can count a model that you cannot load. A Llama block has seven matrices, and the `config.json` gives all of
# their sides. Read the function below aloud: it is the whole architecture.

# %%
def count(c):
    """Parameters of a Llama from its config: attention, MLP, norms, embedding, output head."""
    q, kv = c["heads"] * c["head_dim"], c["kv_heads"] * c["head_dim"]
    attention = c["hidden"] * (q + kv + kv + q)  # q_proj, k_proj, v_proj, o_proj
    mlp = 3 * c["hidden"] * c["intermediate"]  # gate_proj, up_proj, down_proj
    norms = 2 * c["hidden"]
    ends = c["vocab"] * c["hidden"] * (1 if c["tied"] else 2)
    return c["layers"] * (attention + mlp + norms) + c["hidden"] + ends


# %%
llama_70b = {"layers": 80, "hidden": 8192, "intermediate": 28672, "heads": 64, "kv_heads": 8, "head_dim": 128}
llama_70b |= {"vocab": 128256, "tied": False}
print(f"Llama-3-70B: {count(llama_70b):,} parameters")

# %% [markdown]
# The library counts the same way, tensor by tensor. Is your count its count, on the big model and on the one in memory?

# %%
from quantlab.plan.models import shape_of

assert count(llama_70b) == shape_of("llama-3-70b").parameters
assert shape_of("tiny").parameters == parameters
print("equal, to the last parameter")

# %% [markdown]
# Where do they sit? Almost everything is MLP and attention: that is what a quantizer will shrink.

# %%
from quantlab.lesson.tables import Table, claims_table
from quantlab.plan.memory import GB, GIB, weights_by_kind

kinds = weights_by_kind("llama-3-70b", "bf16")
rows = [(kind, nbytes / GB, f"{nbytes / sum(kinds.values()):.1%}") for kind, nbytes in kinds.items()]
Table(("kind of tensor", "GB in bf16", "share"), rows, "Llama-3-70B, weights only")

# %% [markdown]
# **GB or GiB?** A GB is a thousand million bytes, a GiB is 2 to the power of 30: 7% more. Files are sold in GB, memory
# is counted in GiB, and half of the "it should have fitted" reports on the web live in that gap.

# %% tags=["nbval-check-output"]
total = sum(kinds.values())
print(f"{total / GB:.1f} GB are {total / GIB:.1f} GiB")

# %% [markdown]
# ## The other half: the KV cache
#
# A model that writes must not read everything again for each new word. So every token leaves a **key** and a **value**
# behind, in every layer, for every *key-value head*:
#
# $$\text{bytes per token} = 2 \times \text{layers} \times \text{kv heads} \times \text{head size} \times \text{bytes per number}$$
#
# Watch it happen. We let the bundled model read 100 tokens and weigh what it kept.

# %%
tokens = torch.randint(4, 4096, (1, 100))
cache = tiny.model(tokens, use_cache=True).past_key_values
kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
print(f"{kept:,} bytes for 100 tokens in float32, so {kept // 100 // 2:,} bytes a token in bf16")

# %% tags=["nbval-check-output"]
s = shape_of("tiny")
formula = 2 * s.layers * s.kv_heads * s.head_dim * 2
assert formula == kept // 100 // 2
print(f"2 x {s.layers} x {s.kv_heads} x {s.head_dim} x 2 = {formula:,} bytes a token")

# %% [markdown]
# ### Exercise 1
#
# Now you, for any model. Not every number in a config matters, and some published calculators take the wrong ones.

# %%
exercises.kv_cache


# %%
def kv_kib(config):
    """KiB that one token leaves in the KV cache, in bf16."""
    ...


exercises.kv_cache.check(kv_kib)

# %% [markdown]
# Stuck? `exercises.kv_cache.hint()`, and at last `exercises.kv_cache.solution()`.
#
# ## Everything together: the explorer
#
# Weights, KV cache and a rest (CUDA's own memory and activations, marked as an assumption) against six GPUs. Move one
# control at a time. **Before you move it, say aloud which bar will grow.** The dashed outline is where you came from.

# %%
memory_explorer()

# %% [markdown]
# Three things to try:
#
# 1. Llama-3-70B, one text: from bf16 to AWQ. Which GPUs appear?
# 2. Stay on AWQ and raise the batch to 64. What is the largest part now? *A common misconception is that quantized
#    weights make the KV cache smaller. They do not touch it.*
# 3. Change the model to Llama-2-13B and look at the cache. An older, smaller model with a larger one: why?

# %%
from quantlab.plan.memory import kv_bytes_per_token

names = ("llama-2-13b", "llama-3-70b", "llama-3.1-405b", "llama-3.1-8b", "qwen3-4b")
rows = [(n, shape_of(n).heads, shape_of(n).kv_heads, kv_bytes_per_token(n) / 1024) for n in names]
Table(("model", "query heads", "key-value heads", "KiB a token"), rows, "KV cache in bf16")

# %% [markdown]
# **Grouped-query attention** is why: in Llama-3-70B eight query heads share one key and value head.
#
# ## What "4 bits" means
#
# Quantizing snaps each weight to one of 16 levels; that is lesson 2. Here only the bytes count. A group of weights
# shares a scale, and the scale must be stored too. Take one real matrix:

# %%
W = tiny.model.model.layers[0].mlp.down_proj.weight
small = quantlab.quantize_tensor(W, "int4_g128")
print({name: (tuple(part.shape), str(part.dtype)) for name, part in small.parts.items()})
print(f"{small.nbytes:,} bytes for {W.numel():,} weights: {small.bits_per_weight:.3f} bits a weight")

# %% [markdown]
# These are the tensors of a checkpoint that vLLM loads: eight codes packed into each 32-bit word, a scale for every 128
# of them, and the matrix's shape. Every format pays such a tax. The smaller the group, the better the fit and the higher the tax:

# %%
from quantlab.layout import layout

formats = ("bf16", "fp8_e4m3", "int4_g128", "int4_g32", "awq_int4_g128", "nf4", "mxfp4", "nvfp4", "q4_k", "q2_k")
rows = [(name, layout(name).bits_per_weight, layout(name).note) for name in formats]
Table(("format", "bits a weight", "what is stored beside the codes"), rows)

# %% [markdown]
# ### Exercise 2
#
# A tax on the layers, and the ends of the model left in 16 bits: what does a weight take on average?

# %%
exercises.bits_per_weight


# %% [markdown]
# It returns nothing yet: that is your part.

# %%
def effective_bits(quantized, left, group):
    """Bits for each parameter of a 4-bit checkpoint with a scale and a zero point for each group."""
    ...


exercises.bits_per_weight.check(effective_bits)

# %% [markdown]
# ## The reveal
#
# Now we do what you predicted: quantize every linear layer of the bundled model, keep the embedding (it is the output
# head too) and the norms in 16 bits, and count the stored bytes.

# %%
from quantlab.models.walk import linear_layers

layers = dict(linear_layers(tiny.model))
in_4_bits = sum(quantlab.quantize_tensor(layer.weight, "int4_g128").nbytes for layer in layers.values())
in_16_bits = 2 * (parameters - sum(layer.weight.numel() for layer in layers.values()))
measured = 8 * (in_4_bits + in_16_bits) / parameters
predictions.four_bit_file.reveal(measured)

# %% tags=["nbval-check-output"]
print(f"layers {in_4_bits:,} bytes + the rest {in_16_bits:,} bytes = {measured:.3f} bits a weight")
print(f"{16 / measured:.2f} times smaller than bf16, not 4 times")

# %% [markdown]
# In a small model the embedding is a large part of all weights, so the tax is heavy. In a large one it is light. Both
# follow from the config:

# %%
from quantlab.plan.memory import memory

models = ("tiny", "smollm2-135m", "llama-3.1-8b", "llama-3-70b", "llama-3.1-405b")
rows = [(m, shape_of(m).parameters / 1e9, memory(m, "awq_int4_g128", 1).bits_per_weight) for m in models]
Table(("model", "billion parameters", "bits a weight, AWQ with groups of 128"), rows)

# %% [markdown]
# ## Why 70B does not fit
#
# Back to the order form. One Llama-3-70B, one text of 4,096 tokens, in four formats:

# %%
from quantlab.plan.gpus import GPUS
from quantlab.plots import Need, memory_bars

cards = ("a10", "rtx-5090", "l40s", "a100-80", "h200")
formats = ("bf16", "int8", "awq_int4_g128", "q2_k")


def need(fmt):
    plan = memory("llama-3-70b", fmt, context=4096)
    parts = {"weights": plan.weights_bytes, "KV cache": plan.kv_bytes, "overhead": plan.overhead_bytes}
    return Need(fmt, {part: nbytes / GIB for part, nbytes in parts.items()})


memory_bars([need(fmt) for fmt in formats], {GPUS[c].label: GPUS[c].memory_gib for c in cards})

# %% [markdown]
# The bars above may use all of a card. A server leaves some free: vLLM takes 92% unless told otherwise, which is why
# the H200 drops out for bf16 in this table of the KV cache that is left beside the weights.

# %%
from quantlab.plan.memory import VLLM_UTILIZATION, max_tokens



def room(model, fmt, card):
    return max_tokens(model, fmt, card, utilization=VLLM_UTILIZATION) or "no"


rows = [(fmt, *(room("llama-3-70b", fmt, card) for card in cards)) for fmt in formats]
Table(("format", *(GPUS[card].label for card in cards)), rows, "Tokens of KV cache that fit beside the weights")

# %% [markdown]
# So the order cannot be signed: on the A10 there is no room for the weights in any of these formats, let alone for a
# token of cache. What would fit there?

# %%
models = ("codellama-34b", "llama-2-13b", "qwen3-8b", "llama-3.1-8b")
rows = [(model, *(room(model, fmt, "a10") for fmt in formats)) for model in models]
Table(("model", *formats), rows, "Tokens of KV cache left on one A10")


# %% [markdown]
# ## The real planner
#
# What you have built so far is weights, KV cache, and one flat number for everything else. `quantlab plan` goes on where
# it ends. It knows who serves the format, which share of the card that server takes, and what its largest step needs:

# %%
from quantlab.plan.memory import OVERHEAD_BYTES
from quantlab.plan.report import plan

asked = (("llama-3.1-8b", "bf16", "a10"), ("qwen3-8b", "awq_int4_g128", "a10"), ("llama-3.1-8b", "nf4", "a10"),
         ("llama-3.1-8b", "q4_k_m", "a10"), ("llama-3.1-8b", "bf16", "h100"))  # fmt: skip
rows = []
for model, fmt, card in asked:
    p = plan(model, card, fmt, context=4096)
    rows.append((model, fmt, GPUS[card].label, p.setup.engine.name, OVERHEAD_BYTES / GIB, p.overhead_bytes / GIB))
Table(("model", "format", "GPU", "served by", "flat, GiB", "planned, GiB"), rows, "Overhead on one GPU")

# %% [markdown]
# Why so different? vLLM keeps room for choosing the next word of 256 texts at once, from the whole vocabulary, and on a
# large card of 1,024: that alone is 4 GiB there. llama.cpp computes 512 tokens at a time. Is it true? Against what vLLM
# servers printed about themselves (published logs, each with its source in `quantlab.plan.published`):

# %%
from quantlab.plan.engines import ENGINES
from quantlab.plan.published import LOGS

rows = []
for log in LOGS:
    if log.activations is not None and not log.unlike:
        said = ENGINES["vLLM"].activations(shape_of(log.model), log.gpus) / GIB
        rows.append((log.model, log.gpus, said, log.activations, f"{said / log.activations - 1:+.0%}"))
Table(("model", "GPUs", "planned, GiB", "logged, GiB", "error"), rows, "Peak of activations on each GPU")

# %% [markdown]
# And it turns the question round. The order form, once more: by how much does it not fit, and what are the cheapest ways
# out?

# %%
from quantlab.plan.report import verdict, way_sentence

order = plan("llama-3-70b", "a10", "awq_int4_g128", context=4096)
print(verdict(order))
for way in order.ways:
    print(" -", way_sentence(way))

# %% [markdown]
# Or: what is the longest text, and how many texts of 4,096 tokens at once, on that A10?

# %%
rows = []
for model, fmt in (("llama-3.1-8b", "bf16"), ("llama-3.1-8b", "awq_int4_g128"), ("qwen3-8b", "awq_int4_g128")):
    p = plan(model, "a10", fmt, context=4096)
    rows.append((model, fmt, f"{p.max_context:,}", p.max_concurrency))
Table(("model", "format", "longest text, tokens", "texts of 4,096 tokens at once"), rows, "One A10, vLLM")

# %% [markdown]
# In a terminal: `quantlab plan llama-3-70b --gpu a10 --format awq-int4 --context 4096`, with any `config.json` or GGUF file
# in place of the name. How far its terms are from the truth is in `docs/planning.md`.
#
# ## Broken calculators
#
# Many calculators of the web were wrong in just these terms, some of them by a factor of six. Here are four that were
# published, each with its real bug; the question says where it stood. Find it before you mend it. They are short, and in
# any order; take as many as your hour allows.
#
# ### Exercise 3: as if no head shared anything

# %%
exercises.query_heads


# %%
def kv_bytes(config, tokens):
    """Bytes of KV cache of so many tokens, in 16 bits."""
    ...


exercises.query_heads.check(kv_bytes)

# %% [markdown]
# ### Exercise 4: a guessed head

# %%
exercises.guessed_head


# %%
def token_bytes(config):
    """Bytes that one token leaves in the KV cache, in 16 bits."""
    ...


exercises.guessed_head.check(token_bytes)

# %% [markdown]
# How wrong, and for whom? Both are right for Llama-2-13B, which is how such a bug survives: it was tested on one model.

# %%
rows = []
for name in ("llama-3-70b", "qwen3-4b", "llama-2-13b"):
    c, right = shape_of(name), kv_bytes_per_token(name) * 8192
    no_sharing = 2 * c.layers * c.hidden * 2 * 8192
    guessed = 2 * c.layers * c.kv_heads * (c.hidden // c.heads) * 2 * 8192
    rows.append((name, right / GIB, f"x {no_sharing / right:.2f}", f"x {guessed / right:.2f}"))
Table(("model", "right, GiB", "no head shares", "a guessed head"), rows, "8,192 tokens in bf16")

# %% [markdown]
# ### Exercise 5: a window that was not seen

# %%
exercises.sliding_window


# %%
def kv_bytes(config, tokens):
    """Bytes of KV cache of one text, in 16 bits."""
    ...


exercises.sliding_window.check(kv_bytes)

# %% [markdown]
# ### Exercise 6: a table of a well-known article

# %%
exercises.sixteen_heads


# %%
def kv_gb(layers, kv_heads, head_dim, tokens):
    """GB (10^9 bytes) of KV cache of one text, in 16 bits."""
    ...


exercises.sixteen_heads.check(kv_gb)

# %% [markdown]
# ### Exercise 7: the published number is wrong
#
# Not the arithmetic this time but the unit. A card of 24 GB is one of 22.4 GiB; who mixes them up is wrong by 7%.

# %%
exercises.mislabelled

# %%
mine = {
    "llama.cpp: Llama-3.1-8B, F16": ...,
    "llama.cpp: Llama-3.1-8B, original": ...,
    "llama.cpp: Llama-3.1-8B, Q4_K_M": ...,
    "vLLM's log of 2024: Llama-2-7B, fp16": ...,
    "Hugging Face: KV cache of Llama-3.1-8B, 128,000 tokens": ...,
    "Hugging Face: KV cache of Llama-3.1-70B, 128,000 tokens": ...,
}
exercises.mislabelled.check(mine)

# %% [markdown]
# ### Exercise 8: your model on your GPU
#
# An open one. Choose what matters to you; your own model's `config.json` will do.

# %%
exercises.largest_context

# %%
mine = {
    "model": "llama-3.1-8b",
    "gpu": "rtx-4090",
    "format": "awq_int4_g128",
    "batch": 4,
    "context": ...,
}
exercises.largest_context.check(mine)

# %% [markdown]
# ## What they say on the web
#
# Thirteen claims from two documents that many people learn from: *a practitioner's guide to AWQ* (G) and *a five-concept
# lesson on quantization* (L). Each verdict is computed here and now, from the numbers you have just met.

# %%
claims_table(["M1", "M2", "M3", "M4", "M5"])

# %%
claims_table(["M6", "M7", "M8", "M9"])

# %%
claims_table(["M10", "M11", "M12", "M13"])

# %% [markdown]
# *Holds if* means: under the condition in the last column. Disagree with an input? Change it: a claim is a function.

# %%
from quantlab.lesson.claims import check

for memory_gb in (24, 48, 80):
    print(f"M6 on a card of {memory_gb} GB: {check('M6', memory_gb=memory_gb).verdict}")

# %% [markdown]
# ## What to take away
#
# - Weights: parameters times bits, **plus** scales and zero points, **plus** the parts left in 16 bits.
# - KV cache: 2 x layers x *KV* heads x head size x bytes, for every token of every text that is in flight.
# - Quantizing weights does not shrink the cache; quantizing the cache does not shrink the weights.
# - A GB is not a GiB, and the number on a GPU's box is neither.
# - 70B in 4 bits is 40 GB. It never ran on a 24 GB card.
#
# ## Sources
#
# Config files of the models on the Hugging Face Hub (named in `quantlab/plan/models.py`); Ainslie et al. 2023 (GQA);
# Lin et al. 2024 (AWQ); Dettmers et al. 2023 (NF4); llama.cpp's `ggml-common.h`; NVIDIA's data sheets. `quantlab claims M9`
# prints a claim with its inputs and how its figure was obtained.
#
# **Next:** [lab 1](../labs/01_fit_a_model.ipynb) does it for real: plan, load, measure the difference, and serve.
