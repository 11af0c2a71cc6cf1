# %% [markdown]
# # Lesson 5: serving at scale
#
# *45 to 60 minutes. No GPU and no network needed: everything below runs on this machine.*
#
# **The scenario.** The demo is a success. On Monday it becomes a service: 10,000 requests a day, at noon a few every
# second, an answer must begin within a second, and somebody will pay the bill. You have a 4-bit file from lesson 4.
# Your colleague has a `for` loop around `model.generate`.
#
# Lessons 1 to 4 were about one model and one text. This one is about many texts at once: what they share (the weights),
# what they do not (the KV cache), who waits for whom, and what a million tokens cost.

# %%
from quantlab.lesson.lesson2.story import story_model
from quantlab.lesson.lesson5 import exercises, measured, predictions
from quantlab.lesson.tables import Table, claims_table
from quantlab.widgets import ask, batching_explorer, load_explorer

loaded = story_model().loaded
prompts = measured.eight()
print(f"{len(prompts)} requests, {measured.TOKENS} tokens each; the first: {prompts[0]!r}")

# %% [markdown]
# ## Predict first
#
# Two numbers. Lock them; both are measured below, on this machine.

# %%
ask(predictions.together)

# %%
ask(predictions.guessed)

# %% [markdown]
# In code it is `predictions.together.lock(3)`.
#
# ## One at a time, or all together?
#
# Your colleague's loop answers one request, then the next. A **static batch** gives `generate` all eight at once.

# %%
measured.told(prompts[:1])  # the first call warms up
alone, together = measured.naive(prompts), measured.told(prompts)
rows = [("one after the other", alone), ("in one batch", together)]
Table(("eight requests", "tokens a second"), rows, "measured here")

# %%
predictions.together.reveal(together / alone)

# %% [markdown]
# Nothing was quantized, no kernel was written. A step of decoding reads **all** weights to make one token; with eight
# texts the same reading makes eight. That is lesson 4's roofline from the other side: batches are how a server buys
# arithmetic with bytes it has read anyway.
#
# And on a data-centre card? This run was kept:

# %%
from quantlab.lesson import gpu_run

naive, server = gpu_run.generate(), gpu_run.vllm("bf16")
rows = [(b, f"{naive[b][1]:,.0f}" if b in naive else "", f"{server[b][1]:,.0f}") for b in server]
Table(("texts at once", "generate, tokens/s", "vLLM, tokens/s"), rows, gpu_run.provenance())

# %% [markdown]
# So is a real server "24 times faster than naive serving"? It depends on what you call naive. Both ratios are in the
# table:

# %%
claims_table(["S1", "S2"])

# %% [markdown]
# ## What a static batch leaves empty
#
# Answers end when they end. In a static batch whoever is done keeps the slot until the **longest** answer is done.
#
# ### Exercise 1

# %%
exercises.idle


# %%
def idle(lengths):
    """Share of a static batch's slots and steps in which nobody's token is made."""
    ...


exercises.idle.check(idle)

# %% [markdown]
# Stuck? `exercises.idle.hint()`, and at last `exercises.idle.solution()`.
#
# **Continuous batching** (Orca, 2022) gives a slot to the next request in the very next step. **Chunked prefill** also
# computes the newcomer's prompt in pieces, beside the others' tokens, so that nobody stands still while a prompt is
# read.
#
# The engine's loop is 200 lines of plain Python in this course: `quantlab.serve.batching`. First, what does a step cost
# **here**? A few are measured, and a line is fitted:

# %%
from quantlab.serve.batching import Policy, Request, simulate

cost = measured.step_cost()
print(cost.words)

asked = [Request(0.0, 12, output) for output in (96, 16, 24, 16, 32, 16, 24, 16, 64, 16, 24, 16)]
kinds = ("static", "continuous", "chunked")
found = {kind: simulate(asked, cost, Policy(kind, slots=4)) for kind in kinds}
rows = [(kind, result.seconds, f"{result.busy(4):.0%}", result.tokens_per_s) for kind, result in found.items()]
head = ("batches", "seconds", "slots busy", "tokens a second")
Table(head, rows, "PREDICTED: 12 requests, 4 slots, this machine's steps")

# %% [markdown]
# Is the simulator right? Its static batch can be checked at once: eight texts of 48 tokens, as measured above.

# %%
static = simulate([Request(0.0, 8, measured.TOKENS)] * 8, cost, Policy("static", slots=8))
print(f"PREDICTED {static.tokens_per_s:,.0f} tokens a second, measured {together:,.0f}")

