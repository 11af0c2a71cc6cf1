"""Calibration texts as windows of token ids, cut once and handed to every library alike.

All texts are written end to end and cut every `window` tokens, so that nothing is dropped and the windows are equally
long but for the last. The tokenizer and the shapes of the model are all that it takes: no weight is loaded.
"""

from __future__ import annotations

import json
from pathlib import Path

from quantlab.errors import QuantlabError
from quantlab.models.calibration import Calibration
from quantlab.models.load import LoadedModel, ModelSource, quiet
from quantlab.models.samples import stories, windows

WINDOW = 512
AT_LEAST = 8  # windows


def skeleton(source: ModelSource) -> LoadedModel:
    """The model without its weights: names and shapes of its layers, its tokenizer, its config."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet(), torch.device("meta"):
            config = AutoConfig.from_pretrained(source.folder, local_files_only=True)
            model = AutoModelForCausalLM.from_config(config)
            tokenizer = AutoTokenizer.from_pretrained(source.folder, local_files_only=True)
    except Exception as error:  # transformers and its Rust library raise all kinds; each means a damaged file
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise QuantlabError(f"{source.name} cannot be loaded: {first}; get its config and tokenizer again") from error
    return LoadedModel(model, tokenizer, source, config)


def cut(
    loaded: LoadedModel, texts: list[str] | None, window: int | None = None, samples: int | None = None
) -> tuple[tuple[int, ...], ...]:
    """The windows to calibrate on; the bundled stories where no texts are given.

    window: tokens in each, WINDOW or what the model takes at most unless given. samples: the first so many windows
    only. Raises QuantlabError for text that is too short for AT_LEAST windows (or `samples`, where that is less).
    """
    longest = getattr(loaded.config.get_text_config(), "max_position_embeddings", None) or WINDOW
    given = texts if texts is not None else stories()
    if not any(text.strip() for text in given):
        raise QuantlabError("the calibration text is empty; give a file with text, or leave --calibration out")
    wanted = Calibration(
        tuple(text for text in given if text.strip()), window or min(WINDOW, longest), "pack", at_least=1
    )
    found = windows(loaded, wanted)
    least = min(AT_LEAST, samples or AT_LEAST)
    if len(found) < least:
        tokens = sum(map(len, found))
        raise QuantlabError(
            f"the calibration text has {tokens:,} tokens, too few for {least} windows of {wanted.window}; give more "
            f"text, or cut it shorter: --window {max(2, tokens // least)}"
        )
    return tuple(found[:samples])


def read_texts(path: Path) -> list[str]:
    """The texts of a .jsonl file ({"text": ...} a line), or one text of any other file; UTF-8."""
    try:
        content = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise QuantlabError(f"cannot read the calibration text {path}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise QuantlabError(
            f"the calibration text {path} is not UTF-8 (byte {error.start}); convert it, as with: "
            f"iconv -t UTF-8 {path.name} > new.txt"
        ) from error
    if not content.strip():
        raise QuantlabError(f"the calibration text {path} is empty; give a file with text")
    if path.suffix != ".jsonl":
        return [content]
    texts: list[str] = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            texts += [json.loads(line)["text"]] if line.strip() else []
        except (ValueError, KeyError, TypeError) as error:
            raise QuantlabError(f'line {number} of {path} is not {{"text": "..."}}; mend that line') from error
    if not all(isinstance(text, str) for text in texts):
        raise QuantlabError(f'{path} must hold {{"text": "..."}} on each line, the text in quotes; mend those lines')
    return texts
