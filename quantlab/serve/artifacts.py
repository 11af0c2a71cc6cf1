"""From what a user names to the file that an engine loads: `tiny`, a folder, a Hub id or a .gguf file -> a GGUF.

A folder is converted once, to the cache; its quantized forms are made from that conversion, once each. The cache entry
is named by a fingerprint of the folder's files, so a model that was trained on is converted again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantlab.atomic import explained, require_space
from quantlab.errors import QuantlabError, UsageError, unknown
from quantlab.formats.gguf_head import read_head
from quantlab.serve.places import gguf_folder

Say = Callable[[str], None]

FLOATS = ("bf16", "f16", "f32")  # written by our converter; every other format is made from bf16 by llama.cpp
_ALIASES = {"fp16": "f16", "fp32": "f32", "float16": "f16", "float32": "f32", "bfloat16": "bf16"}
_CONVERTER = "1"  # raise when the same folder must give other bytes


@dataclass(frozen=True)
class Artifact:
    """A file that an engine can load, and what the server must know about it."""

    path: Path
    model: str
    window: int | None
    chat: bool


def format_name(name: str) -> str:
    """A format as it is written in file names.

    >>> format_name("Q4_K_M"), format_name("fp16")
    ('q4_k_m', 'f16')
    """
    return _ALIASES.get(name.lower(), name.lower())


def gguf_for(model: str, fmt: str | None = None, say: Say = lambda _: None) -> Artifact:
    """The GGUF file of a model, converted if need be. `fmt` is bf16 unless given, and only for folders and Hub ids."""
    if model.lower().endswith(".gguf"):
        if fmt is not None:
            raise UsageError(f"{model} has its format already; leave out --format, or name the folder it was made from")
        path, name = Path(model).expanduser(), Path(model).stem
    else:
        path, name = _converted(model, format_name(fmt or "bf16"), say)
    said = read_head(path).metadata
    return Artifact(path.absolute(), name, _window(said), isinstance(said.get("tokenizer.chat_template"), str))


def _window(said: dict[str, Any]) -> int | None:
    """Tokens that the model was trained to see at once, by the file's metadata."""
    found = said.get(f"{said.get('general.architecture')}.context_length")
    return found if isinstance(found, int) and found > 0 else None


def folder_for(model: str, fmt: str | None = None, say: Say = lambda _: None) -> Artifact:
    """The folder of a model, quantized or not, for an engine that reads Hugging Face checkpoints as they are."""
    from quantlab.models.folder import examine, read_json
    from quantlab.models.load import resolve

    if fmt is not None:
        raise UsageError("this engine serves a checkpoint as it is; leave out --format, or quantize the folder first")
    if model.lower().endswith(".gguf"):
        raise UsageError(f"{model} is a GGUF file; this engine needs a model folder, llama.cpp serves GGUF files")
    folder = Path(model).expanduser()
    if folder.is_dir():
        name = folder.resolve().name
    else:
        source = resolve(model)
        folder, name = source.folder, source.name
    window = examine(folder).config.get("max_position_embeddings")
    template = folder / "tokenizer_config.json"
    chat = (folder / "chat_template.jinja").is_file() or (template.is_file() and "chat_template" in read_json(template))
    return Artifact(folder.absolute(), name, window, chat)


def _converted(model: str, fmt: str, say: Say) -> tuple[Path, str]:
    """The cached file, made if it is not there, and the name under which the model is served."""
    from quantlab.models.load import resolve

    source = resolve(model)
    short = re.sub(r"[^\w.-]+", "-", source.name).strip("-.") or "model"
    entry = gguf_folder() / f"{short}-{_fingerprint(source.folder)}"
    if not re.fullmatch(r"\w+", fmt) or not (entry / f"{short}-{fmt}.gguf").exists():
        _make(source.folder, entry, short, fmt, say)
    return entry / f"{short}-{fmt}.gguf", source.name if fmt == "bf16" else f"{source.name}:{fmt}"


def _make(folder: Path, entry: Path, short: str, fmt: str, say: Say) -> None:
    from quantlab.backends.llama_cpp import FTYPES, quantize_gguf
    from quantlab.checkpoints.gguf import write_gguf

    if fmt not in (*FLOATS, *FTYPES):
        raise unknown("GGUF format", fmt, {*FLOATS, *FTYPES})
    with explained(entry):
        entry.mkdir(parents=True, exist_ok=True)
    base = entry / f"{short}-{fmt if fmt in FLOATS else 'bf16'}.gguf"
    if not base.exists():
        say(f"converting {folder.name} to GGUF, once")
        write_gguf(folder, base, fmt if fmt in FLOATS else "bf16")
    if fmt not in FLOATS:
        require_space(entry, base.stat().st_size, f"quantizing {short} to {fmt}")
        say(f"quantizing to {fmt} with llama.cpp, once")
        quantize_gguf(base, entry / f"{short}-{fmt}.gguf", fmt)


def _fingerprint(folder: Path) -> str:
    """Changes when a file of the model does: names, sizes and times of change."""
    files = sorted(path for pattern in ("*.safetensors", "*.json", "*.jinja") for path in folder.glob(pattern))
    if not files:
        raise QuantlabError(f"{folder} holds no model; it needs config.json, tokenizer.json and .safetensors files")
    facts = [_CONVERTER, str(folder.resolve())]
    facts += [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
