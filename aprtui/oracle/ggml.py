"""Tensors of llama.cpp as its scheduler's callback hands them out, read through llama-cpp-python.

The package declares neither ggml's tensor nor what reads one. Tensors that are made for the purpose show, when the
library is loaded, that they lie in memory as they are declared here (`struct ggml_tensor` in `ggml.h`).
"""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import EngineError

_ERROR_LEVEL = 4
_TYPES = {0: np.float32, 1: np.float16, 26: np.int32}
"""Element types of what a graph computes, by `enum ggml_type`."""


class GgmlTensor(ctypes.Structure):
    """`struct ggml_tensor`."""


GgmlTensorPointer = ctypes.POINTER(GgmlTensor)
GgmlTensor._fields_ = [
    ("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("ne", ctypes.c_int64 * 4), ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int), ("op_params", ctypes.c_int32 * 16), ("flags", ctypes.c_int32),
    ("src", GgmlTensorPointer * 10),
    ("view_src", GgmlTensorPointer), ("view_offs", ctypes.c_size_t), ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64), ("extra", ctypes.c_void_p), ("padding", ctypes.c_char * 8),
]  # fmt: skip


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class BufferUsage(IntEnum):
    """What a buffer is for (`enum ggml_backend_buffer_usage`)."""

    ANY = 0
    WEIGHTS = 1
    COMPUTE = 2


@dataclass(frozen=True, slots=True)
class Ggml:
    """llama-cpp-python (`llama`) and the ggml beneath it. `errors` gets the errors that llama.cpp logs."""

    llama: Any
    version: str
    errors: list[str]
    _library: Any
    _silence: Any
    _names: dict[int, str] = field(default_factory=dict)

    def op(self, tensor: Any) -> str:
        """The name of the op that makes `tensor`, such as `MUL_MAT`."""
        number = tensor.op
        if number not in self._names:
            self._names[number] = self._library.ggml_op_name(number).decode()
        return self._names[number]

    def values(self, pointer: Any) -> NDArray[Any]:
        """The values of a tensor, axes in the order of memory, the slowest first; copied from any device."""
        tensor = pointer.contents
        if tensor.type not in _TYPES:
            kind = self._library.ggml_type_name(tensor.type).decode()
            raise EngineError(f"llama.cpp computes {tensor.name.decode()} in {kind}: expected f32, f16 or i32")
        element = np.dtype(_TYPES[tensor.type])
        count = self._library.ggml_nbytes(pointer)
        found = np.empty(count // element.itemsize, element)
        self._library.ggml_backend_tensor_get(pointer, found.ctypes.data, 0, count)
        return np.lib.stride_tricks.as_strided(found, tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1])

    def read(self, pointer: Any, offset: int, size: int) -> bytes:
        """Bytes of a tensor, copied from any device."""
        found = ctypes.create_string_buffer(size)
        if size:
            self._library.ggml_backend_tensor_get(pointer, found, offset, size)
        return found.raw

    def type_name(self, number: int) -> str:
        """What ggml calls an element type, such as `q4_K`."""
        return str(self._library.ggml_type_name(number).decode(errors="replace"))

    def function_name(self, op: str, number: int) -> str:
        """The function that a `UNARY` or a `GLU` computes, such as `SILU`."""
        names = self._library.ggml_glu_op_name if op == "GLU" else self._library.ggml_unary_op_name
        return str(names(number).decode(errors="replace"))

    def buffer(self, tensor: Any) -> tuple[str, BufferUsage]:
        """The name of the buffer that a tensor lies in, and what it is for."""
        if not tensor.buffer:
            return "", BufferUsage.ANY
        name = self._library.ggml_backend_buffer_name(tensor.buffer).decode(errors="replace")
        return name, BufferUsage(self._library.ggml_backend_buffer_get_usage(tensor.buffer))


def float_parameter(tensor: Any, index: int) -> np.float32:
    """A parameter of the op of `tensor` that is a float32."""
    return np.float32(np.int32(tensor.op_params[index]).view(np.float32))


def sources(tensor: Any) -> list[Any]:
    """The tensors that `tensor` is made from."""
    return [pointer.contents for pointer in tensor.src if pointer]


def viewed(tensor: Any) -> Any:
    """The tensor whose memory `tensor` is a view of; itself where it is none."""
    return tensor.view_src.contents if tensor.view_src else tensor


_loaded: list[Ggml] = []


