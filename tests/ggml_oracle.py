"""llama.cpp's own C quantizers, called without a model: `ggml_quantize_chunk` and the C dequantizers of libggml-base.

C code that meets an unknown type or a failed assertion aborts its whole process. So the library lives in a child
process, which this module is as well when it is run as a program. One child answers any number of calls:

    request   operation, type, rows, columns, has importance, bytes of the payload | payload
    answer    bytes of the payload | payload

Tests take the fixture `ggml` of conftest.py: `ggml.quantize("q4_k", W)` -> uint8 [n, bytes of a row].

The base library of llama-cpp-python 0.3.36 is compiled for plain x86-64, whatever the machine: no fused multiply-add,
sums in the order of the source.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO, Self

import torch
from torch import Tensor

TYPES = {
    "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8,
    "q2_k": 10, "q3_k": 11, "q4_k": 12, "q5_k": 13, "q6_k": 14,
    "iq4_nl": 20, "iq4_xs": 23, "mxfp4": 39, "nvfp4": 40,
}  # fmt: skip
_REQUEST = struct.Struct("<cIQQ?Q")
_SIZE = struct.Struct("<Q")


class Ggml:
    """The C library in a child process. `with Ggml(library_of(llama_cpp)) as ggml: ...`."""

    def __init__(self, library: Path) -> None:
        self.library = library
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child, if there is one."""
        if self._child is None:
            return
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._child.wait(30)
        self._child = None

    def quantize(self, name: str, W: Tensor, importance: Tensor | None = None) -> Tensor:
        """W [n, k], importance [k] or None -> the bytes of the blocks, uint8 [n, bytes of a row]."""
        return self._blocks(b"q", name, W, importance).reshape(len(W), -1)

    def dequantize(self, name: str, blocks: Tensor, k: int) -> Tensor:
        """uint8 [n, bytes of a row] -> float32 [n, k]."""
        out = self._ask(b"d", TYPES[name], len(blocks), k, False, _raw(blocks))
        return torch.frombuffer(out, dtype=torch.float32).reshape(len(blocks), k)

    def seconds(self, name: str, W: Tensor, importance: Tensor | None = None, repeat: int = 1) -> float:
        """The fastest of `repeat` runs of the C code, on one thread; copying the arrays is not counted."""
        return min(
            struct.unpack("<d", self._blocks(b"t", name, W, importance).numpy().tobytes())[0] for _ in range(repeat)
        )

    def _blocks(self, operation: bytes, name: str, W: Tensor, importance: Tensor | None) -> Tensor:
        n, k = W.shape
        payload = _raw(W.float()) + (b"" if importance is None else _raw(importance.float()))
        out = self._ask(operation, TYPES[name], n, k, importance is not None, payload)
        return torch.frombuffer(out, dtype=torch.uint8)

    def _ask(self, operation: bytes, kind: int, n: int, k: int, weighted: bool, payload: bytes) -> bytearray:
        if self._child is None:
            program = [sys.executable, str(Path(__file__)), str(self.library)]
            self._child = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        to, back = self._child.stdin, self._child.stdout
        assert to is not None
        assert back is not None
        try:
            to.write(_REQUEST.pack(operation, kind, n, k, weighted, len(payload)))
            to.write(payload)
            to.flush()
            return _read(back, _SIZE.unpack(_read(back, _SIZE.size))[0])
        except (EOFError, BrokenPipeError):
            self.close()
            raise RuntimeError(f"llama.cpp aborted on type {kind} of [{n}, {k}]; its words are above") from None


def library_of(llama_cpp: Any) -> Path:
    """The base library of an installed llama_cpp module."""
    folder = Path(llama_cpp.__file__).parent / "lib"
    found = [path for name in ("libggml-base.so", "libggml-base.dylib") if (path := folder / name).exists()]
    if not found:
        raise FileNotFoundError(f"no libggml-base in {folder}; install llama-cpp-python again")
    return found[0]


def _raw(tensor: Tensor) -> bytes:
    raw: bytes = tensor.detach().contiguous().numpy().tobytes()
    return raw


def _read(pipe: Any, nbytes: int) -> bytearray:
    """Exactly so many bytes from a pipe."""
    out = bytearray(nbytes)
    view, done = memoryview(out), 0
    while done < nbytes:
        if not (got := pipe.readinto(view[done:])):
            raise EOFError
        done += got
    return out


class _Traits(ctypes.Structure):
    """`struct ggml_type_traits` of ggml.h."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    )


class _InitParams(ctypes.Structure):
    """`struct ggml_init_params`."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def _open(path: str) -> ctypes.CDLL:
    library = ctypes.CDLL(path)
    library.ggml_init.argtypes, library.ggml_init.restype = [_InitParams], ctypes.c_void_p
    library.ggml_free.argtypes = [ctypes.c_void_p]
    library.ggml_free(library.ggml_init(_InitParams(1024, None, True)))  # fills the tables of float16
    library.ggml_get_type_traits.argtypes = [ctypes.c_int]
    library.ggml_get_type_traits.restype = ctypes.POINTER(_Traits)
    library.ggml_quantize_init.argtypes = [ctypes.c_int]
    array, number = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, array, array, number, number, number, array]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    return library


def _answer(library: ctypes.CDLL, operation: bytes, kind: int, n: int, k: int, weighted: bool, raw: bytearray) -> bytes:
    traits = library.ggml_get_type_traits(kind).contents
    source = (ctypes.c_char * len(raw)).from_buffer(raw)
    if operation == b"d":
        values = ctypes.create_string_buffer(4 * n * k)
        traits.to_float(source, values, n * k)
        return values.raw
    library.ggml_quantize_init(kind)
    row = k // traits.blck_size * traits.type_size
    blocks = ctypes.create_string_buffer(n * row)
    importance = ctypes.addressof(source) + 4 * n * k if weighted else None
    started = time.perf_counter()
    written = library.ggml_quantize_chunk(kind, source, blocks, 0, n, k, importance)
    took = time.perf_counter() - started
    assert written == n * row
    return struct.pack("<d", took) if operation == b"t" else blocks.raw


def _serve(path: str, requests: BinaryIO, answers: BinaryIO) -> None:
    """The child: answer until the pipe closes."""
    library = _open(path)
    while True:
        try:
            *request, nbytes = _REQUEST.unpack(_read(requests, _REQUEST.size))
        except EOFError:
            return
        out = _answer(library, *request, _read(requests, nbytes))
        answers.write(_SIZE.pack(len(out)))
        answers.write(out)
        answers.flush()


if __name__ == "__main__":
    _serve(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer)