# %% [markdown]
# *(What is missing is probably Python: `generate` does more between two steps than a step needs. A server's loop is
# written to do less. docs/serving.md has the simulator against a real vLLM: within 1% in tokens a second.)*
#
# ## See it: slots over time
#
# **Before you move anything:** of three ways to form batches, which one wins if all answers are equally long?

# %%
batching_explorer()

# %% [markdown]
# 1. *Answers*: all alike. Does continuous batching gain anything? It lives on differences.
# 2. *One long*: who waits for the long answer in a static batch, and who in a chunked one?
# 3. *KV cache*: tight. Static reserves the whole of every answer before it begins. The others begin and **preempt**:
#    who came last loses its cache and starts anew. Is that still faster?

# %%
claims_table(["S7"])

# %% [markdown]
# ## The cache in pages
#
# What a slot really costs is its KV cache (lesson 1). Servers used to reserve the longest possible answer for everyone;
# vLLM's paper measured that 60 to 80% of the cache stood empty. Pages end that.
#
# ### Exercise 2

# %%
exercises.blocks


# %%
def fitting(lengths, room, block):
    """How many of the texts, in this order, fit into a cache of `room` tokens in blocks of `block`."""
    ...


exercises.blocks.check(fitting)

# %% [markdown]
# How much is gained? Sixty waiting texts of very different lengths, room for 4,096 tokens, none longer than 1,024:

# %% tags=["nbval-check-output"]
import random

from quantlab.lesson.lesson5.blocks import fitting as fit

