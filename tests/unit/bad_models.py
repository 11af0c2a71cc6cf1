"""Model folders with one thing wrong each, made from the bundled model: links to its files, except what is broken."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

WEIGHTS = "model.safetensors"
Break = Callable[[Path], None]


def copy_of(model: Path, folder: Path) -> Path:
    """A folder whose files are links to the model's: a test replaces a link, never the file behind it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in model.iterdir():
        if path.suffix in (".json", ".safetensors", ".jinja"):
            (folder / path.name).symlink_to(path.resolve())
    return folder


def write(folder: Path, name: str, content: bytes | str) -> None:
    """Replace a link by a file of its own."""
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def edit(name: str, **changes: Any) -> Break:
    """Change keys of a JSON file; None removes one."""

    def do(folder: Path) -> None:
        table = json.loads((folder / name).read_text()) | changes
        write(folder, name, json.dumps({key: value for key, value in table.items() if value is not None}))

    return do


def remove(*names: str) -> Break:
    def do(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return do


def put(name: str, content: bytes | str) -> Break:
    return lambda folder: write(folder, name, content)


def rename(old: str, new: str) -> Break:
    return lambda folder: (folder / old).rename(folder / new) and None


def both(*breaks: Break) -> Break:
    def do(folder: Path) -> None:
        for one in breaks:
            one(folder)

    return do


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and body of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: dict[str, Any] | bytes, body: bytes) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + body


def weights(change: Callable[[bytes], bytes]) -> Break:
    """Rewrite the bytes of the weights."""
    return lambda folder: write(folder, WEIGHTS, change((folder / WEIGHTS).read_bytes()))


def header(change: Callable[[dict[str, Any]], None]) -> Break:
    """Rewrite the header of the weights and keep the body."""

    def rewrite(content: bytes) -> bytes:
        table, body = split(content)
        change(table)
        return joined(table, body)

    return weights(rewrite)


def sharded(folder: Path) -> None:
    """Split the weights in two shards with an index."""
    table, body = split((folder / WEIGHTS).read_bytes())
    table.pop("__metadata__", None)
    names, weight_map = sorted(table), {}
    (folder / WEIGHTS).unlink()
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard, entries, at, blobs = f"model-0000{number}-of-00002.safetensors", {}, 0, []
        for name in part:
            begin, end = table[name]["data_offsets"]
            blobs.append(body[begin:end])
            entries[name] = table[name] | {"data_offsets": [at, at + end - begin]}
            at += end - begin
            weight_map[name] = shard
        (folder / shard).write_bytes(joined(entries, b"".join(blobs)))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
