# %% [markdown]
# # Lesson 4: speed against quality
#
# *45 to 60 minutes. No GPU and no network needed: everything below runs on this machine.*
#
# **The scenario.** Your team serves an 8B model on an RTX 4090. Three colleagues have opinions. "INT4 keeps 98% of the
# quality." "I ran it on my prompts and saw no difference." "Four times fewer bytes, so it is four times as fast." You
# must ship one file on Friday, and on Monday somebody will ask **how you know**.
#
# Lessons 2 and 3 were about making files. This one is about judging them: what "quality" can mean, how sure a
# difference is, how fast a file can be at best and how fast it is here, and what to take when you cannot have both.

# %%
import torch

import quantlab
from quantlab.lesson.lesson2.story import story_model
from quantlab.lesson.lesson4.measured import of_stories

model = story_model()
int4 = of_stories("int4_g128")
print(f"the story model, every layer in int4_g128: {len(int4.nll):,} words of {len(set(int4.cluster.tolist()))} stories")

# %% [markdown]
# ## Predict first
#
# Two numbers. Lock them; both are measured below, on this machine.

# %%
from quantlab.lesson.lesson4 import exercises, predictions
from quantlab.widgets import ask, front_explorer, noise_explorer, roofline_explorer, vote_on

ask(predictions.times_faster)

# %%
ask(predictions.same_story)

# %% [markdown]
# In code it is `predictions.times_faster.lock(3)`.
#
# ## What does "quality" mean? First meaning: surprise
#
# A language model guesses each next word. **Perplexity** says how surprised it is by what really comes: among how many
# equally likely words it might as well have been choosing.
#
# ### Exercise 1

# %%
exercises.perplexity


# %%
def perplexity(logits, tokens):
    """Of a text of `tokens` [t], given the logits [t, vocab] that the model has after each of them."""
    ...


exercises.perplexity.check(perplexity)

# %% [markdown]
# Stuck? `exercises.perplexity.hint()`, and at last `exercises.perplexity.solution()`. On a whole text it is three lines,
# and torch's own loss agrees:

# %% tags=["nbval-check-output"]
from quantlab.evaluate.logits import TorchLogits

tokens = torch.tensor(model.baseline.text.windows[0].tokens)
(logits,) = TorchLogits(model.loaded.model)([tokens.tolist()])
log_p = logits[:-1].double().log_softmax(-1)  # after word i it guesses word i + 1
surprise = -log_p[torch.arange(len(tokens) - 1), tokens[1:]]
same = torch.nn.functional.cross_entropy(logits[:-1].double(), tokens[1:])
print(f"perplexity of the first story: {surprise.mean().exp():.2f}")
print("torch's loss agrees:", bool(torch.isclose(surprise.mean(), same)))

# %% [markdown]
# ### A perplexity has a passport
#
# The same model, the same text. Only the windows differ: how many words it may look back.

# %%
from quantlab.evaluate.logits import Baseline
from quantlab.evaluate.quality import measure_baseline
from quantlab.evaluate.windows import evaluation_texts, make_windows

loaded, texts = model.loaded, evaluation_texts()[:8]
for context in (32, 512):
    windows = make_windows(texts, loaded.tokenizer, loaded.source.folder, context)
    found = measure_baseline(Baseline(TorchLogits(loaded.model), windows, loaded.config.vocab_size))
    print(f"windows of {context:3} words: perplexity {found.perplexity:.1f}")

# %% [markdown]
# Nothing was quantized, and perplexity moved by more than int4 will move it. So two perplexities may be compared only
# if text, windows, tokenizer and first word agree. Here every figure carries these as its **passport**, and quantlab
# refuses to subtract two whose passports differ. Published tables rarely say any of it.
#
# ### A wrong number
#
# Even careful tables have slips. This one is real:

# %%
exercises.repeated_cell

# %%
mine = {"column": ..., "perplexity": ...}
exercises.repeated_cell.check(mine)

# %% [markdown]
# ## Second meaning: does it still think the same?
#
# Perplexity looks at one word only, the one that came. A model that got worse on one word and better on another by luck
# has the same perplexity. **KL divergence** looks at all guesses, and asks how far they are from the original's.
#
# ### Exercise 2

# %%
exercises.divergence


# %%
def divergence(p_logits, q_logits):
    """Mean KL divergence, in nats, of guesses q [t, vocab] from guesses p [t, vocab]."""
    ...


exercises.divergence.check(divergence)

# %% [markdown]
# By hand, and by the library that measures every table of this course:

# %% tags=["nbval-check-output"]
from quantlab.evaluate.quality import compare_logits

