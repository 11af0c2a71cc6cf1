# %% [markdown]
# # Lab 2: Round it yourself
#
# *About 40 minutes. With an NVIDIA GPU the cells run **live** on a real model; without one they **rehearse** on this
# CPU with the bundled model. Every figure says which. A third mode, **recorded**, replays a real run:
# labs 1 and 4 have one.*
#
# In lesson 2 you rounded a matrix. Here you round a whole model with your own code, write a checkpoint that a
# production server loads, check it, serve it, and talk to it. Then you break it on purpose.

# %% [markdown]
# ## What have we got?

# %%
from quantlab.lesson import lab

here = lab.setting()
here

# %% [markdown]
# ## Predict
#
# Before you plan: 4 bits are a quarter of 16. Will the file be a quarter?

# %%
from quantlab.lesson.lesson2 import predictions
from quantlab.widgets import ask

ask(predictions.checkpoint_share)

# %% [markdown]
# ## Plan
#
# What will the file weigh? Codes of 4 bits, groups of 128 that share a 16-bit scale, and what stays in 16 bits:
# embeddings, norms, output head.

# %%
from quantlab.lesson.tables import Table
from quantlab.plan.memory import weights_bytes

plan = {fmt: weights_bytes(here.planned, fmt) for fmt in ("bf16", "int4_g128")}
rows = [(fmt, nbytes / 1e6, f"{nbytes / plan['bf16']:.1%}") for fmt, nbytes in plan.items()]
Table(("format", "MB", "of bf16"), rows, f"PREDICTED for {here.planned}")

# %% [markdown]
# ## Your own rounding
#
# Ten lines, no library. Sixteen levels for each group of 128: the scale lets them reach the largest weight of the
# group, and each weight takes the level beside it. (Scales are kept in bfloat16, as the model's weights are.)

# %%
import torch


def my_round(W, bits=4, group=128):
    """W [n, k] -> codes [n, k] from -8 to 7, scales [n, k/group]."""
    groups = W.reshape(len(W), -1, group)
    scale = groups.abs().amax(-1, keepdim=True) / ((2**bits - 1) / 2)
    scale = scale.clamp(min=2.0**-24).to(torch.bfloat16).float()  # what the file can hold
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    codes = (groups / scale).round().clamp(lowest, highest)
    return codes.reshape(W.shape), scale[..., 0]

# %% [markdown]
# The library stores the same numbers in the bytes of compressed-tensors, the format that llm-compressor writes and vLLM
# loads. Same codes, same scales?

# %%
import quantlab
from quantlab.models.walk import linear_layers

loaded = quantlab.load(here.model)
weights = {name: layer.weight.detach().float().cpu() for name, layer in linear_layers(loaded.model)}
name, W = next(iter(weights.items()))
Q = quantlab.quantize_tensor(W, "int4_g128", scale_dtype="bfloat16")
codes, scales = my_round(W)
q, p = Q.fmt.packing.unpack(Q.parts, Q.shape)
assert torch.equal(codes, q.float() - 8)
assert torch.equal(scales, p["scale"])
print(f"{name} {list(W.shape)}: your {codes.numel():,} codes and {scales.numel():,} scales are the library's")

# %% [markdown]
# ## Round the whole model
#
# The library does every layer, and counts the bytes.

# %%
rounded = {name: quantlab.quantize_tensor(W, "int4_g128", scale_dtype="bfloat16") for name, W in weights.items()}
nbytes, count = sum(Q.nbytes for Q in rounded.values()), sum(W.numel() for W in weights.values())
print(f"{len(rounded)} layers, {count:,} weights, {nbytes / 1e6:.2f} MB of codes and scales")

# %% [markdown]
# What became of the model? Perplexity says how surprised it is by stories that it has not seen; the KL divergence says
# how far its predictions moved from the original's.

# %%
from quantlab.evaluate.rounded import Judge

judge = Judge(loaded, stories=12)
before, after = judge.quality({}), judge.quality(rounded)
rows = [
    ("bf16", before.perplexity, before.kl_mean, f"{before.top1_agreement:.1%}"),
    ("int4_g128", after.perplexity, after.kl_mean, f"{after.top1_agreement:.1%} ± {after.top1_stderr:.1%}"),
]
Table(("weights", "perplexity", "KL, nats", "same favourite"), rows, here.mode.value)

# %% [markdown]
# ## Write a checkpoint
#
# A folder as the Hub has them: `config.json` says how to read the codes, the rest is as it was. A second run of this
# cell finds the folder and leaves it alone.

# %%
from quantlab.checkpoints.write import write_checkpoint

workshop = lab.workshop(2, here)
checkpoint = workshop / "int4_g128"
if not checkpoint.exists():
    write_checkpoint(loaded.source.folder, checkpoint, rounded)
for path in sorted(checkpoint.iterdir()):
    print(f"{path.stat().st_size:12,} {path.name}")

# %% [markdown]
# Planned against written:

# %%
stored = (checkpoint / "model.safetensors").stat().st_size
print(f"planned {plan['int4_g128']:,} bytes, written {stored:,}: {stored / plan['int4_g128'] - 1:+.2%}")
print("the difference is the file's header and, for each layer, the shape")

