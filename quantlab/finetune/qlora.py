"""QLoRA: the weights rest in NF4, and a small correction beside each of them learns.

    y = W_nf4 x + (alpha / r) B A x        A [r, k] starts at random, B [n, r] at zero: at first nothing has changed

W_nf4 never changes and needs no gradient, so what training keeps in memory is 4 bits a weight, and for each number of A
and B 16 bytes: itself, its gradient, Adam's two moments. Full fine-tuning keeps these 16 bytes for every weight.

NF4 suits this: it needs no calibration, its error is small at 4 bits, and the adapters learn around that error, because
they are trained in front of the rounded weights. That is also why the merge deserves thought (quantlab/finetune/merge).

References: Hu et al. 2021 (LoRA, 2106.09685); Dettmers et al. 2023 (QLoRA, 2305.14314): adapters at every linear layer,
NF4 with double quantization, constants 16 / 64. Libraries: peft 0.21, bitsandbytes 0.50, transformers 5.17. Left out:
paged optimizers, gradient checkpointing and dropout, for which small models have no use.
"""

from __future__ import annotations

import importlib.util
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantlab.backends import bitsandbytes
from quantlab.backends.loading import stored_bytes
from quantlab.errors import QuantlabError, UsageError, unknown
from quantlab.finetune.examples import Encoded, Examples, encode, read_examples
from quantlab.models.folder import examine
from quantlab.models.load import ModelSource, quiet, resolve

Progress = Callable[[str, float], None]  # what is being done, and the share of the whole that is done

BASES = ("nf4_dq", "bf16")  # what the weights rest in; bf16 is LoRA without the Q, to compare with
STATE_BYTES = 16  # of a number that learns: itself, its gradient and Adam's two moments, in float32
IGNORED = -100  # transformers' label of a token that the loss leaves out


@dataclass(frozen=True)
class Settings:
    """How to fine-tune. `learning_rate` rises over `warmup` steps and falls to zero along a cosine."""

    base: str = "nf4_dq"
    rank: int = 8
    alpha: int = 16
    steps: int = 30
    batch: int = 8
    learning_rate: float = 2e-3
    warmup: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.base not in BASES:
            raise unknown("base", self.base, BASES)
        for name in ("rank", "alpha", "steps", "batch", "learning_rate"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} must be more than 0, got {getattr(self, name)}")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        gone = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (1 + math.cos(math.pi * gone)) / 2


@dataclass(frozen=True)
class Adapter:
    """What one linear layer learned: A [r, k], B [n, r], float32."""

    A: Tensor
    B: Tensor
    scaling: float  # alpha / r

    @property
    def delta(self) -> Tensor:
        """What is added to its weights [n, k]."""
        return self.scaling * (self.B @ self.A)


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned model: where its weights are, and what was learned beside them.

    adapters: layer name -> adapter. losses: the training loss of each step, nats a token of the answers. trained and
    total: parameters. base_nbytes: the resting weights with their scales, and everything that is in no linear layer.
    """

    source: ModelSource
    settings: Settings
    adapters: dict[str, Adapter]
    losses: tuple[float, ...]
    trained: int
    total: int
    base_nbytes: int
    seconds: float

    @property
    def nbytes(self) -> int:
        """What training kept in memory, activations aside."""
        return self.base_nbytes + STATE_BYTES * self.trained

    @property
    def full_nbytes(self) -> int:
        """What training every weight would have kept."""
        return STATE_BYTES * self.total


def available() -> str | None:
    """None when there is all that fine-tuning needs, else the sentence that says how to get it."""
    if importlib.util.find_spec("peft") is None:
        return "fine-tuning needs peft, which is not installed; pip install 'quantlab[finetune]'"
    return bitsandbytes.available()


def finetune(
    model: str | ModelSource = "tiny",
    examples: Examples | None = None,
    settings: Settings | None = None,
    *,
    device: str = "cpu",
    progress: Progress = lambda what, share: None,
) -> Tuned:
    """Train adapters beside the resting weights of a model, on the training part of `examples`.

    model: as for `quantlab.load`; it is not changed. examples: the bundled lantern tales unless given. Computed in
    float32 on a CPU, in bfloat16 elsewhere. The same seed on the same machine gives the same adapters. Raises
    QuantlabError without peft, for a model that is quantized already or has no chat template, for examples that are too
    long, and where the loss stops being a number.

    >>> tuned = finetune("tiny", settings=Settings(steps=10))                               # doctest: +SKIP
    >>> tuned.losses[0], tuned.losses[-1]                                                   # doctest: +SKIP
    (4.9..., 3.1...)
    """
    settings = settings or Settings()
    if (problem := available()) is not None:
        raise QuantlabError(problem)
    progress("loading the model", 0.0)
    source = resolve(model) if isinstance(model, str) else model
    if "quantization_config" in examine(source.folder).config:
        raise QuantlabError(f"{source.name} is quantized already; fine-tune the original model")
    started = time.perf_counter()
    with _hushed(), torch.random.fork_rng():
        network, tokenizer, total = _load(source, settings.base, device)
        context = network.config.get_text_config().max_position_embeddings
        cut = [encode(tokenizer, one, context) for one in (examples or read_examples()).train]
        base_nbytes = sum(stored_bytes(network).values())
        torch.manual_seed(settings.seed)
        network = _with_adapters(network, settings)
        losses = _train(network, cut, settings, progress)
    adapters = _adapters(network)
    trained = sum(one.A.numel() + one.B.numel() for one in adapters.values())
    seconds = time.perf_counter() - started
    return Tuned(source, settings, adapters, tuple(losses), trained, total, base_nbytes, seconds)


@contextmanager
def _hushed() -> Iterator[None]:
    """Without the libraries' advice: of faster kernels on the Hub, of rounding when adapters are merged."""
    with quiet(), bitsandbytes.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _load(source: ModelSource, base: str, device: str) -> tuple[Any, Any, int]:
    """The model as transformers and bitsandbytes load it, its tokenizer, and how many parameters it has."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    network = AutoModelForCausalLM.from_pretrained(
        source.folder, dtype=dtype, device_map=device, local_files_only=True,
        quantization_config=config if base == "nf4_dq" else None, trust_remote_code=source.trusted,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(source.folder, local_files_only=True, trust_remote_code=source.trusted)
    return network, tokenizer, _count(network)


def _count(network: nn.Module) -> int:
    """Parameters; two 4-bit codes in a byte are two."""
    return sum(p.quant_state.shape.numel() if hasattr(p, "quant_state") else p.numel() for p in network.parameters())


def _with_adapters(network: Any, settings: Settings) -> Any:
    """The model with an adapter beside each linear layer but the output head; nothing else learns."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    network = prepare_model_for_kbit_training(network, use_gradient_checkpointing=False)
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(network, config)


