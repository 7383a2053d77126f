"""Results kept on disk between runs because they take time to measure.

Each result is a JSON file named by a digest of its key, which holds everything that the result depends on. A file that
cannot be read is ignored, and so is a folder that cannot be written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from aprtui.errors import EngineError
from aprtui.trace.aprt import write_atomically

T = TypeVar("T")

_PACKAGE = Path(__file__).parents[1]
_UNREADABLE = (OSError, ValueError, TypeError, KeyError)


def cached(
    folder: Path, key: Sequence[str], measure: Callable[[], T], *, encode: Callable[[T], Any],
    decode: Callable[[Any], T],
) -> T:  # fmt: skip
    """The result under `key` in `folder`, measured where there is none yet; `encode` makes JSON of it, `decode` reads
    that back."""
    path = folder / f"{hashlib.sha256(json.dumps(list(key)).encode()).hexdigest()[:32]}.json"
    with suppress(*_UNREADABLE):
        return decode(json.loads(path.read_text()))
    result = measure()
    with suppress(EngineError):
        write_atomically(path, json.dumps(encode(result)).encode())
    return result


def all_cached(folder: Path, decode: Callable[[Any], T]) -> Iterator[T]:
    """Every result in `folder` that `decode` can read."""
    for path in sorted(folder.glob("*.json")):
        with suppress(*_UNREADABLE):
            yield decode(json.loads(path.read_text()))


@cache
def python_digest(*places: str) -> str:
    """A digest of the Python files at `places`, files and folders named from the package's own: results that another
    version of them measured are no longer valid."""
    found = (_PACKAGE / place for place in places)
    files = sorted(file for path in found for file in ([path] if path.is_file() else path.rglob("*.py")))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
