"""What lab 3 needs beside the library: each checkpoint made once, judged and served as the file that it is."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from quantlab.atomic import write_text
from quantlab.backends.quantizers.making import Text, quantize
from quantlab.backends.quantizers.offers import GGUF, Wish, choose
from quantlab.backends.quantizers.order import Made
from quantlab.lesson import lab
from quantlab.plan.memory import weights_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from quantlab.evaluate.logits import TorchLogits
    from quantlab.evaluate.quality import Quality
    from quantlab.evaluate.rounded import Judge
    from quantlab.finetune.stages import Stages
    from quantlab.models.load import LoadedModel

COPIES = 3  # float32 copies of the model that this lab has in the machine's own memory: it, a checkpoint, a library's


def setting() -> lab.Setting:
    """As `lab.setting`, with a model that also fits the machine's own memory, where its files are judged."""
    import psutil

    here = lab.setting()
    if here.mode is not lab.Mode.LIVE:
        return here
    names = list(lab.CANDIDATES)
    names = names[names.index(here.planned) :]
    room = psutil.virtual_memory().total
    fitting = [name for name in names if COPIES * 2 * weights_bytes(name, "bf16") <= room] or names[-1:]
    return replace(here, planned=fitting[0], model=lab.CANDIDATES[fitting[0]])


def make(model: str, wish: Wish, workshop: Path, calibration: Text, *, clip: bool = True) -> Made:
    """Quantize a model with a library, or find what an earlier run of this cell made.

    The checkpoint is `workshop`/LIBRARY-METHOD-FORMAT; what making it took, and on which text, is beside it in a .json
    file. On another text, or with `clip` changed, it is made again.
    """
    choice = choose(wish)
    name = f"{wish.library}-{choice.offer.method}-{choice.format}"
    out = workshop / (f"{name}.gguf" if choice.offer.family in GGUF else name)
    facts = workshop / f"{name}.json"
    text = calibration if choice.offer.text else Text()
    clip = clip or wish.library != "autoawq"  # the others have no such step
    asked = {"texts": list(text.texts or ()), "window": text.window, "samples": text.samples, "clip": clip}
    if out.exists() and facts.exists():
        found = json.loads(facts.read_text(encoding="utf-8"))
        if found.pop("asked") == asked:
            return Made(**{**found, "path": out, "notes": tuple(found["notes"])})
    remove(out)
    made = quantize(model, wish, out, calibration=text, clip=clip)
    write_text(facts, json.dumps(made.to_dict() | {"asked": asked}) + "\n")
    return made


def remove(*places: Path) -> None:
    """Files or folders of an earlier run, if they are there."""
    for place in places:
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)


def quality(judge: Judge, loaded: LoadedModel, made: Made) -> Quality:
    """Measure what is in a file: a folder dequantized and run in float32, a GGUF file by llama.cpp itself."""
    from quantlab.backends.llama_cpp import Logits
    from quantlab.evaluate.quality import measure

    if made.path.is_file():
        with Logits(made.path, judge.baseline.text.passport.context) as source:
            return measure(source, judge.baseline)
    return measure(stored_in(made.path, loaded), judge.baseline)


def stored_in(folder: Path, loaded: LoadedModel) -> TorchLogits:
    """The model with every weight as our readers find it in a checkpoint."""
    from quantlab.evaluate.logits import TorchLogits

    return TorchLogits(loaded.model, {name: W.float() for name, W in _weights(folder, loaded).items()})


def _weights(folder: Path, loaded: LoadedModel) -> Mapping[str, Tensor]:
    from quantlab.checkpoints.read import dequantized

    names = {name for name, _ in loaded.model.named_parameters()}
    return {name: W for name, W in dequantized(folder).items() if name in names}


class Serving(NamedTuple):
    """Which engine serves which file, and what the file is."""

    engine: str
    path: Path
    what: str


def serving(path: Path, loaded: LoadedModel, *, vllm: bool) -> Serving:
    """How a checkpoint is served: as it is, a folder by vLLM and a GGUF file by llama.cpp.

    Without `vllm` a folder is read by our own readers and its values are served by llama.cpp, in a 16-bit GGUF file
    beside it: the same model, rounded to bfloat16 once more, and not the same bytes.
    """
    if path.is_file():
        return Serving("llama.cpp", path, "as it is")
    if vllm:
        return Serving("vllm", path, "as it is")
    values = path.with_name(f"{path.name}-values.gguf")
    if not values.exists() or values.stat().st_mtime < path.stat().st_mtime:
        _write_values(path, loaded, values)
    return Serving("llama.cpp", values, "its values in bfloat16")


def _write_values(folder: Path, loaded: LoadedModel, out: Path) -> None:
    """A checkpoint's weights, dequantized, as a 16-bit GGUF file."""
    from safetensors.torch import save_file

    from quantlab.checkpoints.gguf import write_gguf

    source = loaded.source.folder
    with tempfile.TemporaryDirectory(prefix=".values-", dir=out.parent) as place:
        plain = Path(place) / folder.name
        plain.mkdir()
        for file in source.iterdir():  # config, tokenizer, chat template: those of the original
            if file.is_file() and ".safetensors" not in file.name:
                shutil.copyfile(file, plain / file.name)
        weights = {name: W.bfloat16().contiguous() for name, W in _weights(folder, loaded).items()}
        save_file(weights, plain / "model.safetensors", metadata={"format": "pt"})
        write_gguf(plain, out)


def deployed(every: Stages, made: Made, loaded: LoadedModel) -> Stages:
    """The stages of a fine-tuned model, and the file that is served as their last."""
    from quantlab.finetune.examples import encode, read_examples
    from quantlab.finetune.stages import Stage, loss_of

    context = loaded.config.get_text_config().max_position_embeddings
    held = [encode(loaded.tokenizer, example, context) for example in read_examples().held_out]
    last = Stage(f"merged, then {made.format}", made.bits_per_weight, loss_of(stored_in(made.path, loaded), held))
    return replace(every, stages=(*every.stages, last))