weights = {f"{name}.weight": quantlab.quantize_tensor(W, "int4_g128").dequantize() for name, W in model.layers.items()}
(rounded,) = TorchLogits(model.loaded.model, weights)([tokens.tolist()])
log_q = rounded[:-1].double().log_softmax(-1)
by_hand = (log_p.exp() * (log_p - log_q)).sum(-1)
nll, kl, same_top = compare_logits(logits, rounded, tokens.tolist())
print("the same at every word:", torch.allclose(by_hand, kl.double()))

# %% [markdown]
# Third meaning: at how many words is the **likeliest next word** still the same? And the tail matters more than the
# mean: a few words can be far off while the mean looks harmless.

# %%
from quantlab.lesson.tables import Table

rows = []
for fmt in ("int8", "nf4", "int4_g32", "int4_g128"):
    q = of_stories(fmt)
    tail = torch.quantile(q.kl.float(), 0.99).item()
    rows.append((fmt, f"{q.perplexity:.2f}", f"{q.kl_mean:.4f} ± {q.kl_stderr:.4f}", tail, f"{q.top1_agreement:.1%}"))
Table(("format", "perplexity", "KL divergence, nats", "1 word in 100 is above", "same next word"), rows)

# %% [markdown]
# Look at `nf4` and `int4_g32`. By perplexity the one is better, by KL divergence the other! Which is it? Before you
# answer: how sure are these numbers?
#
# ## Error bars, or: when may you say "better"?
#
# Words of one story are not independent, stories are. And both formats read the *same* stories: subtract first, story
# by story, and most of the spread is gone.
#
# ### Exercise 3

# %%
exercises.paired


# %%
def error_bar(a, b):
    """Standard error of the mean of a - b; a [n] and b [n] belong to the same n stories."""
    ...


exercises.paired.check(error_bar)

# %%
from quantlab.evaluate.statistics import clustered_stderr

a, b = of_stories("int4_g32"), of_stories("int4_g128")
alone = (clustered_stderr(a.nll, a.cluster) ** 2 + clustered_stderr(b.nll, b.cluster) ** 2) ** 0.5
paired = clustered_stderr(a.nll - b.nll, a.cluster)
print(f"int4_g32 less int4_g128: {(a.nll - b.nll).mean():+.4f} nats a word")
print(f"error bar as if they had read different stories: {alone:.4f}; paired, by story: {paired:.4f}")

# %% [markdown]
# ## See it: how many stories does it take?
#
# **Before you move anything:** groups of 32 cost 0.4 bits a weight more than groups of 128. Surely that shows after two
# stories?

# %%
noise_explorer()

# %% [markdown]
# 1. Move *Stories* from 2 to 12 in perplexity. Where would you have announced a winner? Would it have stayed one?
# 2. *KL divergence*, same formats. How many stories now? (With fewer than six, no test can tell: all signs alike are 2
#    ways of 2^n.)
# 3. *NF4 and int4 in groups of 32*: perplexity and KL divergence each tell them apart, and **disagree**. KL asks who is
#    nearer to the original. Perplexity asks who is less surprised by these stories; a rounding error can be lucky there.
#
# *A common misconception: "the error bars overlap, so there is no difference". Paired differences have an error bar of
# their own, often ten times smaller.*

# %%
from quantlab.lesson.tables import claims_table

claims_table(["Q1", "Q2", "Q8"])

# %% [markdown]
# ## Fourth meaning: a task
#
# Questions with choices, such as ARC, PIQA, or the bundled story endings. A share of right answers is something that
# people understand. What does it take to see a loss of two points?

# %%
questions = {"60 endings": 60, "HumanEval": 164, "PIQA": 1838, "ARC-Easy": 2376, "MMLU": 14042}
share = 0.8  # answered right
rows = [(name, n, f"± {100 * (share * (1 - share) / n) ** 0.5:.1f} points") for name, n in questions.items()]
Table(("task", "questions", "one standard error at 80% right"), rows)

# %%
claims_table(["Q3"])

# %% [markdown]
# Sixty questions show whether a model is broken, and no more. `quantlab compare tiny --task my.jsonl` asks yours; it
# counts how many answers *changed* (McNemar's test), and does not call noise a loss.
#
# ## Fifth meaning: read it
#
# The likeliest word, each time, by the original and by the model in int8, where 99 of 100 next words are the same:

# %%
from quantlab.lesson.lesson4.own_prompts import told_twice
from quantlab.models.samples import openings

