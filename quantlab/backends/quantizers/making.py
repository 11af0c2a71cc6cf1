"""Quantize a model with one of the libraries, from a wish to a checkpoint on the disk.

What can be checked is checked first. The library then writes into a temporary folder beside the target, in a process of
its own; only when its files are there, were read back by their headers, and have their card and their hashes, do they
get their name. An error or an interrupt leaves nothing.

>>> made = quantize("tiny", Wish("autoawq"), Path("tiny-awq"))                                  # doctest: +SKIP
>>> made.bits_per_weight                                                                        # doctest: +SKIP
4.15625
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantlab.atomic import explained, new_file, new_folder
from quantlab.backends.quantizers import checks, text
from quantlab.backends.quantizers.libraries import LIBRARIES, Library
from quantlab.backends.quantizers.offers import GGUF, Choice, Wish, choose
from quantlab.backends.quantizers.order import Made, Order
from quantlab.backends.quantizers.process import Progress, run
from quantlab.errors import QuantlabError, UsageError

DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}  # safetensors -> torch


@dataclass(frozen=True)
class Text:
    """What to calibrate on: texts (the bundled stories for None), tokens in a window, the first so many windows."""

    texts: Sequence[str] | None = None
    window: int | None = None
    samples: int | None = None


def quantize(
    model: str,
    wish: Wish,
    out: Path,
    *,
    calibration: Text = Text(),
    keep: Sequence[str] = (),
    clip: bool = True,
    resume: bool = False,
    progress: Progress = lambda what, share: None,
) -> Made:
    """Make what is wished for of `model` (a name, a folder, a Hub id) and write it to `out`.

    keep: layers that stay, by full name, by its end or by a pattern; embedding and head stay anyway. clip: False leaves
    out AutoAWQ's search for ranges, which on a CPU is most of its work. resume: keep each block's result in
    `OUT.resume` until all is done, so that the same call goes on after an interrupt (quantlab only).
    Raises QuantlabError or UsageError with the one thing to mend.
    """
    choice = choose(wish)
    library = LIBRARIES[choice.offer.library]
    gguf = choice.offer.family in GGUF
    if resume and (library.name != "quantlab" or gguf):
        what = "a GGUF file" if gguf else library.title
        raise UsageError(f"only --backend quantlab can resume, with a folder; {what} starts anew, leave --resume out")
    if not clip and library.name != "autoawq":
        raise UsageError(f"only AutoAWQ can leave its search for ranges out; for {library.title} leave --no-clip out")
    checks.check_place(out, gguf)
    order = _order(model, choice, library, out, calibration, keep, clip)
    beside = out.with_name(f"{out.name}.resume")
    with _scratch(out) as folder:
        place = folder / ("made.gguf" if gguf else "made")
        facts = run(library, _at(order, place, beside if resume else None), progress)
        made = _finish(place, out, library, choice, order, facts)
    if resume:
        shutil.rmtree(beside, ignore_errors=True)
    return made


def _order(
    model: str, choice: Choice, library: Library, out: Path, calibration: Text, keep: Sequence[str], clip: bool
) -> dict[str, Any]:
    """All of an Order but where it goes, every check done."""
    from quantlab.checkpoints.write import linear_layers
    from quantlab.models.folder import examine
    from quantlab.models.load import resolve

    source = resolve(model)
    checkpoint = examine(source.folder)
    checks.check_library(library, choice, str(checkpoint.config["model_type"]))
    loaded = text.skeleton(source)
    kept = checks.kept_layers(loaded, keep, library)
    checks.check_shapes(loaded, choice, kept)
    cut: tuple[tuple[int, ...], ...] = ()
    if choice.offer.text:
        texts = None if calibration.texts is None else list(calibration.texts)
        cut = text.cut(loaded, texts, calibration.window, calibration.samples)
    elif calibration != Text():
        options = "--calibration, --window and --samples"
        raise UsageError(
            f"{choice.format} by {library.title}'s {choice.offer.method} looks at no text; leave {options} out"
        )
    checks.check_resources(out, checkpoint, library)
    stored = {entry.dtype for entry in linear_layers(checkpoint).values()}
    dtype = next((name for code, name in DTYPES.items() if code in stored), "bfloat16")
    about = f"{len(cut)} windows of {len(cut[0])} tokens" if cut else ""
    whose = "the bundled stories" if calibration.texts is None else "the user's text"
    made = {
        "model": source.name, "revision": source.revision, "method": choice.offer.method,
        "command": _command(source.name, choice, calibration, keep, clip),
        "calibration": f"{about} of {whose}" if about else "none", "note": source.note,
    }  # fmt: skip
    return {
        "model": str(source.folder.absolute()), "method": choice.offer.method, "format": choice.format,
        "bits": choice.bits, "group": choice.group, "symmetric": choice.symmetric, "dtype": dtype, "windows": cut,
        "keep": kept, "clip": clip, "threads": _threads(), "made": {key: value for key, value in made.items() if value},
    }  # fmt: skip


def _command(model: str, choice: Choice, calibration: Text, keep: Sequence[str], clip: bool) -> str:
    """The command line that makes the same, for the model card; no path of this machine."""
    words = ["quantlab quantize", model, choice.words]
    words += ["--calibration FILE"] if calibration.texts is not None else []
    words += [f"--window {calibration.window}"] if calibration.window else []
    words += [f"--samples {calibration.samples}"] if calibration.samples else []
    words += [] if clip else ["--no-clip"]
    return " ".join([*words, *(f"--keep {shlex.quote(layer)}" for layer in keep), "--out DIR"])


def _at(order: dict[str, Any], place: Path, resume: Path | None) -> Order:
    return Order(**order, out=str(place.absolute()), resume=str(resume.absolute()) if resume else None)


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder beside the target, on the same disk, that is gone when the work is over."""
    with explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _finish(
    place: Path, out: Path, library: Library, choice: Choice, order: dict[str, Any], facts: dict[str, Any]
) -> Made:
    """Weigh what was made, add what it lacks, and give it its name."""
    from quantlab.backends.quantizers.measure import weigh

    if not place.exists():
        raise QuantlabError(f"{library.title} ended without an error and without a result; report this as a fault")
    if place.is_dir() and library.name != "quantlab":
        _complete(place, library, order, facts)
    weight = weigh(place)
    if place.is_file():
        with new_file(out) as temporary:
            os.replace(place, temporary)
    else:
        with new_folder(out) as temporary:
            for path in place.iterdir():
                path.rename(temporary / path.name)
    return Made(
        path=out, library=library.name, method=choice.offer.method, format=choice.format, nbytes=weight.nbytes,
        bits_per_weight=weight.bits_per_weight, seconds=facts["seconds"],
        peak_bytes=max(facts["peak_bytes"], facts.get("gpu_peak_bytes", 0)), device=facts["device"],
        tokens=sum(map(len, order["windows"])), versions=facts["versions"], settings=facts["settings"],
        notes=tuple(facts["notes"]),
    )  # fmt: skip


def _complete(folder: Path, library: Library, order: dict[str, Any], facts: dict[str, Any]) -> None:
    """What our own writer puts into a checkpoint and a library leaves out: the tokenizer as it was, a card, hashes."""
    from quantlab.backends.quantizers.measure import headers_only
    from quantlab.checkpoints.card import model_card
    from quantlab.checkpoints.kinds import kind_of
    from quantlab.checkpoints.manifest import write_manifest
    from quantlab.checkpoints.write import BESIDE
    from quantlab.models.folder import examine, read_json

    source = Path(order["model"])
    for path in {path for pattern in BESIDE for path in source.glob(pattern) if path.is_file()}:
        shutil.copyfile(path, folder / path.name)
    kind = kind_of(read_json(folder / "config.json"))
    if kind is None:
        raise QuantlabError(f"{library.title} wrote a checkpoint that says nothing of its quantization; report this")
    packages = facts["versions"]
    by = f"{library.title} {packages[facts['packages'][0]]}"
    made = {**order["made"], "by": by, "options": facts["settings"], "versions": packages}
    nbytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    card = model_card(examine(source), kind, headers_only(folder), nbytes, made)
    (folder / "README.md").write_text(card, encoding="utf-8")
    write_manifest(folder, made)
