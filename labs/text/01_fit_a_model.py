# %% [markdown]
# # Lab 1: Fit a model
#
# *About 30 minutes. With an NVIDIA GPU the cells run **live** on a real model; without one they **rehearse** on this
# CPU with the bundled model. Every figure says which. A third mode, **recorded**, replays a real
# run on an H200.*
#
# In lesson 1 you computed what a model needs. Here you find out whether that was true: plan, load, weigh, serve, and
# read the server's own memory lines.

# %% [markdown]
# ## What have we got?

# %%
from quantlab.lesson import lab

here = lab.setting()
here

# %% [markdown]
# The machine, in a few lines; `quantlab doctor` in a terminal says more, and how to mend what is missing.

# %%
from quantlab.doctor import essentials
from quantlab.lesson.tables import Table

wanted = ("platform", "memory", "torch", "transformers", "bundled files")
Table(("what", "status", "found"), [(c.name, c.status.value, c.value) for c in essentials() if c.name in wanted])

# %% [markdown]
# ## Plan before you download
#
# Bytes, minutes and dollars, before a single one is spent. The price and the speed of the line are assumptions: put in
# your own.

# %%
from quantlab.lesson.lab import MIB
from quantlab.plan.memory import GB, weights_bytes

dollars_per_hour, line_mbit_per_s, hours, spend_cap = 0.75, 200, 1.5, 5.00
to_download = weights_bytes(here.planned, "bf16")
minutes = to_download * 8 / (line_mbit_per_s * 1e6) / 60
print(f"{here.planned}: {to_download / GB:.3f} GB, {minutes:.1f} minutes at {line_mbit_per_s} Mbit/s")
print(f"{hours} hours at ${dollars_per_hour}: ${hours * dollars_per_hour:.2f}, and the cap is ${spend_cap:.2f}")
assert hours * dollars_per_hour <= spend_cap, "over the cap: choose a cheaper GPU or fewer hours"

# %% [markdown]
# Does it fit? Weights in four formats, one text of 512 tokens, and what the library that runs the format needs beside
# them. The machine is detected; `quantlab plan` in a terminal prints the same plan with its ways out.

# %%
from quantlab.plan.detect import this_machine
from quantlab.plan.report import plan

formats = ("bf16", "int8", "nf4", "nf4_dq")
machine = this_machine()
plans = {fmt: plan(here.planned, machine, fmt, context=512) for fmt in formats}
rows = [(fmt, p.weights_bytes / MIB, p.kv_bytes / MIB, p.overhead_bytes / MIB, p.fits) for fmt, p in plans.items()]
head = ("format", "weights, MiB", "KV cache, MiB", "overhead, MiB", "fits here")
Table(head, rows, f"PREDICTED for {here.planned} on {machine.label}")

# %% [markdown]
# ## Predict
#
# bitsandbytes will load this model in NF4: 4-bit codes, blocks of 64 with a 32-bit scale each. What percentage of the
# bf16 model's bytes will be in memory?

# %%
from quantlab.lesson.lesson1 import predictions
from quantlab.widgets import ask

ask(predictions.nf4_share)

# %% [markdown]
# ## Load it, and weigh it
#
# The real libraries: transformers loads, bitsandbytes quantizes on the way. We weigh every stored tensor, the scales
# included.

# %%
from quantlab.backends.loading import load_in

weighed = {}
for fmt in formats:
    weighed[fmt] = load_in(here.model, fmt, here.device)
    print(f"{fmt:7} {weighed[fmt].nbytes / 1e6:10.2f} MB in {weighed[fmt].seconds:.1f} s")

# %% [markdown]
# Planned against measured, to the byte:

# %%
rows = []
for fmt, w in weighed.items():
    planned = plans[fmt].weights_bytes
    rows.append((fmt, planned, w.nbytes, f"{w.nbytes / planned - 1:+.2%}"))
Table(("format", "planned, bytes", "measured, bytes", "difference"), rows, here.mode.value)

# %% [markdown]
# And term by term, so that no two mistakes can cancel:

# %%
kinds = ("codes", "scales", "16 bit")
rows = [(fmt, *(w.by_kind.get(kind, 0) for kind in kinds)) for fmt, w in weighed.items()]
Table(("format", *(f"{kind}, bytes" for kind in kinds)), rows, here.mode.value)

# %%
share = 100 * weighed["nf4"].nbytes / weighed["bf16"].nbytes
predictions.nf4_share.reveal(share)

