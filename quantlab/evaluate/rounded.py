"""One question, quickly: what became of the model when some of its weights were replaced?

>>> import quantlab
>>> loaded = quantlab.load("tiny")
>>> judge = Judge(loaded, stories=2)
>>> judge.quality({}).kl_mean  # nothing replaced, nothing moved
0.0
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from quantlab.core import QuantizedTensor
from quantlab.evaluate.logits import Baseline, TorchLogits
from quantlab.evaluate.quality import Quality, measure
from quantlab.evaluate.windows import evaluation_texts, make_windows
from quantlab.models.load import LoadedModel

CONTEXT = 512
Replaced = Mapping[str, Tensor | QuantizedTensor]


class Judge:
    """A model as it was loaded, on the first `stories` of a text: what every replacement is compared with."""

    def __init__(self, loaded: LoadedModel, stories: int = 12, text: Path | None = None) -> None:
        texts = evaluation_texts(text)[:stories]
        windows = make_windows(texts, loaded.tokenizer, loaded.source.folder, CONTEXT)
        vocab = loaded.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
        self._model = loaded.model
        self.baseline = Baseline(TorchLogits(loaded.model), windows, vocab)

    def quality(self, weights: Replaced) -> Quality:
        """Perplexity, KL divergence and top-token agreement with the weights of these layers replaced.

        weights: layer name, such as `model.layers.0.mlp.up_proj` -> W_hat [n, k], or what dequantizes to it. The model
        itself is not changed.
        """
        return measure(self._source(weights), self.baseline)

    def logits(self, weights: Replaced, ids: Tensor) -> Tensor:
        """The logits [b, t, vocab] of token ids [b, t] with these weights replaced."""
        return torch.stack(list(self._source(weights)(ids.tolist())))

    def _source(self, weights: Replaced) -> TorchLogits:
        plain = {f"{name}.weight": W if isinstance(W, Tensor) else W.dequantize() for name, W in weights.items()}
        return TorchLogits(self._model, plain)
