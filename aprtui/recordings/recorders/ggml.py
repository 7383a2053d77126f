"""Tensors of the ggml library that llama-cpp-python brings along, read where they lie."""

from __future__ import annotations

import ctypes
import importlib
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from aprtui.errors import EngineError

_TENSOR = struct.Struct("<i4xQ4q4Qi64si10QQQQ64sQ8x")
"""`struct ggml_tensor` of ggml 0.9 to 0.25 on a 64-bit machine: type, buffer, ne, nb, op, op_params, flags, src,
view_src, view_offs, data, name, extra."""
_OBJECT_BYTES = 32
"""What `ggml_tensor_overhead` counts beside the tensor."""
VIEWS = frozenset({"NONE", "RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE"})
"""Ops that compute nothing."""
WEIGHTS_USAGE, COMPUTE_USAGE = 1, 2
"""Of `ggml_backend_buffer_get_usage`."""
_INPUT_FLAG = 1

_CALLS: dict[str, tuple[Any, list[Any]]] = {
    "ggml_op_name": (ctypes.c_char_p, [ctypes.c_int]),
    "ggml_unary_op_name": (ctypes.c_char_p, [ctypes.c_int]),
    "ggml_glu_op_name": (ctypes.c_char_p, [ctypes.c_int]),
    "ggml_type_name": (ctypes.c_char_p, [ctypes.c_int]),
    "ggml_blck_size": (ctypes.c_int64, [ctypes.c_int]),
    "ggml_type_size": (ctypes.c_size_t, [ctypes.c_int]),
    "ggml_tensor_overhead": (ctypes.c_size_t, []),
    "ggml_version": (ctypes.c_char_p, []),
    "ggml_backend_tensor_get": (None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]),
    "ggml_backend_buffer_is_host": (ctypes.c_bool, [ctypes.c_void_p]),
    "ggml_backend_buffer_name": (ctypes.c_char_p, [ctypes.c_void_p]),
    "ggml_backend_buffer_get_usage": (ctypes.c_int, [ctypes.c_void_p]),
    "ggml_free": (None, [ctypes.c_void_p]),
    "ggml_new_tensor_2d": (ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]),
    "ggml_view_1d": (ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t]),
    "ggml_rms_norm": (ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_float]),
    "ggml_set_name": (ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]),
}


@dataclass(frozen=True, slots=True)
class GgmlTensor:
    """What a `ggml_tensor` says; dimensions and strides fastest first, as ggml has them."""

    pointer: int
    type: str
    buffer: int
    dimensions: tuple[int, ...]
    strides: tuple[int, ...]
    op: str
    params: bytes
    is_input: bool
    sources: tuple[int, ...]
    view_of: int
    view_offset: int
    data: int
    name: str


