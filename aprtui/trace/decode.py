"""From parsed JSON to frozen dataclasses, strictly: a wrong type is named by its field, unknown fields are ignored.

A manifest has tens of thousands of values of a few types: what reads a type is made once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

Record = TypeVar("Record")
Reader = Callable[[Any, str], Any]
"""From a value, and the field that it is in, to what stands for it. Raises `DecodeError`."""


class DecodeError(ValueError):
    """A field that is missing or not of its type; the message names it."""


def decode(kind: type[Record], document: Any, field: str = "") -> Record:
    """A `kind` (a dataclass) from a JSON object. Raises `DecodeError`; whole numbers must not be negative."""
    record: Record = _record_reader(kind)(document, field)  # type: ignore[arg-type]  # mypy takes no class as hashable
    return record


@cache
def _record_reader(kind: type) -> Reader:
    hints = get_type_hints(kind)
    readers = [(entry.name, _reader(hints[entry.name])) for entry in fields(kind)]
    needed = {e.name for e in fields(kind) if e.default is MISSING and e.default_factory is MISSING}

    def read(value: Any, field: str) -> Any:
        if not isinstance(value, Mapping):
            raise DecodeError(f"{field or 'the document'} is not an object")
        prefix = f"{field}." if field else ""
        if not needed <= value.keys():
            missing = next(name for name, _ in readers if name in needed and name not in value)
            raise DecodeError(f"field {prefix}{missing} is missing")
        return kind(**{name: reader(value[name], prefix + name) for name, reader in readers if name in value})

    return read


@cache
def _reader(kind: Any) -> Reader:
    if kind is Any:
        return lambda value, field: value
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return _optional_reader(_reader(next(inner for inner in arguments if inner is not NoneType)), arguments)
    if origin is tuple:
        return _tuple_reader(kind, _reader(arguments[0]))
    if origin is not None and issubclass(origin, Mapping):
        return _mapping_reader(kind, _reader(arguments[1]))
    return _record_reader(kind) if isinstance(kind, type) and is_dataclass(kind) else _scalar_reader(kind)


def _optional_reader(inner: Reader, arguments: tuple[Any, ...]) -> Reader:
    if NoneType not in arguments:
        return inner
    return lambda value, field: None if value is None else inner(value, field)


def _tuple_reader(kind: Any, item: Reader) -> Reader:
    def read(value: Any, field: str) -> Any:
        if not isinstance(value, list):
            _refuse(kind, value, field)
        return tuple([item(each, f"{field}[{index}]") for index, each in enumerate(value)])

    return read


def _mapping_reader(kind: Any, item: Reader) -> Reader:
    def read(value: Any, field: str) -> Any:
        if not isinstance(value, Mapping):
            _refuse(kind, value, field)
        return {str(key): item(each, f"{field}.{key}") for key, each in value.items()}

    return read


def _scalar_reader(kind: Any) -> Reader:
    values = {member.value for member in kind} if isinstance(kind, type) and issubclass(kind, Enum) else frozenset()

    def read(value: Any, field: str) -> Any:
        if kind is int and type(value) is int and value >= 0:
            return value
        if kind in (bool, str) and type(value) is kind:
            return value
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            with suppress(OverflowError):  # a whole number beyond all floats
                return float(value)
        if values and isinstance(value, str | int) and value in values:
            return kind(value)
        _refuse(kind, value, field)

    return read


def _refuse(kind: Any, value: Any, field: str) -> NoReturn:
    raise DecodeError(f"field {field} is {value!r:.60}, expected {getattr(kind, '__name__', kind)}")
