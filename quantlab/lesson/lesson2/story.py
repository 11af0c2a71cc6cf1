"""The bundled model on the bench of lesson 2: its layers, what flows through them, and what rounding does to it.

Lesson, exercises and claims share one `StoryModel`, so that each model and each text is run once. Quality is measured
on eight stories that the model never saw; the statistics come from eight others.

    model = story_model()
    model.quality(model.rounded(3)).kl_mean              # every layer in 3 bits
    difference(one, other)                               # paired, token by token, with its standard error
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache

from torch import Tensor

from quantlab.core import LayerStats
from quantlab.evaluate.logits import Baseline, TorchLogits
from quantlab.evaluate.quality import Quality, measure, measure_baseline
from quantlab.evaluate.statistics import clustered_stderr
from quantlab.evaluate.windows import evaluation_texts, make_windows
from quantlab.formats.int_affine import IntAffine
from quantlab.models.calibration import collect
from quantlab.models.load import load
from quantlab.models.samples import Calibration, stories
from quantlab.models.walk import linear_layers

EVALUATED, CALIBRATED = 8, 8  # stories

Change = Callable[[str, Tensor], Tensor]  # name and W [n, k] of a layer -> W_hat [n, k]


def grid_of(bits: int, group: int | None = 128, symmetric: bool = True) -> IntAffine:
    """The grid that this lesson rounds to: float16 scales, a zero point unless symmetric."""
    return IntAffine(bits, group, symmetric)


def rounded(W: Tensor, bits: int, group: int | None = 128, symmetric: bool = True) -> Tensor:
    """W [n, k] -> its nearest levels [n, k], float32.

    >>> rounded(torch.tensor([[1.5, -0.4, 0.2, 0.9]]), bits=2)
    Traceback (most recent call last):
    ...
    ValueError: rows of 4 weights do not divide into groups of 128; choose a divisor of k
    >>> rounded(torch.tensor([[1.5, -0.4, 0.2, 0.9]]), bits=2, group=4)
    tensor([[1., 0., 0., 1.]])
    """
    grid = grid_of(bits, group, symmetric)
    p = grid.fit(W)
    return grid.decode(grid.encode(W, p), p)


class StoryModel:
    """The model, its linear layers by name, the statistics of their inputs, and the text it is measured on."""

    def __init__(self) -> None:
        self.loaded = load("tiny")
        self.layers = {name: layer.weight.detach() for name, layer in linear_layers(self.loaded.model)}

    @cached_property
    def stats(self) -> Mapping[str, LayerStats]:
        """What eight calibration stories say about the inputs of each layer."""
        return collect(self.loaded, Calibration(tuple(stories()[:CALIBRATED])))

    @cached_property
    def baseline(self) -> Baseline:
        """The unquantized model's logits on eight other stories."""
        config = self.loaded.config
        text = make_windows(
            evaluation_texts()[:EVALUATED], self.loaded.tokenizer, self.loaded.source.folder,
            config.max_position_embeddings,
        )  # fmt: skip
        return Baseline(TorchLogits(self.loaded.model), text, config.vocab_size)

    @cached_property
    def original(self) -> Quality:
        """The unquantized model's own quality."""
        return measure_baseline(self.baseline)

    def changed(self, change: Change) -> dict[str, Tensor]:
        """W_hat of every layer."""
        return {name: change(name, W) for name, W in self.layers.items()}

    def rounded(self, bits: int, group: int | None = 128, symmetric: bool = True) -> dict[str, Tensor]:
        """Every layer rounded to 2^bits levels."""
        return self.changed(lambda _, W: rounded(W, bits, group, symmetric))

    def quality(self, weights: Mapping[str, Tensor]) -> Quality:
        """Surprise and KL divergence with other weights in these layers; the model itself stays as it is."""
        parameters = {f"{name}.weight": W for name, W in weights.items()}
        return measure(TorchLogits(self.loaded.model, parameters), self.baseline)

    def weight_error(self, weights: Mapping[str, Tensor]) -> float:
        """Size of the error of all these weights together, as a share of their size."""
        pairs = [(self.layers[name], W_hat) for name, W_hat in weights.items()]
        off = sum(float((W_hat - W).square().sum()) for W, W_hat in pairs)
        return float(off / sum(float(W.square().sum()) for W, _ in pairs)) ** 0.5

    def output_error(self, name: str, W_hat: Tensor) -> float:
        """Size of the error of a layer's outputs, as a share of the outputs' own size, on the calibration stories.

        |X (W_hat - W)'|^2 = trace(E H E') with E = W_hat - W: the statistics are enough, no text is read again.
        """
        H, W = self.stats[name].H.float(), self.layers[name]
        return float((_energy(W_hat - W, H) / _energy(W, H)).sqrt())

    def inputs(self, name: str, count: int) -> list[Tensor]:
        """The inputs X [t, k] of a layer for the first evaluated stories."""
        seen: list[Tensor] = []
        layer = self.loaded.model.get_submodule(name)
        hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0].detach()))
        try:
            for _ in TorchLogits(self.loaded.model)([w.tokens for w in self.baseline.text.windows[:count]]):
                pass
        finally:
            hook.remove()
        return seen

    def next_word(self, prompt: str, weights: Mapping[str, Tensor] | None = None) -> str:
        """The most likely next token after a prompt, as text."""
        parameters = {f"{name}.weight": W for name, W in (weights or {}).items()}
        ids = self.loaded.tokenizer(f"<|begin|>{prompt}", add_special_tokens=False)["input_ids"]
        (logits,) = TorchLogits(self.loaded.model, parameters)([ids])
        return str(self.loaded.tokenizer.decode([int(logits[-1].argmax())]))


def relative_error(W: Tensor, W_hat: Tensor) -> float:
    """Root mean square of W_hat - W as a share of that of W.

    >>> relative_error(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5]))
    0.1
    """
    return float((W_hat - W).double().norm() / W.double().norm())


def _energy(E: Tensor, H: Tensor) -> Tensor:
    """trace(E H E')."""
    return ((E @ H) * E).sum()


@lru_cache(maxsize=1)
def story_model() -> StoryModel:
    """The one of this session: loaded once, its statistics and its baseline computed when first asked for."""
    return StoryModel()


def difference(one: Quality, other: Quality) -> tuple[float, float]:
    """KL divergence of `one` less that of `other`, and its standard error, paired token by token."""
    change = one.kl - other.kl
    return change.mean().item(), clustered_stderr(change, one.cluster)
