"""What a pickle of tensors holds, without unpickling it: its opcodes are interpreted here, and nothing is called.

Only values are built: numbers, texts, lists, tuples, dictionaries. A name of the pickle stays a name; applied to
arguments, the few of `_BUILDERS` become the value that they stand for, and any other is refused. The opcodes are those
of `pickletools` in the standard library; what torch writes is in `torch/_utils.py` and `torch/serialization.py`.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from types import MappingProxyType
from typing import Any

MOST_BYTES = 64 << 20
"""Of a pickle: it holds names and shapes, tensors lie beside it."""
_MOST_OPCODES = 20_000_000
_MARK = object()


class PickleError(ValueError):
    """A pickle that is broken, or that would call something."""


@dataclass(frozen=True, slots=True)
class PickledName:
    """What a pickle calls by module and name, as `torch.float16`."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:120]


@dataclass(frozen=True, slots=True)
class PickledStorage:
    """The numbers of some tensors: what torch keeps them as, the key that they are found by, how many there are."""

    kind: PickledName
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class PickledTensor:
    """A view of a storage; `dtype` is None where the storage tells it."""

    storage: PickledStorage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: PickledName | None = None


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: Any = None) -> PickledTensor:
    if not isinstance(storage, PickledStorage) or not _whole(offset) or not (_sizes(shape) and _sizes(strides)):
        raise PickleError("a tensor without storage, shape and strides")
    if len(shape) != len(strides) or not (dtype is None or isinstance(dtype, PickledName)):
        raise PickleError("a tensor without storage, shape and strides")
    return PickledTensor(storage, offset, tuple(shape), tuple(strides), dtype)


def _tensor_v2(storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, meta: Any = None) -> Any:
    if meta:
        raise PickleError("a tensor that is conjugated or negated when it is read")
    return _tensor(storage, offset, shape, strides)


def _tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, meta: Any = None
) -> Any:
    if meta:
        raise PickleError("a tensor that is conjugated or negated when it is read")
    return _tensor(storage, offset, shape, strides, dtype)


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    return dict(pairs) if pairs else {}


_BUILDERS: Mapping[tuple[str, str], Callable[..., Any]] = MappingProxyType(
    {
        ("torch._utils", "_rebuild_tensor"): _tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
        ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
        ("torch._utils", "_rebuild_parameter"): lambda data, grad, hooks: data,
        ("collections", "OrderedDict"): _ordered,
        ("torch", "Size"): tuple,
        ("torch", "device"): lambda *parts: ":".join(map(str, parts)),
        ("builtins", "set"): lambda values=(): list(values),
    }
)
"""What names stand for that a pickle of tensors applies; they are our own functions."""


def read_pickle(stream: BytesIO) -> Any:
    """The value of the pickle at the position of `stream`, which is left behind it. Raises `PickleError`."""
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in old texts
            return _result(machine, stream)
    except PickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, RecursionError, UnicodeError) as error:
        raise PickleError(f"not a pickle that can be read: {str(error) or type(error).__name__}"[:200]) from error


def _result(machine: _Machine, stream: BytesIO) -> Any:
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if number > _MOST_OPCODES:
            raise PickleError("too long to be a pickle of tensors")
        if opcode.name == "STOP":
            return machine.result()
        machine.step(opcode.name, argument)
    raise PickleError("a pickle without an end")


