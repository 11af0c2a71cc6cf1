# %% [markdown]
# # Lab 5: serve it at scale
#
# *About 60 minutes. With an NVIDIA GPU the cells run **live** on a real model through vLLM; without one they **rehearse**
# on this CPU with the bundled model, through vLLM's CPU build, or llama.cpp where that is absent. Every figure says
# which. A third mode, **recorded**, replays real runs.*
#
# Lesson 5 showed what a server does with many readers. Now you size one: how much does it give, at which rate does it
# break your limit, what do a prefix cache, an FP8 cache, guesses and a second copy buy, and what does a million tokens
# cost, against what the plan said?

# %% [markdown]
# ## What have we got?

# %%
from quantlab.lesson import lab, lab5

here = lab.setting()
rehearsal = here.mode is lab.Mode.REHEARSAL
print("engine:", lab5.engine())
here

# %% [markdown]
# ## Predict
#
# At the end a second copy of the model will stand beside the first, on **this** machine, behind a router.

# %%
from quantlab.lesson.lesson5 import predictions
from quantlab.widgets import ask

ask(predictions.replicas)

# %% [markdown]
# ## The plan
#
# What lesson 5's planner promises for this machine, from its bandwidth and its arithmetic alone: prompts of 64 tokens,
# answers of 32, 16 texts at once. It is a bound: no engine does better.

# %%
from quantlab.lesson.tables import Table

usd_per_hour = 1.00  # yours: what this machine costs
plan = lab5.planned(here)
row = (plan.gpu.label, plan.at_once, plan.requests_per_s, plan.output_tokens_per_s, 1e3 * plan.step_s)
Table(("machine", "at once", "requests a second", "tokens a second", "ms a step"), [row], "PREDICTED, at best")

# %% [markdown]
# ## A server, and its panel
#
# It listens on 127.0.0.1 with a random key, and dies with this notebook. *Refresh* reads its memory, its log, and what
# it counts about itself; *Stop* ends it. (In a rehearsal with vLLM the start takes half a minute.)

# %%
from quantlab.widgets import server_panel

server = lab5.server(here).start()
server_panel(server)

# %% [markdown]
# ## The sweep
#
# So many readers at once, each of whom asks again as soon as the answer is there: a **closed loop**. Every prompt is new,
# so that no cache helps.

# %%
from quantlab.serve.load import front

swept = lab5.sweep(here, server)
best = front(list(swept.values()))
rows = [
    (f"{n} *" if r in best else n, r.tokens_per_s, 1e3 * r.ttft.p95, 1e3 * r.tpot.p50, r.e2e.p95, r.errors or 0)
    for n, r in swept.items()
]
head = ("at once", "tokens a second", "first token, ms (p95)", "each further, ms", "whole answer, s (p95)", "errors")
Table(head, rows, f"{here.mode.value}, {lab5.engine()}")

# %% [markdown]
# A star marks the **Pareto front**: no other load gives as much with as short a wait. Where more readers bring no more
# tokens, they only wait. *(llama.cpp's Python server answers one at a time: it is there from the first row on.)*
#
# What does a step cost this server? Fitted to the sweep; all that is predicted below follows from this line.

# %%
cost = lab5.step_cost(swept)
most = max(r.requests_per_s for r in swept.values())
print(cost.words)
print(f"at most {most:.2f} requests a second here; PREDICTED at best {plan.requests_per_s:.2f}: {most / plan.requests_per_s:.0%} of it")

# %% [markdown]
# ## To the limit
#
# Readers come when they come: an **open loop**. The limits are yours to set. Then the highest rate is searched that
# keeps 95% of the requests good; the simulator says beforehand what each rate will do.

# %%
from quantlab.serve.load import Limits, Load, highest_rate

limits = Limits(ttft_s=0.5, tpot_s=0.1)
found = highest_rate(lambda load: lab5.ask(server, lab5.prompts(here, 24), load, limits), Load(24, rate=most / 2), tests=4)
print(found.words())

# %%
from quantlab.plots.load_curve import Curve, load_picture

measured = Curve.of(found.tried, lab5.engine(), here.mode.name)
load_picture(measured, Curve.of(lab5.expected(found, cost), "the simulator", "PREDICTED"))

# %% [markdown]
# The dashed line is PREDICTED by the batching simulator from the cost of a step alone. Where do they part? 24 requests are
# few: one more or less that waits is 4%. Ask for 200 when you size a real service, and for your own prompts.
#
# ## One beginning for all
#
# Most services put the same instructions before every question. A **prefix cache** computes them once. The same load
# twice, prompts of 288 tokens: first they share nothing, then the first 256 are the same in all.