told = told_twice("int8", tuple(openings()[:10]))
first = next((pair for pair in told if not pair.same), told[0])
print(f"{first.prompt} ...\n\n  bf16: {first.texts[0]}\n\n  int8: {first.texts[1]}")
print(f"\n  the same for {first.shared} of {len(first.tokens[0])} tokens")

# %% [markdown]
# One word on the edge fell to the other side, and from there on it is another story. Not a *worse* one! How many of the
# ten stayed the same?

# %%
same = sum(pair.same for pair in told)
predictions.same_story.reveal(same)

# %% [markdown]
# So "the output changed" proves nothing, and "it looks fine to me" does not either: you knew which one it was. A **blind
# vote** hides whose text it is, and mixes left and right:

# %%
from quantlab.evaluate.ballot import Ballot

vote_on(Ballot(("bf16", "int4_g128"), told_twice("int4_g128", tuple(openings()[:5]), 24)))

# %% [markdown]
# Six votes of six for the original would be p = 0.03; five of five are p = 0.06, and four of five p = 0.38: chance.

# %%
claims_table(["Q6", "Q7"])

# %% [markdown]
# ## Speed: the roof
#
# To make one word, a card must read every weight once. To make a word for each of 64 texts at once, it still reads
# them once, and multiplies 64 times as much. Whichever takes longer, counts.
#
# ### Exercise 4

# %%
exercises.step_time


# %%
def step_seconds(card, model, batch):
    """The least time in which `batch` texts get one more token each."""
    ...


exercises.step_time.check(step_seconds)

# %% [markdown]
# With real figures, by hand and by the planner:

# %% tags=["nbval-check-output"]
from quantlab.plan.gpus import gpu
from quantlab.plan.memory import weights_bytes
from quantlab.plan.roofline import decode

card = gpu("rtx-4090")
read = weights_bytes("llama-3.1-8b", "bf16") / card.bandwidth
step = decode("llama-3.1-8b", "bf16", "rtx-4090", batch=1, context=1024)
print(f"all weights once: {1000 * read:.1f} ms")
print(f"the planner (no embedding table, but a KV cache): {1000 * step.seconds:.1f} ms, {step.tokens_per_s:.0f} tokens/s")

# %% [markdown]
# **Before you move anything:** in INT4 there are 4 times fewer bytes. At which batch is that no longer worth anything?

# %%
roofline_explorer()

# %% [markdown]
# 1. Move *Batch* to 512. From the red line on, 4 bits and 16 bits wait for the same arithmetic.
# 2. *fp8_e4m3* on the same card: fewer bytes saved at batch 1, but its arithmetic is twice as fast. Who wins at 256?
# 3. *A100*: the card does not multiply FP8. What is left of the gain at large batches?
#
# *A common misconception: "quantization makes the arithmetic faster". Weight-only formats (AWQ, GPTQ, GGUF, NF4) turn
# every weight back into 16 bits first. They save reading, nothing else.*

# %%
claims_table(["Q4", "Q5"])

# %% [markdown]
# ### A broken calculator
#
# A roof is only as good as its data sheet.

# %%
exercises.sparse_rate


# %%
def prefill_seconds(card, parameters, tokens):
    """The least time to read a prompt of so many tokens, in seconds."""
    ...


exercises.sparse_rate.check(prefill_seconds)

# %% [markdown]
# ## Measured, here
#
# Enough predicted. The story model as five of llama.cpp's files: what each lost, and how fast **this processor** runs
# it. Five runs each, in turns; the median, and the slowest and the fastest.

# %%
from quantlab.lesson.lesson4.measured import files

measured = files()
rows = [
    (r.name, r.nbytes / 1e6, f"{r.kl_mean:.2g} ± {r.kl_stderr:.1g}", r.decode_tps,
     f"{r.decode_range[0]:.0f} to {r.decode_range[1]:.0f}", r.decode_predicted)
    for r in measured.rows if r.decode_tps
]  # fmt: skip
head = ("file", "MB", "KL divergence", "tokens/s", "slowest to fastest", "PREDICTED at most")
Table(head, rows, f"threads: {measured.runs.threads}; {measured.runs.bandwidth / 1e9:.1f} GB/s by copying")

# %%
faster = measured.row("q4_0").decode_tps / measured.row("f16").decode_tps
predictions.times_faster.reveal(faster)

# %% [markdown]
# Compare it with the bound. *Below it*: unpacking codes is work (2 bits above all), and a step does more than read
# weights. *Above it*: the small files fit into this processor's cache, which is faster than the memory that was measured;
# a model of gigabytes does not. From the measured points, by least squares, what a token costs beside reading (near zero,
# or below: it is lost in the noise):

