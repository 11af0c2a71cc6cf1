"""What every deployment file is made from: a plan that fits, a checkpoint, and how many copies of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property

from quantlab.errors import QuantlabError, UsageError
from quantlab.plan.gpus import GIB
from quantlab.plan.inverse import Setup
from quantlab.plan.report import plan
from quantlab.plan.stages import CARDS_OF_A_MACHINE, Parallel, need_of_stage, parallel
from quantlab.serve.others import OTHERS

VLLM = OTHERS["vllm"].version  # what the files install
PORT = 8000
KEY = "VLLM_API_KEY"  # the variable from which vLLM reads its key (envs.py; `--api-key` would show it in `ps`)


@dataclass(frozen=True)
class Deployment:
    """One replica's setup, its checkpoint (a Hub id or a path on the machines), and the number of replicas."""

    setup: Setup
    checkpoint: str
    replicas: int = 1
    revision: str | None = None
    of_a_machine: int = CARDS_OF_A_MACHINE

    @cached_property
    def split(self) -> Parallel:
        """Tensor and pipeline parallel sizes."""
        return parallel(self.setup.shape, self.setup.fmt, self.setup.gpus, self.of_a_machine)

    @property
    def name(self) -> str:
        """What clients call the model."""
        return self.setup.shape.name

    @property
    def slug(self) -> str:
        """The name as Kubernetes and SkyPilot allow it.

        >>> deploy("llama-3.3-70b", "l40s", "awq-int4", "a/b", gpus=2).slug
        'llama-3-3-70b'
        """
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    @property
    def weights_gib(self) -> int:
        """Of the checkpoint, rounded up."""
        return -(-self.setup.weights_bytes // GIB)

    def words(self) -> str:
        """The plan in words."""
        split, each = self.split, need_of_stage(self.setup, self.split)
        assert self.setup.room
        many = f"{self.replicas} replicas, each on" if self.replicas > 1 else "one replica on"
        where = f" in {split.machines} machines" if split.machines > 1 else ""
        texts = f"{self.setup.concurrency} texts" if self.setup.concurrency > 1 else "one text"
        return (
            f"{self.name} in {self.setup.fmt}: {many} {self.setup.place}{where}, tensor parallel {split.tensor}, "
            f"pipeline parallel {split.pipeline}. PREDICTED: {texts} of {self.setup.context:,} tokens at once take "
            f"{each.total / GIB:.1f} of the {self.setup.room / GIB:.1f} GiB that vLLM may fill of each card."
        )


def deploy(
    model: str,
    gpu: str,
    fmt: str,
    checkpoint: str,
    *,
    gpus: int = 1,
    replicas: int = 1,
    context: int = 4096,
    concurrency: int = 1,
    kv_dtype: str = "auto",
    revision: str | None = None,
    of_a_machine: int = CARDS_OF_A_MACHINE,
) -> Deployment:
    """The deployment of a plan. Raises where vLLM is not the engine, and where a card's share does not fit it.

    >>> deploy("qwen2.5-72b", "l40s", "awq-int4", "Qwen/Qwen2.5-72B-Instruct-AWQ", gpus=2).split.pipeline
    2
    """
    asked = plan(model, gpu, fmt, context, concurrency, kv_dtype=kv_dtype)  # names, numbers, what the card runs
    if asked.setup.engine.name != "vLLM":
        raise UsageError(
            f"deployments run vLLM, but {fmt} on {gpu} is run by {asked.setup.engine.name}; see quantlab plan"
        )
    if not 1 <= replicas <= 1000:
        raise UsageError(f"replicas must be from 1 to 1,000, got {replicas}")
    if not re.fullmatch(r"[\w./\-]+", checkpoint) or checkpoint.startswith("-"):
        raise UsageError(
            f"{checkpoint!r} is no checkpoint; give a Hub id such as Qwen/Qwen3-8B-AWQ, or a path without spaces"
        )
    if revision is not None and not re.fullmatch(r"\w[\w.\-/]*", revision):
        raise UsageError(f"{revision!r} is no revision; give a branch, a tag or a commit of the Hub")
    made = Deployment(replace(asked.setup, gpus=gpus), checkpoint, replicas, revision, of_a_machine)
    each, room = need_of_stage(made.setup, made.split).total, made.setup.room
    assert room is not None
    if each > room:
        raise QuantlabError(
            f"{model} in {made.setup.fmt} does not fit {made.setup.place}: {each / GIB:.1f} GiB a card of "
            f"{room / GIB:.1f}; take more cards, or see: quantlab plan {model} --gpu {gpu} --format {fmt}"
        )
    return made