class _Machine:
    """The stack, the memo, and a method for each kind of opcode."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def result(self) -> Any:
        if len(self.stack) != 1 or self.stack[0] is _MARK:
            raise PickleError("a pickle that leaves no value")
        return self.stack[0]

    def step(self, name: str, argument: Any) -> None:
        if name in _IGNORED:
            return
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in _MEMO_READS:
            self.stack.append(self.memo[int(argument)])
        elif name in _MEMO_WRITES:
            self.memo[len(self.memo) if argument is None else int(argument)] = self.stack[-1]
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        else:
            raise PickleError(
                f"opcode {name}, which makes objects: refused (of a model's output, save a field, as "
                "out.hidden_states, or dict(out))"
            )

    def pop(self, count: int) -> list[Any]:
        """The last `count` values, none of them a mark."""
        if count > len(self.stack):
            raise PickleError("a pickle that takes more than it holds")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        if any(value is _MARK for value in taken):
            raise PickleError("a pickle that takes more than it holds")
        return taken

    def pop_to_mark(self) -> list[Any]:
        """The values since the last mark, which goes with them."""
        place = len(self.stack) - 1
        while place >= 0 and self.stack[place] is not _MARK:
            place -= 1
        if place < 0:
            raise PickleError("a pickle that takes more than it holds")
        taken = self.stack[place + 1 :]
        del self.stack[place:]
        return taken

    def extend(self, values: list[Any]) -> None:
        if not self.stack or not isinstance(self.stack[-1], list):
            raise PickleError("values put into what is no list")
        self.stack[-1].extend(values)

    def set_items(self, values: list[Any]) -> None:
        if not self.stack or not isinstance(self.stack[-1], dict):
            raise PickleError("values put into what is no dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            self.stack[-1][_key(key)] = value

    def dictionary(self) -> None:
        values = self.pop_to_mark()
        self.stack.append({})
        self.set_items(values)

    def global_name(self, argument: Any) -> None:
        module, _, name = str(argument).partition(" ")
        self.stack.append(PickledName(module, name))

    def stack_global(self) -> None:
        module, name = self.pop(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("a name that is no text")
        self.stack.append(PickledName(module, name))

    def reduce(self) -> None:
        function, arguments = self.pop(2)
        if not isinstance(function, PickledName) or not isinstance(arguments, tuple):
            raise PickleError("something is applied that is no name: refused")
        build = _BUILDERS.get((function.module, function.name))
        if build is None:
            raise PickleError(f"it calls {function}: refused")
        self.stack.append(build(*arguments))

    def build(self) -> None:
        """Attributes, which a dictionary of tensors has none of that matter."""
        self.pop(1)
        if not self.stack or not isinstance(self.stack[-1], dict):
            raise PickleError("attributes of what is no dictionary: refused")

    def persistent(self) -> None:
        (found,) = self.pop(1)
        if not isinstance(found, tuple) or not 5 <= len(found) <= 6 or found[0] != "storage":
            raise PickleError("a storage that is not described as torch does")
        _, kind, key, _, count, *view = found
        if not isinstance(kind, PickledName) or not isinstance(key, str) or not _whole(count) or any(view):
            raise PickleError("a storage that is not described as torch does")
        self.stack.append(PickledStorage(kind, key, count))


def _whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def _sizes(values: Any) -> bool:
    return isinstance(values, tuple) and len(values) <= 32 and all(map(_whole, values))


def _key(key: Any) -> Any:
    if not isinstance(key, str | int | float | bool | tuple | None):
        raise PickleError("a dictionary whose keys are no texts or numbers")
    return key


_IGNORED = frozenset({"PROTO", "FRAME"})
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "MARK": lambda: _MARK,
    "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": list,
}  # fmt: skip
_LITERALS = frozenset(
    {
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
        "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
        "BINBYTES8",
    }
)  # fmt: skip
_MEMO_READS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_MEMO_WRITES = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_ACTIONS: Mapping[str, Callable[[_Machine, Any], Any]] = {
    "POP": lambda machine, _: machine.pop(1),
    "POP_MARK": lambda machine, _: machine.pop_to_mark(),
    "APPEND": lambda machine, _: machine.extend(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "LIST": lambda machine, _: machine.stack.append(machine.pop_to_mark()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.stack.append(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.stack.append(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.stack.append(tuple(machine.pop(3))),
    "DICT": lambda machine, _: machine.dictionary(),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "GLOBAL": lambda machine, argument: machine.global_name(argument),
    "STACK_GLOBAL": lambda machine, _: machine.stack_global(),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.persistent(),
}