class GgmlLibrary:
    """The library, of a layout that is known. Raises `EngineError` where it is missing, or has another layout."""

    def __init__(self, folder: Path) -> None:
        suffix = {"darwin": "libggml-base.dylib", "win32": "ggml-base.dll"}.get(sys.platform, "libggml-base.so")
        path = folder / suffix
        try:
            self._library = ctypes.CDLL(str(path))
            for name, (result, arguments) in _CALLS.items():
                call = getattr(self._library, name)
                call.restype, call.argtypes = result, arguments
        except (OSError, AttributeError) as error:
            raise EngineError(f"{path}: not a ggml library that is known here: {error}: install another release of "
                              "llama-cpp-python") from error  # fmt: skip
        self.version = self._library.ggml_version().decode(errors="replace")
        self.op_name = cache(self._name_of("ggml_op_name"))
        self.type_name = cache(self._name_of("ggml_type_name"))
        self.unary_name = cache(self._name_of("ggml_unary_op_name"))
        self.glu_name = cache(self._name_of("ggml_glu_op_name"))
        self.block = cache(lambda kind: (self._library.ggml_blck_size(kind), self._library.ggml_type_size(kind)))
        self._buffers: dict[int, tuple[bool, str]] = {}
        self._require_layout(path)

    def _name_of(self, call: str) -> Callable[[int], str]:
        return lambda number: str(getattr(self._library, call)(number).decode(errors="replace"))

    def tensor(self, pointer: int) -> GgmlTensor:
        """The tensor at an address that ggml has handed out."""
        f = _TENSOR.unpack(ctypes.string_at(pointer, _TENSOR.size))
        name = f[26].split(b"\0")[0].decode(errors="replace")
        return GgmlTensor(
            pointer, self.type_name(f[0]), f[1], f[2:6], f[6:10], self.op_name(f[10]), f[11], bool(f[12] & _INPUT_FLAG),
            tuple(f[13:23]), f[23], f[24], f[25], name,
        )  # fmt: skip

    def read(self, tensor: GgmlTensor, offset: int, size: int) -> bytes:
        """Bytes of a tensor, from whatever device it lies on."""
        if size == 0:
            return b""
        buffer = tensor.buffer or (self.tensor(tensor.view_of).buffer if tensor.view_of else 0)
        if self._is_host(buffer):
            return ctypes.string_at(tensor.data + offset, size)
        found = ctypes.create_string_buffer(size)
        self._library.ggml_backend_tensor_get(tensor.pointer, found, offset, size)
        return found.raw

    def device(self, tensor: GgmlTensor) -> str:
        """The name of the buffer that a tensor lies in."""
        self._is_host(tensor.buffer)
        return self._buffers[tensor.buffer][1]

    def usage(self, tensor: GgmlTensor) -> int:
        """What its buffer is for: weights, computing, or anything."""
        return int(self._library.ggml_backend_buffer_get_usage(tensor.buffer)) if tensor.buffer else -1

    def _is_host(self, buffer: int) -> bool:
        if buffer not in self._buffers:
            name = self._library.ggml_backend_buffer_name(buffer).decode() if buffer else ""
            # A buffer of repacked weights says that it lies in the host's memory, but not as the type has it.
            plain = bool(buffer) and self._library.ggml_backend_buffer_is_host(buffer) and "REPACK" not in name
            self._buffers[buffer] = plain, name
        return self._buffers[buffer][0]

    def _require_layout(self, path: Path) -> None:
        """Make tensors, and look whether they are read as they were made."""

        class InitParams(ctypes.Structure):
            _fields_ = (("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))

        library = self._library
        known = library.ggml_tensor_overhead() == _TENSOR.size + _OBJECT_BYTES
        if known:
            library.ggml_init.restype, library.ggml_init.argtypes = ctypes.c_void_p, [InitParams]
            context = library.ggml_init(InitParams(1 << 16, None, True))
            plain = library.ggml_new_tensor_2d(context, 1, 64, 3)
            view = library.ggml_view_1d(context, plain, 64, 128)
            norm = library.ggml_rms_norm(context, library.ggml_new_tensor_2d(context, 0, 32, 5), 0.5)
            library.ggml_set_name(norm, b"probe")
            a, b, c = self.tensor(plain), self.tensor(view), self.tensor(norm)
            known = (
                (a.type, a.dimensions, a.strides, a.op) == ("f16", (64, 3, 1, 1), (2, 128, 384, 384), "NONE")
                and (b.op, b.view_of, b.view_offset, b.sources[0]) == ("VIEW", plain, 128, plain)
                and (c.op, c.name, c.params[:4]) == ("RMS_NORM", "probe", struct.pack("<f", 0.5))
            )
            library.ggml_free(context)
        if not known:
            raise EngineError(
                f"{path}: ggml {self.version} lays tensors out in another way than ggml 0.9 to 0.25: install another "
                "release of llama-cpp-python"
            )


def library_folder() -> Path:
    """Where llama-cpp-python has its libraries. Raises `EngineError` where it is not installed."""
    return Path(str(llama_cpp().__file__)).parent / "lib"


def llama_cpp() -> Any:
    """The module. Raises `EngineError` where it is not installed, or cannot be loaded."""
    try:
        return importlib.import_module("llama_cpp")
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(f"llama-cpp-python cannot be loaded ({error}): pip install 'aprtui[oracle]'") from error