# %%
rows = []
for shared in (0, lab5.SHARED):
    r = lab5.ask(server, lab5.prompts(here, 24, lab5.LONG, shared), Load(24, concurrency=8))
    rows.append((shared, r.tokens_per_s, 1e3 * r.ttft.p50, 1e3 * r.ttft.p95))
Table(("tokens shared", "tokens a second", "first token, ms (p50)", "p95"), rows, f"{here.mode.value}, {lab5.engine()}")

# %% [markdown]
# Only whole blocks are found again: of 16 tokens on a GPU, of 128 in vLLM's CPU build. Forty-eight common tokens would
# have bought nothing there. *(llama.cpp's server remembers one text, the last: who shares its beginning gains.)*
#
# What the server counted about itself, all this time:

# %%
from quantlab.serve.metrics import metrics

print(metrics(server) or "llama.cpp's server counts nothing about itself")
server.stop()

# %% [markdown]
# ## FP8 cache, and guesses
#
# Each is one option of vLLM and another start. Live they are tried here. In a rehearsal put `try_it = True` (three
# minutes, with vLLM's CPU build); a run that was kept is below.

# %%
from quantlab.lesson import serving_run
from quantlab.serve.engines import ENGINES

try_it = not rehearsal
if try_it and not ENGINES["vllm"].missing():
    tried, title = lab5.try_all(here), here.mode.value
else:
    tried, title = serving_run.variants(), serving_run.provenance()
lab5.table(tried, title)

# %%
print(lab5.reasons(tried) or "every variant ran")

# %% [markdown]
# Three things to find in it:
#
# 1. What does the prefix cache buy where all begin alike, and what does it cost where nobody does?
# 2. Where do guesses pay: with stories, or with text that repeats? A guess that is checked does not change the answer,
#    but 16-bit sums in another order can: the last column.
# 3. What happens to the guesses with eight texts at once? Tokens that are checked compete with other people's.
#
# And the FP8 cache? Half the bytes a token, so twice the tokens in the same room. For the model of this lab and for
# Llama-3.1-8B on the H200 of the recorded run, where vLLM said how many tokens fit in 16 bits:

# %%
from quantlab.lesson import gpu_run
from quantlab.plan.memory import kv_bytes_per_token

said = gpu_run.said("bf16")
room = said.kv_gib * 2**30
rows = [
    (bits, kv_bytes_per_token(here.planned, bits), kv_bytes_per_token(gpu_run.MODEL, bits),
     room / kv_bytes_per_token(gpu_run.MODEL, bits), said.kv_tokens if bits == 16 else "not measured")
    for bits in (16, 8)
]  # fmt: skip
head = ("bits", f"bytes a token, {here.planned}", f"bytes a token, {gpu_run.MODEL}", "tokens that fit, PREDICTED", "vLLM said")
Table(head, rows, f"PREDICTED; vLLM's line: {gpu_run.provenance()}")

# %% [markdown]
# ## A second copy
#
# Two servers behind a router, one address, one key. The router gives each request to whoever has fewest under way. In a
# rehearsal llama.cpp serves, which answers one text at a time: a second copy is a second reader served.

# %%
with lab5.replicas(here, 1) as one:
    alone = lab5.sweep(here, one, at_once=(8,))[8]
two = lab5.replicas(here, 2).start()
both = lab5.sweep(here, two, at_once=(8,))[8]
rows = [(copies, r.tokens_per_s, 1e3 * r.ttft.p50, 1e3 * r.ttft.p95) for copies, r in ((1, alone), (2, both))]
what = "vLLM" if here.mode is lab.Mode.LIVE else "llama.cpp"
head = ("copies", "tokens a second", "first token, ms (p50)", "p95")
Table(head, rows, f"{here.mode.value}, {what} behind quantlab's router, 8 at once")

# %%
predictions.replicas.reveal(both.tokens_per_s / alone.tokens_per_s)

# %% [markdown]
# Two copies on one machine share its memory and its cores: what one leaves idle the other can use, and no more. In a
# rehearsal each copy computes on one core, so that a second finds one idle; two that take the whole card gain nothing.
# On two machines a second copy is a second machine's worth. What it buys **always** is this:
#
# ## Kill one

# %%
from quantlab.serve.failover import kill_one