def _train(network: Any, cut: Sequence[Encoded], settings: Settings, progress: Progress) -> list[float]:
    """The loss of each step."""
    learning = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, weight_decay=0.0)
    network.train()  # also keeps bitsandbytes from rearranging its weights for inference
    losses: list[float] = []
    for step, batch in enumerate(_batches(cut, settings)):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate(step)
        ids, labels = (one.to(network.device) for one in padded(batch))
        loss = network(input_ids=ids, labels=labels, use_cache=False).loss
        if not torch.isfinite(loss):
            raise QuantlabError(
                f"the loss of step {step + 1} is {loss.item()}; lower the learning rate from {settings.learning_rate:g}"
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        progress(f"step {step + 1} of {settings.steps}, loss {losses[-1]:.2f}", (step + 1) / settings.steps)
    return losses


def _batches(cut: Sequence[Encoded], settings: Settings) -> Iterator[list[Encoded]]:
    """`steps` batches: all examples in a shuffled order, then all of them in another one, and so on."""
    dice = torch.Generator().manual_seed(settings.seed)
    waiting: list[int] = []
    for _ in range(settings.steps):
        while len(waiting) < settings.batch:
            waiting += torch.randperm(len(cut), generator=dice).tolist()
        yield [cut[i] for i in waiting[: settings.batch]]
        del waiting[: settings.batch]


def padded(batch: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
    """Token ids and labels [b, t], padded on the right, where a causal model does not look.

    >>> padded([Encoded((5, 6, 7), 1), Encoded((8, 9), 1)])[1].tolist()
    [[-100, 6, 7], [-100, 9, -100]]
    """
    longest = max(len(one.tokens) for one in batch)
    ids = [[*one.tokens, *[0] * (longest - len(one.tokens))] for one in batch]
    labels = [
        [*[IGNORED] * one.start, *one.tokens[one.start :], *[IGNORED] * (longest - len(one.tokens))] for one in batch
    ]
    return torch.tensor(ids), torch.tensor(labels)


def _adapters(network: nn.Module) -> dict[str, Adapter]:
    """What peft keeps in its layers, by the names of the original model's."""
    found = {}
    layer: Any
    for name, layer in network.named_modules():
        if hasattr(layer, "lora_A"):
            A, B = (part["default"].weight.detach().float().cpu() for part in (layer.lora_A, layer.lora_B))
            found[name.removeprefix("base_model.model.")] = Adapter(A, B, float(layer.scaling["default"]))
    return found