def load_ggml() -> Ggml:
    """The library, which stays loaded. Raises `EngineError` where llama-cpp-python is missing or not as expected."""
    if _loaded:
        return _loaded[0]
    try:
        llama = importlib.import_module("llama_cpp")
        library = importlib.import_module("llama_cpp._ggml").libggml
    except ImportError as error:
        raise EngineError("llama-cpp-python is not installed: pip install 'aprtui[oracle]'") from error
    version = f"llama-cpp-python {llama.__version__}"
    if not hasattr(llama, "llama_context_params") or not hasattr(llama.llama_context_params, "flash_attn_type"):
        raise EngineError(f"{version} is too old: pip install -U 'aprtui[oracle]'")
    _declare(library)
    if not _lies_as_declared(library):
        raise EngineError(
            f"{version}: its ggml has tensors of another layout than is known here: install another version, "
            "such as pip install llama-cpp-python==0.3.36"
        )
    errors: list[str] = []

    def log(level: int, text: bytes, _: Any) -> None:
        if level == _ERROR_LEVEL:
            errors.append(text.decode(errors="replace").strip())

    # Kept: a callback that is collected crashes what calls it.
    silence = llama.llama_log_callback(log)
    llama.llama_log_set(silence, ctypes.c_void_p(0))
    llama.llama_backend_init()
    _loaded.append(Ggml(llama, f"{version} (ggml {library.ggml_version().decode()})", errors, library, silence))
    return _loaded[0]


def _declare(library: Any) -> None:
    size, integer, pointer = ctypes.c_size_t, ctypes.c_int64, ctypes.c_void_p
    functions = {
        "ggml_version": (ctypes.c_char_p, ()),
        "ggml_op_name": (ctypes.c_char_p, (ctypes.c_int,)),
        "ggml_type_name": (ctypes.c_char_p, (ctypes.c_int,)),
        "ggml_unary_op_name": (ctypes.c_char_p, (ctypes.c_int,)),
        "ggml_glu_op_name": (ctypes.c_char_p, (ctypes.c_int,)),
        "ggml_backend_buffer_name": (ctypes.c_char_p, (pointer,)),
        "ggml_backend_buffer_get_usage": (ctypes.c_int, (pointer,)),
        "ggml_nbytes": (size, (GgmlTensorPointer,)),
        "ggml_backend_tensor_get": (None, (GgmlTensorPointer, pointer, size, size)),
        "ggml_init": (pointer, (_InitParams,)),
        "ggml_free": (None, (pointer,)),
        "ggml_new_tensor_2d": (GgmlTensorPointer, (pointer, ctypes.c_int, integer, integer)),
        "ggml_set_name": (GgmlTensorPointer, (GgmlTensorPointer, ctypes.c_char_p)),
        "ggml_mul_mat": (GgmlTensorPointer, (pointer, GgmlTensorPointer, GgmlTensorPointer)),
        "ggml_scale": (GgmlTensorPointer, (pointer, GgmlTensorPointer, ctypes.c_float)),
        "ggml_view_2d": (GgmlTensorPointer, (pointer, GgmlTensorPointer, integer, integer, size, size)),
    }
    for name, (result, arguments) in functions.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, list(arguments)


def _lies_as_declared(library: Any) -> bool:
    context = library.ggml_init(_InitParams(1 << 16, None, True))
    try:
        a, b = (library.ggml_new_tensor_2d(context, 0, 32, rows) for rows in (3, 5))
        library.ggml_set_name(a, b"first")
        product = library.ggml_mul_mat(context, a, b)
        scaled = library.ggml_scale(context, product, 2.5).contents
        view = library.ggml_view_2d(context, product, 2, 4, 12, 16).contents
        found = product.contents
        return (
            (a.contents.type, a.contents.name, list(a.contents.ne)) == (0, b"first", [32, 3, 1, 1])
            and (list(found.ne), list(found.nb)) == ([3, 5, 1, 1], [4, 12, 60, 60])
            and library.ggml_op_name(found.op) == b"MUL_MAT"
            and [_address(source) for source in found.src[:2]] == [_address(a), _address(b)]
            and not any(found.src[2:])
            and (library.ggml_op_name(scaled.op), float(float_parameter(scaled, 0))) == (b"SCALE", 2.5)
            and (_address(view.view_src), view.view_offs) == (_address(product), 16)
        )
    finally:
        library.ggml_free(context)


def _address(pointer: Any) -> int | None:
    return ctypes.cast(pointer, ctypes.c_void_p).value