# %%
whole = sum(path.stat().st_size for path in loaded.source.folder.glob("*.safetensors"))
predictions.checkpoint_share.reveal(100 * stored / whole)

# %% [markdown]
# ## Verify it before a server loads it
#
# `verify` reads headers, codes and scales: do config, shapes and groups agree, is every scale a positive number, does the
# tokenizer belong to the model? (`quantlab verify DIR` on the command line.)

# %%
from quantlab.checkpoints.verify import verify

verified = verify(checkpoint)
Table(("check", "finding"), [(check.name, check.what) for check in verified.checks], f"sound: {verified.ok}")

# %% [markdown]
# And the proof that counts: a library that has never seen our code loads the folder and predicts what our rounded
# weights predict. transformers unpacks it with compressed-tensors.

# %%
from quantlab.backends.loading import logits_of

text = "Once upon a time there was a little boat."
ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"]
theirs = logits_of(checkpoint, ids)
ours = judge.logits(rounded, ids)
print(f"largest difference of a logit: {(theirs - ours).abs().max():.3f}, of values up to {ours.abs().max():.1f}")
assert torch.equal(theirs.argmax(-1), ours.argmax(-1)), "the favourite words differ"

# %% [markdown]
# ## Serve it, and talk to it
#
# vLLM loads the folder as it is, if it is here (`QUANTLAB_VLLM` names the environment that holds it). Without vLLM,
# llama.cpp rehearses. It has a file format of its own, so the layers are rounded to *its* 4 bits, again with our code:
# `q4_0` has groups of 32.

# %%
from quantlab.checkpoints.gguf import write_gguf
from quantlab.serve.engines import ENGINES

missing = ENGINES["vllm"].missing()
print(missing or "vLLM is here")
gguf = workshop / "q4_0.gguf"
if missing and not gguf.exists():
    blocks = {name: quantlab.quantize_tensor(W, "q4_0") for name, W in weights.items()}
    write_gguf(loaded.source.folder, gguf, quantized=blocks)

# %%
from quantlab import Server

engine, artifact = ("llama.cpp", gguf) if missing else ("vllm", checkpoint)
server = Server(str(artifact), engine=engine, context=512).start()
print(engine, "serves", artifact.name)
print(server.ask("Tell me a story with the words cat, boat, happy.", max_tokens=80, temperature=0.7, seed=1))

# %%
server.stop()
print("the server is", "still running" if server.alive else "gone")

# %% [markdown]
# ## Byte for byte
#
# Are our `q4_0` blocks really llama.cpp's? Its own program quantizes the same model; we compare the layers.

# %% tags=["nbval-check-output"]
from quantlab.lesson.lab2 import same_blocks

print(same_blocks(loaded, workshop, "q4_0"))

# %% [markdown]
# ## Break it on purpose: two bits
#
# Four levels. Nothing crashes; the file is valid, the server would load it. Only the stories tell.

# %%
two = {name: quantlab.quantize_tensor(W, "int2_g128") for name, W in weights.items()}
worse = judge.quality(two)
print(f"perplexity {before.perplexity:.0f} -> {after.perplexity:.0f} in 4 bits -> {worse.perplexity:.0f} in 2 bits")
print(f"same favourite: {after.top1_agreement:.0%} -> {worse.top1_agreement:.0%}")

# %%
from quantlab.lesson.lab2 import tell

for label, replaced in (("bf16", {}), ("4 bits", rounded), ("2 bits", two)):
    print(f"{label:7}{tell(loaded, replaced, 'Once upon a time there was', tokens=40)}")

# %% [markdown]
# ## Break it on purpose: the wrong group
#
# Change one number of `config.json`: groups of 64 instead of 128. Every byte of the weights is still right.

# %%
import json
import shutil

broken = workshop / "wrong-group"
shutil.copytree(checkpoint, broken, dirs_exist_ok=True)
config = json.loads((broken / "config.json").read_text())
config["quantization_config"]["config_groups"]["group_0"]["weights"]["group_size"] = 64
(broken / "config.json").write_text(json.dumps(config))
print(verify(broken).fault)

# %% [markdown]
# Would a loader have noticed?

# %%
try:
    logits_of(broken, ids)
    print("transformers loaded it without a word")
except Exception as error:
    print(f"transformers: {type(error).__name__}: {str(error).splitlines()[0][:120]}")
shutil.rmtree(broken)

# %% [markdown]
# ## What you have shown
#
# - Ten lines of yours make the very codes and scales of a production checkpoint, and a library that knows nothing of
#   them loads the file and predicts the same words.
# - A checkpoint is three things that must agree: codes, scales, and what `config.json` says of them. Check before you
#   serve.
# - Nothing warns you of two bits. Only a measurement does.
#
# **Open question for you:** round only the attention layers, or only the MLPs, to 2 bits, and write the rest in 4. Which
# part of the model minds more? Predict first.
#
# *Sources: compressed-tensors 0.19 ("pack-quantized"), llm-compressor 0.14, vLLM, llama.cpp through llama-cpp-python 0.3.36.*