# %%
from quantlab.errors import UsageError
from quantlab.plan.speed import fit

points = [(r.nbytes, r.decode_tps) for r in measured.rows if r.name in ("f16", "q8_0", "q4_0")]
try:
    line = fit(points)
    print(f"a token = {1e6 * line.overhead_s:.0f} microseconds + bytes / {line.bandwidth / 1e9:.1f} GB/s")
except UsageError as error:
    print(error)


# %% [markdown]
# ## The front
#
# One file is **beaten** if another is better in loss, bytes or speed, and worse in none. What is left is the Pareto
# front. In five lines, for two of the three:

# %%
def pareto(points):
    """The names that no other point beats; points: name -> (bytes, loss)."""
    return {
        name
        for name, (size, loss) in points.items()
        if not any(s <= size and k <= loss and (s, k) != (size, loss) for s, k in points.values())
    }


by_hand = pareto({r.name: (r.nbytes, r.kl_mean) for r in measured.rows if r.decode_tps})
print("by hand, of bytes and loss:       ", ", ".join(sorted(by_hand)))
print("the library, with speed and noise:", ", ".join(sorted(measured.front)))

# %% [markdown]
# They need not agree. The library counts a smaller loss only where the stories can tell, a higher speed only beyond the
# spread of the runs, and has speed as a third reason to be kept.
#
# **Before you move anything:** which file would you ship if it must fit 8 MB?

# %%
front_explorer(measured.rows, measured.worse)

# %% [markdown]
# 1. Lower *At most* until the choice changes. What does each MB cost in KL divergence?
# 2. *Loss up to* 0.05: what is the smallest file that keeps it?
# 3. Ask for more speed than any file has. What does it say?
#
# ## A decision for the scenario
#
# The 8B model on the RTX 4090. First the planner: what fits, how it runs on that card, and the bound.

# %%
from quantlab.plan.decide import decide

decision = decide("llama-3.1-8b", "rtx-4090", context=4096, concurrency=8)
rows = [(o.fmt, o.nbytes / 2**30, o.how, o.tokens_per_s or o.why_not) for o in decision.options]
Table(("format", "GiB with 8 texts", "how it runs", "tokens/s at most"), rows, f"PREDICTED. {decision.why}")

# %% [markdown]
# Then measure: `quantlab compare MODEL --bits 4 --task yours.jsonl --speed --max-mb 6000 --max-kl 0.05` gives the same
# front for your model, with a recommendation. And then let people vote, blind.
#
# ## Yours
#
# Two open exercises. Your own text first: can it tell two formats apart?

# %%
exercises.own_text

# %%
from quantlab.lesson.lesson4.own_text import SEVEN_TEXTS

mine = {
    "a": "int8",
    "b": "int4_g128",
    "texts": SEVEN_TEXTS,  # yours in their place: a list of texts
    "perplexity": ...,
    "kl": ...,
}
exercises.own_text.check(mine)

# %% [markdown]
# And your own prompts:

# %%
exercises.own_prompts

# %%
mine = {
    "format": "int4_g128",
    "prompts": [
        "Once upon a time, there was a little girl",
        "The dog ran to the",
        "One day, Tom found a red ball",
    ],
    "same": ...,
}
exercises.own_prompts.check(mine)

# %% [markdown]
# ## What to take away
#
# - "98% of the quality" says nothing until it says *of what*: perplexity, KL divergence, same next word, a task, a vote.
# - A perplexity without a passport cannot be compared. KL divergence from the original sees more, with less text.
# - Pair by story, and call nothing better that chance gives as well. A small task shows a broken model, not a ranking.
# - Decoding one text waits for **bytes**, many texts wait for **arithmetic**. Weight-only formats save only the first.
# - A bound is a bound: measure. Then take the front, a budget, and the smallest file that you cannot tell from the best.

# %% [markdown]
# ## Sources
#
# Miller 2024, arXiv 2411.00640 (error bars for evals); Fisher 1935 (randomization); McNemar 1947; Holm 1979; Williams,
# Waterman and Patterson 2009 (roofline); llama.cpp's `llama-bench` and `llama-perplexity`; Dutta et al. 2024, arXiv
# 2407.09141 ("Accuracy is Not All You Need": answers that flip while the score stays). `quantlab claims Q1` prints a
# claim with all that it rests on.
#
# **Next:** [lab 4](../labs/04_the_pareto_front_of_your_gpu.ipynb): the front of your own card, at batch 1, 8, 32 and
# 128, and a 4-bit kernel, read and written.