print(kill_one(two, lab5.prompts(here, 24), Load(24, rate=4), max_tokens=lab5.OUTPUT).words())
two.stop()

# %% [markdown]
# One copy was killed, as a crash would, in the middle of the load. Requests that had no piece of an answer yet went to
# the other one, unseen. An answer that had begun is broken off, with an error that its reader sees. None is lost.
#
# ## What does it cost?
#
# At your price for this machine (`usd_per_hour` above): what the plan promised, what the server gives with everyone
# waiting, what it gives within your limits, and that again if the busiest hour is three times the mean.

# %%
from quantlab.plan.cost import usd_per_million
from quantlab.serve.load import Sized

tokens = max(r.tokens_per_s for r in swept.values())
rows = [
    ("PREDICTED at best", plan.requests_per_s, usd_per_million(usd_per_hour, plan.output_tokens_per_s)),
    ("measured, whoever waits", most, usd_per_million(usd_per_hour, tokens)),
]
if found.kept:
    for peak, name in ((1, "measured, within the limits"), (3, "... and a busiest hour of 3 x the mean")):
        sized = Sized.of(found.kept, usd_per_hour, peak)
        rows.append((name, sized.rate / peak, sized.usd_per_million))
Table(("", "requests a second, all day", "dollars for a million tokens"), rows, here.mode.value)

# %% [markdown]
# And a data-centre card, by the same arithmetic: an H200 at its dated price.

# %%
from quantlab.plan.capacity import capacity
from quantlab.plan.gpus import gpu

card, rows = gpu(gpu_run.CARD), []
for fmt in ("bf16", "int4_g128"):
    batch, speed = max(gpu_run.vllm(fmt).items())
    best_case = capacity(gpu_run.MODEL, fmt, card, 128, 128, at_once=batch)
    price = card.price_per_hour.usd
    rows.append((fmt, batch, best_case.output_tokens_per_s, speed[1], best_case.usd_per_million, usd_per_million(price, speed[1])))
head = ("format", "at once", "tokens/s, PREDICTED", "tokens/s, RECORDED", "$ a million, PREDICTED", "$ a million, RECORDED")
Table(head, rows, f"{gpu_run.provenance()}; ${price} an hour ({card.price_per_hour.source}, {card.price_per_hour.date})")

# %% [markdown]
# What was paid is about twice the bound: with 256 texts at once the card was not what limited. And four bits buy nothing
# there, against the plan: a cheap million tokens is a matter of **full batches**, not of small weights. Small weights buy
# the quiet hours, and the room for the cache.

# %% [markdown]
# ## Past one machine
#
# The same plan as deployment files: vLLM's flags, Ray Serve, vLLM's production stack on Kubernetes, SkyPilot, nginx.
# [labs/scale](scale/README.md) holds examples, and the command that writes yours. Put your own model and card here:

# %%
from quantlab.serve.deploy.deployment import deploy
from quantlab.serve.deploy.files import files

asked = {"context": 8192, "concurrency": 8}
yours = deploy("qwen3-8b", "l4", "awq-int4", "Qwen/Qwen3-8B-AWQ", replicas=2, **asked)
print(yours.words())
print("files:", ", ".join(files(yours)))
print(files(yours)["vllm.sh"])

# %% [markdown]
# ## Nothing left behind

# %% tags=["nbval-check-output"]
from quantlab.serve.state import running

print("servers of this lab that still run:", sum(state.url in {server.url, two.url} for state in running()))

# %% [markdown]
# ## What you have shown
#
# - What this server gives (closed loop), and what it gives within a limit (open loop): two figures, and the second sells.
# - The simulator says both from the cost of one step, before the load is there; and where it is wrong.
# - A prefix cache and guesses pay for some texts and not for others. Yours decide: put them in place of the stories.
# - A second copy on one machine is for safety; on a second machine it is for speed.
# - The cost of a million tokens is a price, a rate within limits, and how much of the day the machine is busy.
#
# **Open questions for you.** Which limit do *your* readers need? How many tokens do all your prompts share, and is it a
# whole number of blocks? What is your busiest hour against the mean?
#
# *Sources: vLLM's documentation (automatic prefix caching, speculative decoding, quantized KV cache); Kwon et al. 2023,
# arXiv 2309.06180; Leviathan et al. 2023, arXiv 2211.17192; G. Tene, "How NOT to measure latency", 2013; Little 1961.
# `quantlab claims S6` prints that claim.*