# %% [markdown]
# ### A number that is not the number
#
# transformers offers `get_memory_footprint()`. Many notebooks print it as *the* size of a quantized model. Compare:

# %%
rows = [(fmt, w.reported_bytes, w.nbytes, w.nbytes - w.reported_bytes) for fmt, w in weighed.items()]
Table(("format", "get_memory_footprint()", "really stored", "forgotten"), rows, here.mode.value)

# %% [markdown]
# What is forgotten is exactly the scales: bitsandbytes keeps them beside the weights, not among the parameters.

# %% tags=["nbval-check-output"]
for fmt, w in weighed.items():
    assert w.nbytes - w.reported_bytes == w.by_kind.get("scales", 0), fmt
weighed.clear()
print("the difference is the scales, in every format; the models are released")

# %% [markdown]
# ## Serve it
#
# A server is a process of its own. It listens on this machine only, behind a random key, and dies with this notebook.
# Here it is llama.cpp's; vLLM joins in a later lab. (Without llama.cpp, `quantlab doctor` says how to get it.)

# %%
from quantlab import Server

server = Server("tiny", engine="llama.cpp", context=512).start()
print(server.ask("Tell me a story with the words cat, boat, happy.", max_tokens=80, temperature=0.7))

# %% [markdown]
# ## Read its memory lines
#
# A server prints what it takes. Read these lines in every log you meet: they are the truth that plans are checked with.

# %%
from quantlab.plan.engines import ENGINES

said, served = lab.memory_lines(server.log), plan("tiny", machine, "bf16", context=512)
step = ENGINES["llama.cpp"].activations(served.setup.shape)
planned = {"weights": served.weights_bytes, "KV cache": served.kv_bytes, "compute buffers": step}
rows = [(part, planned[part] / MIB, mib, f"{mib / (planned[part] / MIB) - 1:+.1%}") for part, mib in said.items()]
Table(("part", "planned, MiB", "llama.cpp's log, MiB", "difference"), rows, lab.Mode.REHEARSAL.value)

# %% [markdown]
# vLLM writes such lines too. A run that was kept, of Llama-3.1-8B's shape on an H200: three formats, and the plan.

# %%
from quantlab.lesson import gpu_run
from quantlab.plan.gpus import GIB
from quantlab.plan.memory import kv_bytes_per_token

rows, a_token = [], kv_bytes_per_token(gpu_run.MODEL)
for fmt in gpu_run.formats():
    log, weights = gpu_run.said(fmt), weights_bytes(gpu_run.MODEL, gpu_run.planned(fmt)) / GIB
    held = int(log.kv_gib * GIB / a_token)
    rows.append((fmt, weights, log.weights_gib, f"{weights / log.weights_gib - 1:+.2%}", f"{held:,}", f"{log.kv_tokens:,}"))
head = ("format", "weights, planned GiB", "vLLM's log", "difference", "KV tokens in its GiB, planned", "vLLM's log")
Table(head, rows, gpu_run.provenance())

# %% [markdown]
# vLLM rounds its gibibytes to two digits, and the cache to whole blocks: that is the rest of the difference.

# %% [markdown]
# The KV cache agrees: 2 x 4 layers x 2 heads x 64 x 2 bytes x 512 tokens. The weights differ by the norms, which
# llama.cpp keeps in 32 bits. The compute buffers are what a plan can only estimate: activations. The planner counts the
# logits and the hidden state of 512 tokens. That is exact for an 8B model on a GPU (258.5 MiB, its log); in a model as
# small as this one, on a CPU, what it leaves out is more than a third of the whole.
#
# ## Leave nothing behind

# %%
server.stop()
print("the server is", "still running" if server.alive else "gone")

# %% [markdown]
# ## Break it on purpose
#
# Ask for more than there is. The answer should be one sentence that says what, and what to do.

# %%
from quantlab.errors import QuantlabError

try:
    Server("tiny", fmt="q3_k_xxl").start()
except QuantlabError as error:
    print(error)

# %% [markdown]
# ## What you have shown
#
# - The plan and the machine agree on every stored byte of the weights, format by format.
# - A popular figure, `get_memory_footprint()`, leaves out the scales of a 4-bit model.
# - A server's log names each part of its memory, and the KV cache is the formula of lesson 1.
#
# **Open question for you:** put the folder of your own model into `load_in(...)` and `plan(...)`. Where do plan and
# measurement part, and which term is it?
#
# *Sources: bitsandbytes 0.50 (`Linear4bit`, `Linear8bitLt`), transformers 5.17, llama.cpp through llama-cpp-python 0.3.36.*
