"""Files of numbers and nothing else: type and shape are known from elsewhere."""

from __future__ import annotations

import math
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

from aprtui.errors import UnreadableError
from aprtui.importing.elements import ELEMENTS, Raw, SourceTensor
from aprtui.trace.positional import PositionalFile


def raw_tensor(path: Path, name: str, element: str, shape: tuple[int, ...], offset: int = 0) -> SourceTensor:
    """The numbers of a file from `offset` on, not read yet. Raises `UnreadableError` where it holds fewer."""
    kind, size = ELEMENTS[element], _size(path)
    needed = math.prod(shape) * kind.size
    if offset + needed > size:
        raise UnreadableError(f"{path}: byte {size}: ends here, {offset + needed} bytes were expected: truncated")
    return SourceTensor(name, shape, kind, partial(range_of, path, offset, needed))


def range_of(path: Path, offset: int, count: int) -> Raw:
    """`count` bytes of a file; it is open for as long as that takes, since a dump may have thousands of files."""
    buffer = np.empty(count, np.uint8)
    with closing(PositionalFile(path)) as file:
        file.fill(buffer, offset)
    return buffer


def _size(path: Path) -> int:
    with closing(PositionalFile(path)) as file:
        return file.size


def whole_numbers(path: Path) -> tuple[int, ...]:
    """All the i32 LE of a file, as llama.cpp keeps token ids. Raises `UnreadableError`."""
    values = raw_tensor(path, path.name, "I32", (_size(path) // 4,)).integers()
    assert values is not None
    return tuple(int(value) for value in values)
