"""Models of several files: `NAME-00002-of-00003.gguf` is a part, which opens with all others of its name beside it.

Format: `llama-gguf-split` of llama.cpp. Each part is a GGUF file: `split.no` (from 0), `split.count` and
`split.tensors.count` (of all parts) stand in each, all other metadata in the first. A merged file keeps the keys with a
count of 0.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aprtui.errors import UnreadableError

NUMBER, COUNT, TENSOR_COUNT = "split.no", "split.count", "split.tensors.count"
OWN_KEYS = frozenset({NUMBER, "general.alignment"})
"""What may differ from part to part."""

_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
_DIGEST = re.compile(r"sha256-[0-9a-f]{64}")
"""What Ollama calls its files."""
_SHORT_DIGEST = len("sha256-") + 12
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class PartName:
    """What a file name says: part `number` (from 1) of `count`, in `folder`."""

    folder: Path
    stem: str
    number: int
    count: int

    def path(self, number: int) -> Path:
        """Where part `number` (from 1) is expected."""
        return self.folder / f"{self.stem}-{number:05d}-of-{self.count:05d}.gguf"


def part_name(path: Path) -> PartName | None:
    """What the name of a file says, or None where it is not named as a part."""
    match = _NAME.fullmatch(path.name)
    return None if match is None else PartName(path.parent, match[1], int(match[2]), int(match[3]))


def first_part(path: Path) -> Path:
    """The first part of the model that `path` is a later part of, where that is there; else `path` itself."""
    name = part_name(path)
    if name is None or name.number == 1 or not name.path(1).is_file():
        return path
    return name.path(1)


def parts_there(path: Path) -> tuple[Path, ...]:
    """All parts that there are of the model which `path` is a part of by its name, in order; else `path` alone."""
    name = part_name(path)
    if name is None:
        return (path,)
    pattern = f"{glob.escape(name.stem)}-?????-of-{name.count:05d}.gguf"
    return tuple(sorted(found for found in name.folder.glob(pattern) if part_name(found))) or (path,)


def model_stem(path: Path) -> str:
    """The name of a model file without its suffix, and without the number of its part; of a digest the beginning."""
    name = part_name(path)
    stem = path.stem if name is None else name.stem
    return stem[:_SHORT_DIGEST] if _DIGEST.fullmatch(stem) else stem


def part_paths(path: Path, metadata: Mapping[str, Any]) -> tuple[Path, ...]:
    """The files of all parts, in order, of the model of which `path` with that metadata is one; `path` for a whole one.

    Raises `UnreadableError` where header and file name do not agree, and where parts are missing.
    """
    count = _whole_number(path, metadata, COUNT, 0)
    if count <= 1:
        return (path,)
    number = _whole_number(path, metadata, NUMBER, None) + 1
    if number > count:
        raise UnreadableError(f"{path}: {NUMBER} is {number - 1}, expected less than {COUNT}, {count}: fetch it again")
    name = part_name(path)
    if name is None:
        expected = PartName(path.parent, "NAME", number, count).path(number).name
        raise UnreadableError(
            f"{path}: part {number} of {count} of a model, and the others are found by its name: name it {expected}"
        )
    if (name.number, name.count) != (number, count):
        raise UnreadableError(
            f"{path}: part {number} of {count} by its header, {name.number} of {name.count} by its name: "
            "give it its own name again"
        )
    paths = tuple(path if each == number else name.path(each) for each in range(1, count + 1))
    missing = [found for found in paths if not found.is_file()]
    if missing:
        names = ", ".join(found.name for found in missing[:_MOST_NAMED])
        more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        raise UnreadableError(
            f"{path}: part {number} of {count} of a model; missing in its folder: {names}{more}: fetch what is missing"
        )
    return paths


def joined_metadata(parts: Sequence[tuple[Path, Mapping[str, Any]]]) -> dict[str, Any]:
    """The metadata of all parts, in order; the first has nearly all.

    Raises `UnreadableError` for a part that is another's, and for a key of which two parts have different values.
    """
    first_path, first = parts[0]
    joined = dict(first)
    for number, (path, metadata) in enumerate(parts):
        if _whole_number(path, metadata, NUMBER, None) != number:
            raise UnreadableError(
                f"{path}: {NUMBER} is {metadata[NUMBER]}, expected {number}: a copy of another part, fetch it again"
            )
        for key in (COUNT, TENSOR_COUNT):
            _whole_number(path, metadata, key, None)
        for key, value in metadata.items():
            if key not in OWN_KEYS and not _equal(value, joined.setdefault(key, value)):
                raise UnreadableError(
                    f"{path}: {key} is not that of {first_path.name}: parts of different models, fetch all of one"
                )
    return joined


def check_tensor_count(path: Path, metadata: Mapping[str, Any], found: int) -> None:
    """Raise `UnreadableError` unless all parts together have as many tensors as their headers say."""
    expected = _whole_number(path, metadata, TENSOR_COUNT, None)
    if found != expected:
        raise UnreadableError(
            f"{path}: all parts have {found} tensors, expected {expected} ({TENSOR_COUNT}): "
            "parts of different models, fetch all of one"
        )


def _equal(value: Any, other: Any) -> bool:
    if isinstance(value, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(value, other)
    return type(value) is type(other) and bool(value == other)


def _whole_number(path: Path, metadata: Mapping[str, Any], key: str, default: int | None) -> int:
    value = metadata.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        found = "missing" if value is None else f"{value!r:.40}"
        raise UnreadableError(f"{path}: {key} is {found}, expected a whole number: fetch or convert it again")
    return value
