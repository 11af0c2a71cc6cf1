# %% [markdown]
# # Lab 3: AWQ, GPTQ and GGUF for real
#
# *About 60 minutes. With an NVIDIA GPU the cells run **live** on a real model; without one they **rehearse** on this
# CPU with the bundled model. Every figure says which. A third mode, **recorded**, replays a real run:
# labs 1 and 4 have one.*
#
# In lesson 3 you built the methods. Here the libraries that people deploy do the work: AutoAWQ, llm-compressor,
# GPTQModel, llama.cpp, bitsandbytes, and quantlab beside them. Same model, same text, about the same bits. You verify
# every file before a server touches it, measure what each lost, serve it, and in the end fine-tune in NF4 and deploy
# in AWQ.

# %% [markdown]
# ## What have we got?

# %%
from quantlab.lesson import lab, lab3

here = lab3.setting()
rehearsal = here.mode is lab.Mode.REHEARSAL
here

# %% [markdown]
# Which libraries are here? Two programs cannot live beside the others, because they want other versions of the same
# packages: GPTQModel and vLLM. Each has an environment of its own. Nothing is installed behind your back; a sentence
# says how to get what is missing, and the lab goes on without it.

# %%
from quantlab.backends.quantizers.libraries import LIBRARIES
from quantlab.lesson.tables import Table
from quantlab.serve.engines import ENGINES

missing = {library.title: library.missing() for library in LIBRARIES.values()}
missing |= {"vLLM": ENGINES["vllm"].missing()}
Table(("program", "here?"), [(name, why or "yes") for name, why in missing.items()])

# %% [markdown]
# ## Predict
#
# At about equal bits, does it matter who quantizes?

# %%
from quantlab.lesson.lesson3 import predictions
from quantlab.widgets import ask

ask(predictions.worst_of_libraries)

# %% [markdown]
# ## Your calibration set
#
# The methods look at text. Use text like the text that the model will see: here some of the bundled stories. Put your
# own in their place, a list of strings. They are written end to end and cut into windows of 256 tokens, the same for
# every library. (On its own, AutoAWQ drops texts that are longer than its window, without a word.)

# %%
from quantlab.backends.quantizers.making import Text
from quantlab.models.samples import stories

mine = stories()[: 8 if rehearsal else 60]
calibration = Text(mine, window=256)
print(f"{len(mine)} texts, {sum(len(text.split()) for text in mine):,} words; the first begins: {mine[0][:60]}...")

# %% [markdown]
# ## Quantize
#
# One interface for all. What is wished for is data: the library, the method, the format; what is left out is the
# library's first choice.

# %%
from quantlab.backends.quantizers.offers import Wish

clip = not rehearsal
wishes = {
    "AutoAWQ" if clip else "AutoAWQ, no clipping": Wish("autoawq"),
    "llm-compressor, GPTQ": Wish("llm-compressor", "gptq", group=128),
    "GPTQModel, GPTQ": Wish("gptqmodel", "gptq"),
    "llama.cpp, Q4_K_M": Wish("llama.cpp", "imatrix", "q4_k_m"),
    "bitsandbytes, NF4": Wish("bitsandbytes", format="nf4"),
    "quantlab, awq_gptq": Wish("quantlab", "awq_gptq"),
}
wishes = {name: wish for name, wish in wishes.items() if LIBRARIES[wish.library].missing() is None}

# %% [markdown]
# **A rehearsal is not the whole thing.** AutoAWQ works in two steps: it searches for scales, then for clipped ranges.
# The second takes minutes on a CPU, even for the bundled model, so the rehearsal leaves it out (`clip=False`; on the
# command line `--no-clip`) and says so in every table. A GPU does both. Set `clip = True` above to see what it brings,
# and what it costs.
#
# Each library runs in a process of its own. A second run of this cell finds what is there.