dice = random.Random(1)
lengths = [min(1024, int(dice.expovariate(1 / 150)) + 20) for _ in range(60)]
print("reserved for the longest:", 4096 // 1024, "texts; in pages of 16:", fit(lengths, 4096, 16))

# %% [markdown]
# ## A live server
#
# Enough simulated. This cell starts a real one: llama.cpp with the 4-bit file, on 127.0.0.1, with a random key. It
# dies with this notebook, also if you kill it. Then a load test: requests one at a time, and eight at once.

# %%
from quantlab import Server
from quantlab.serve.load import Limits, Load, loadtest

server = Server("tiny", fmt="q4_k_m").start()
reports = {
    n: loadtest(server.url, server.key, prompts, Load(16, concurrency=n), max_tokens=24, limits=Limits(ttft_s=0.5))
    for n in (1, 8)
}
rows = [(n, r.tokens_per_s, 1e3 * r.ttft.p50, 1e3 * r.ttft.p95, r.errors or 0) for n, r in reports.items()]
head = ("at once", "tokens a second", "first token, ms", "95th percentile", "errors")
Table(head, rows, "measured here: llama.cpp's server")

# %% [markdown]
# Look at the first tokens. This server answers **one request at a time**: eight readers get no more tokens a second
# than one, and all but one of them wait. (It is llama.cpp's Python server. vLLM batches; if its environment is here,
# the next cell shows it: `quantlab env create serve` makes it.)

# %%
from quantlab.models.bundled import tiny_folder
from quantlab.serve.engines import ENGINES

try_it = False  # True starts vLLM: half a minute
if missing := ENGINES["vllm"].missing():
    print(missing)
elif not try_it:
    print("vLLM is here: set try_it to True")
else:
    with Server(str(tiny_folder()), engine="vllm") as batching:
        for n in (1, 8):
            r = loadtest(batching.url, batching.key, prompts, Load(16, concurrency=n), max_tokens=24)
            print(f"vLLM, {n} at once: {r.tokens_per_s:.0f} tokens/s, first token {1e3 * r.ttft.p50:.0f} ms")

# %% [markdown]
# ## An open loop
#
# Readers do not wait for each other: they come when they come. An **open loop** sends requests at a rate, whatever is
# answered, and times each from when it was *due*. Watch the queue:

# %%
one_s = 24 / reports[1].tokens_per_s  # what one request takes this server
rows = []
for share in (0.5, 1.5):
    load = Load(12, rate=share / one_s, seed=1)
    r = loadtest(server.url, server.key, prompts, load, max_tokens=24, limits=Limits(ttft_s=0.5))
    good = f"{r.goodput / r.requests_per_s:.0%}" if r.requests_per_s else "0%"
    rows.append((f"{share:.0%}", load.rate, 1e3 * r.ttft.p50, 1e3 * r.ttft.p95, good))
server.stop()
head = ("of what it can do", "requests a second", "first token, ms", "95th percentile", "within 500 ms")
Table(head, rows, "measured here")

# %% [markdown]
# Above 100% the wait grows for as long as the test lasts: there is no "slower, but stable". That is why a service has a
# limit (an **SLO**, a service level objective), and is sized by the requests that keep it: **goodput**.
#
# ## The SLO game
#
# An 8B model on an H200, steps as measured there. A request is good if its first token comes within 250 ms and the
# others within 8 ms each. **Before you move anything:** with more slots more requests are under way. Is that always
# better?

# %%
load_explorer()

# %% [markdown]
# 1. With 4 slots, where does it break, and by which of the two limits? With 64?
# 2. Find the setting that keeps 95% of the requests good at the highest rate.
# 3. *Format*: what do four bits buy, in requests a second? Compare with "four times fewer bytes".
#
# ### Exercise 3

# %%
exercises.in_flight


# %%
def in_flight(rate, ttft, tokens, tpot):
    """Requests under way at once."""
    ...


exercises.in_flight.check(in_flight)

# %% [markdown]
# And how many fit? Memory says: the cache that is left, over the cache of one text. "Hundreds of users" on one card?

# %%
claims_table(["S10"])

# %% [markdown]
# ## Speculation: guess, then check
#
# One text at a time wastes arithmetic: a step that checks five tokens reads the same weights as a step that makes one.
# So let somebody cheap **guess** the next four, and let the model check all of them at once. What it would have said
# itself is kept. **The text is the same**, only sooner.
#
# Who guesses? The text itself (the last words stood here before: what followed?), or a small model. Ours has a quarter
# of the parameters and was taught by the large one.

# %%
from quantlab.lesson import distilled
from quantlab.models.load import load
from quantlab.serve.speculation import model_draft, ngram_draft, speculate

small = load(str(distilled.folder())).model
ids, runs = [loaded.tokenizer(prompt)["input_ids"] for prompt in prompts[:4]], {}
for name, draft in (("nobody", None), ("the text itself", ngram_draft), ("a small model", model_draft(small))):
    runs[name] = [speculate(loaded.model, one, 40, draft, 4) for one in ids]
texts = [[r.tokens for r in run] for run in runs.values()]
print("all texts the same:", all(text == texts[0] for text in texts))

# %%
rows = []
for name, run in runs.items():
    right, guessed = sum(r.right for r in run), sum(r.guessed for r in run)
    per_step = sum(len(r.tokens) for r in run) / sum(r.steps for r in run)
    rows.append((name, f"{right / guessed:.0%}" if guessed else "", per_step, sum(r.seconds for r in run)))
Table(("who guesses", "guesses kept", "tokens a step", "seconds"), rows, "measured here: four stories, 40 tokens each")

# %%
kept = runs["a small model"]
predictions.guessed.reveal(100 * sum(r.right for r in kept) / sum(r.guessed for r in kept))

# %% [markdown]
# Fewer steps, but look at the seconds: a step of such small models is mostly overhead, and the small one's steps are
# not free. On a large model, where reading takes the time, tokens a step are what counts.
#
# ### Exercise 4

# %%
exercises.per_step


# %%
def per_step(acceptance, k):
    """Tokens that one step makes, where each of `k` guesses is right with this chance."""
    ...


exercises.per_step.check(per_step)

# %%
claims_table(["S8"])

# %% [markdown]
# When does it lose? With many texts at once there is no arithmetic left over: the checked tokens compete with other
# people's. Speculation is for the quiet hour, batches for the busy one.
#
# ## The cache in eight bits
#
# The cache is the other half of the memory, and it can be rounded too: stored in FP8, read back for attention. By
# hand, on the story model:

# %%
from quantlab.evaluate.kv_cache import BITS, rounded_cache
from quantlab.evaluate.logits import TorchLogits
from quantlab.evaluate.quality import measure
from quantlab.lesson.lesson4.measured import baseline, of_stories
from quantlab.plan.memory import kv_bytes_per_token

rows = []
for fmt, bits in BITS.items():
    q = measure(TorchLogits(loaded.model, cache=rounded_cache(fmt)), baseline())
    rows.append((fmt, bits, kv_bytes_per_token("llama-3.1-8b", bits), f"{q.kl_mean:.5f} ± {q.kl_stderr:.5f}"))
q = of_stories("int4_g128")
whole = ("16 bits, weights in int4_g128", 16, kv_bytes_per_token("llama-3.1-8b"))
rows.append((*whole, f"{q.kl_mean:.5f} ± {q.kl_stderr:.5f}"))
head = ("cache", "bits a number", "bytes a token, Llama-3.1-8B", "KL divergence here, nats")
Table(head, rows, "measured on 12 stories")

# %%
claims_table(["S11"])

# %% [markdown]
# FP8's three bits of mantissa lose more than llama.cpp's blocks of eight-bit integers, which pay half a bit for their
# scales. Both lose little beside four-bit weights, the last row.
#
# ## Smaller by training, or by rounding?
#
# **Distillation** trains a small model on the large one's own words. Ours took a quarter of an hour. At equal bytes:

# %%
rows = [(r.name, r.nbytes / 1e6, r.perplexity, f"{r.kl:.3f}", f"{r.same_top:.0%}") for r in distilled.rows()]
Table(("file", "MB", "perplexity", "KL divergence, nats", "same next word"), rows, distilled.provenance())

# %%
claims_table(["S9"])

# %% [markdown]
# That is one small model and a short training, not a law. But it is the right question: *at equal bytes, what else
# could I have had?* And the student is not wasted: it just guessed for its teacher.
#
# ## What does it cost?
#
# ### Exercise 5

# %%
exercises.cost


# %%
def dollars(per_hour, tokens_per_s, busy):
    """Cost of a million tokens."""
    ...


exercises.cost.check(dollars)

# %%
claims_table(["S3", "S4", "S5", "S6"])

# %% [markdown]
# And the card itself? Lesson 1's planner checks a table of advice; and the gain shrinks where arithmetic is the limit.

# %%
claims_table(["S13", "S14"])

# %% [markdown]
# ## Past one card
#
# When one card is too small, its layers' matrices are cut (**tensor parallel**: two cards, one step each, much talk
# between them); when one is too slow, a second copy stands beside it (a **replica**: twice the requests, no talk).

# %%
from quantlab.plan.memory import gpus_that_fit, memory

rows = []
for cards in (1, 2, 4, 8):
    plan = memory("llama-3.3-70b", "awq_int4_g128", 4096, batch=16, gpus=cards)
    fits = [card.label for card in gpus_that_fit(plan, 0.92)]
    rows.append((cards, plan.total_bytes / cards / 2**30, ", ".join(fits[:4]), f"--tensor-parallel-size {cards}"))
head = ("cards", "GiB on each", "the smallest that do", "vLLM's flag")
Table(head, rows, "PREDICTED: Llama-3.3-70B, AWQ, 16 texts of 4,096 tokens")

# %% [markdown]
# The other names you will meet, with the command for your checkpoint:

# %%
from quantlab.serve.others import OTHERS, curl

for one in OTHERS.values():
    print(f"{one.name} {one.version}, {one.status}\n    {one.for_model('out/my-awq')}")
print("check:", curl())

# %%
claims_table(["S12"])

# %% [markdown]
# ## Yours
#
# Two open exercises. Your traffic:

# %%
exercises.own_traffic

# %%
mine = {
    "model": "qwen3-8b",  # yours: any name of `quantlab plan`, a folder, or a config.json
    "format": "awq_int4_g128",
    "gpu": "l4",
    "requests_a_second": 5,
    "prompt": 1000,  # tokens of a request
    "output": 300,  # tokens of its answer
    "cards": ...,  # how many cards, each with a copy of the model?
}
exercises.own_traffic.check(mine)

# %% [markdown]
# And your prompts, guessed:

# %%
exercises.own_guesses

# %%
mine = {
    "prompts": [
        "Once upon a time, there was a little girl",
        "The cat sat. The dog sat. The cat sat. The dog sat. The",
    ],
    "kept": ...,
}
exercises.own_guesses.check(mine)

# %% [markdown]
# ## What to take away
#
# - Weights are read once a step, whoever asks. A server that batches sells the same bytes to many.
# - Static batches wait for the longest answer. Continuous ones fill the slot at once; chunks keep the others moving.
# - What limits the number of texts is the KV cache: pages waste less of it, FP8 halves it.
# - Size a service by goodput under a limit, in an open loop. Above what it can do the queue has no end.
# - Speculation trades spare arithmetic for fewer steps, with the same text. It pays where guesses are good and slots
#   empty.
# - A cost a million tokens without "busy how much of the time?" is a cost at best.

# %% [markdown]
# ## Sources
#
# Yu et al. 2022, "Orca" (OSDI); Kwon et al. 2023, arXiv 2309.06180 (PagedAttention, vLLM); Agrawal et al. 2024, arXiv
# 2403.02310 (Sarathi-Serve); Leviathan, Kalman and Matias 2023, arXiv 2211.17192; Saxena 2023 (prompt lookup decoding);
# Hinton, Vinyals and Dean 2015, arXiv 1503.02531; Little 1961. `quantlab claims S1` prints a claim with all that it
# rests on.
#
# On your own server: `quantlab loadtest --rate 5 --requests 200 --ttft 0.5 --json load.json`.