# %%
workshop = lab.workshop(3, here)
made = {name: lab3.make(here.model, wish, workshop, calibration, clip=clip) for name, wish in wishes.items()}
rows = [(by, one.format, one.tokens, round(one.seconds), one.peak_bytes // 2**20) for by, one in made.items()]
Table(("by", "format", "tokens seen", "seconds", "MiB at the most"), rows, here.mode.value)

# %% [markdown]
# On the command line the same is, for example, `quantlab quantize tiny --backend autoawq --out tiny-awq`.
#
# ## How large are they?
#
# The planner knew before anything was made. bf16 is what we came from.

# %%
from quantlab.plan.memory import weights_bytes

planned = {one.format: weights_bytes(here.planned, one.format) / 1e6 for one in made.values()}
rows = [(name, one.bits_per_weight, planned[one.format], one.nbytes / 1e6) for name, one in made.items()]
rows.append(("bf16, the original", 16, weights_bytes(here.planned, "bf16") / 1e6, ""))
Table(("by", "bits a weight", "MB, PREDICTED", "MB of all files"), rows, here.mode.value)

# %% [markdown]
# Four bits are more than four. Each group has a scale (16 bits for 128 weights), some formats a zero point (4 bits),
# NF4 a float32 for each 64. Q4_K_M keeps some layers in 6 bits. The rest is what no 4-bit format touches: the
# embeddings, a large part of a small model, and the tokenizer, which the planner does not count. *(llama.cpp quantizes
# the embeddings too: the smallest file has the most bits a weight in its layers.)*
#
# ## Verify before you serve
#
# Headers, shapes, groups, packing, scales, tokenizer, hashes. It takes seconds and saves an evening.

# %% tags=["nbval-check-output"]
from quantlab.checkpoints.verify import verify

checked = {name: verify(one.path) for name, one in made.items()}
for name, result in checked.items():
    if not result.ok:
        print(name, result.fault)
print("every file is sound" if all(result.ok for result in checked.values()) else "do not serve these")

# %% [markdown]
# ## What did each of them lose?
#
# Not the library's own arithmetic is judged but the file: its codes are dequantized by our readers and run by the same
# code (a GGUF file by llama.cpp itself). The measure is the KL divergence from the original, on stories that no
# calibration saw.

# %%
import quantlab
from quantlab.evaluate.rounded import Judge

loaded = quantlab.load(here.model)
judge = Judge(loaded, stories=12)
found = {name: lab3.quality(judge, loaded, one) for name, one in made.items()}
ranked = sorted(found, key=lambda name: found[name].kl_mean)
rows = [(by, made[by].bits_per_weight, found[by].perplexity, f"{found[by].top1_agreement:.1%}") for by in ranked]
Table(("by", "bits a weight", "perplexity", "same next word"), rows, here.mode.value)

# %%
from quantlab.plots import Bar, bars

rows = [Bar(name, found[name].kl_mean, found[name].kl_stderr, made[name].library == "quantlab") for name in ranked]
bars(rows, f"{here.planned}: what each file lost", "KL divergence, nats a token", percent=False)

# %%
distances = [one.kl_mean for one in found.values()]
predictions.worst_of_libraries.reveal(max(distances) / min(distances))

# %% [markdown]
# Read it slowly.
#
# - *One method, two libraries*: how far apart are the two GPTQ files, and how far is it to another method? Lesson 3's
#   table says what each library does differently.
# - *Bits*: NF4 and Q4_K_M spend more of them. What does each get for it?
# - *Text*: eight stories to calibrate on are few. More of them help GPTQ and AWQ, and the course's own `awq_gptq` most of
#   all, since it aims at what the original model would have put out (lesson 3). NF4 cannot be helped.
# - Twelve stories to judge by are few as well. `quantlab compare` measures on more, and marks what cannot be told from the
#   best.
# - This model is small. One of seven billion weights loses less in all of these formats, and they differ less.
#
# ## Serve each
#
# vLLM loads a folder as it is: it reads `quantization_config`, so never tell it the method. llama.cpp loads the GGUF
# file. One start of vLLM takes half a minute of a CPU, so the rehearsal starts it for one folder, and llama.cpp serves
# the **values** of the others, read by our readers. (vLLM needs a plugin for bitsandbytes.)

# %%
folders = [name for name, one in made.items() if one.path.is_dir() and one.library != "bitsandbytes"]
by_vllm = [] if missing["vLLM"] else folders[: 1 if rehearsal else None]
print(missing["vLLM"] or f"vLLM serves {' and '.join(by_vllm)}")

# %%
from quantlab import Server

for name, one in made.items():
    serving = lab3.serving(one.path, loaded, vllm=name in by_vllm)
    with Server(str(serving.path), engine=serving.engine, context=512) as server:
        answer = server.ask("Tell me a story with the words cat, boat, happy.", max_tokens=32, temperature=0)
    print(f"{name} ({serving.engine}, {serving.what}): {' '.join(answer.split())}")

# %% [markdown]
# The most likely word each time, and yet the stories part: where two words are nearly as likely, a small error decides.
# A different story is not a worse one. That is why we measured.
#
# Did every server end with its block?

# %%
from quantlab.serve.state import running

print(f"{len(running())} servers are left")

# %% [markdown]
# ## Fine-tune in NF4, deploy in AWQ
#
# A common recipe (claim F14): the weights rest in NF4 while small adapters learn; the adapters are merged into the
# *original* 16-bit weights; the result is quantized for serving. Here the model learns a habit: how a lantern tale
# begins and ends.

# %%
from quantlab.finetune.qlora import Settings, finetune

settings = Settings(steps=10, batch=4, warmup=2) if rehearsal else Settings()
tuned = finetune(here.model, settings=settings, device=here.device)
print(f"training loss {tuned.losses[0]:.2f} -> {tuned.losses[-1]:.2f} nats a token in {len(tuned.losses)} steps")
print(f"{tuned.trained:,} of {tuned.total:,} parameters learn, in {tuned.nbytes / 1e6:.0f} MB; ", end="")
print(f"training all of them keeps {tuned.full_nbytes / 1e6:.0f} MB")

# %% [markdown]
# Merge, quantize, verify. The calibration text is now the tales: what this model will be asked for.

# %%
from quantlab.backends.quantizers.making import quantize
from quantlab.finetune.examples import read_examples
from quantlab.finetune.merge import save_merged

merged, awq = workshop / "merged", workshop / "merged-awq"
lab3.remove(merged, awq)  # of an earlier run, which learned anew
save_merged(tuned, merged)
tales = Text([example.text for example in read_examples().train], window=256, samples=8)
served = quantize(str(merged), Wish("quantlab", "awq"), awq, calibration=tales)
print(f"{served.format}, {served.bits_per_weight:.2f} bits a weight; verified: {verify(awq).ok}")

# %% [markdown]
# What did each step cost? The loss on tales that were never trained on; the last row is the file that we deploy.

# %%
from quantlab.finetune.stages import measure_stages

every = lab3.deployed(measure_stages(tuned, merged, served=()), served, loaded)
rows = [(one.name, one.bits, f"{one.loss.mean:.3f} ± {one.loss.stderr:.3f}") for one in every.stages]
Table(("stage", "bits a weight", "loss, nats a token"), rows, here.mode.value)

# %% [markdown]
# Look at *merged into NF4*. Nearly all that was learned is gone! Why? The weights that rested lie exactly **on** NF4's
# levels. If what the adapters add is small against a step, rounding takes it back to the level where it was. The original
# 16-bit weights lie anywhere between the levels: there the same small change tips as many weights as it should, a few of
# them by a whole step. That can be checked: how much of the change is left, along the direction of what was learned?

# %%
from quantlab.finetune.merge import kept_by_nf4

for of, share in kept_by_nf4(tuned, loaded.model).items():
    print(f"added to the weights as they {'rested in NF4' if of == 'rested' else 'were'}: {share:.1%} is left")

# %% [markdown]
# So merge into the original, then quantize **once**.
#
# And what does the deployed file say? In a rehearsal of ten steps the tales have become likelier, not yet the likeliest:
# the model still tells its own story. With `steps=16` above it begins as the tales do, "Light the lantern".

# %%
serving = lab3.serving(awq, loaded, vllm=not (missing["vLLM"] or rehearsal))
with Server(str(serving.path), engine=serving.engine, context=512) as server:
    answer = server.ask(read_examples().held_out[0].prompt, max_tokens=48, temperature=0)
print(f"{serving.engine}, {serving.what}: {' '.join(answer.split())}")

# %% [markdown]
# ## What you have shown
#
# - Several libraries, one interface, files that verify, and one table with error bars. At about equal bits it matters
#   how the codes were chosen, and on what text; less, by whom.
# - The file decides, not the flag: a server reads `quantization_config`, so check the file.
# - NF4 is where a fine-tuned model *learns*; what is served is another format, made from the merged 16-bit weights.
#
# **Open questions for you.** Calibrate all of them on text of another kind (your e-mails, source code): who suffers
# most, and why is it not bitsandbytes? And with another model: `quantlab quantize` takes any folder or Hub id.
#
# *Sources: AutoAWQ 0.2.9, llm-compressor 0.14, GPTQModel 7.7, llama.cpp through llama-cpp-python 0.3.36, bitsandbytes
# 0.50, peft 0.21, vLLM; Dettmers et al. 2023, arXiv 2305.14314 (QLoRA). `quantlab claims F14` prints that claim.*
