"""Which metadata of two files differ, those that change numbers first."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aprtui.model.architectures.base import WITHOUT_EFFECT
from aprtui.model.gguf_file import StringArray
from aprtui.model.model_file import ModelFile

_MOST_CHARACTERS = 48

_NOT_COMPUTED_WITH = WITHOUT_EFFECT | {"context_length"}
"""All other keys of an architecture count as changing numbers."""

# What a wrong port gets wrong most often comes first.
_FIRST = (
    "rope.freq_base", "attention.layer_norm_rms_epsilon", "attention.head_count", "attention.head_count_kv",
    "attention.key_length", "attention.value_length", "rope.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MetadataDifference:
    """A key whose values differ, each shortened; None on the side that lacks the key.

    `changes_numbers` is for keys that the forward pass computes with; tokenizer keys change token ids, not numbers.
    """

    key: str
    a: str | None
    b: str | None
    changes_numbers: bool


def metadata_differences(a: ModelFile, b: ModelFile, *, same_config: bool) -> tuple[MetadataDifference, ...]:
    """All keys that differ: those that change numbers first, then by name.

    Keys of two different architectures are matched without their prefix, which then reads `*`. `same_config` says that
    both files are known to configure the same computation, as where one writes a default down.
    """
    sides = (a.metadata.get("general.architecture"), b.metadata.get("general.architecture"))
    left, right = (_own_keys_marked(file.metadata, sides) for file in (a, b))
    found = [
        MetadataDifference(key, *_texts(left.get(key), right.get(key)), _computed_with(key, sides) and not same_config)
        for key in sorted({*left, *right})
        if not _equal(left.get(key), right.get(key))
    ]
    return tuple(sorted(found, key=_rank))


def _own_keys_marked(metadata: Mapping[str, Any], architectures: tuple[Any, Any]) -> Mapping[str, Any]:
    """The metadata; of two architectures, with each one's own keys under the common prefix `*.`, so that they meet."""
    own = f"{metadata.get('general.architecture')}."
    if architectures[0] == architectures[1]:
        return metadata
    return {f"*.{key.removeprefix(own)}" if key.startswith(own) else key: value for key, value in metadata.items()}


def _computed_with(key: str, architectures: tuple[Any, Any]) -> bool:
    if key == "general.architecture":
        return True
    prefix, _, rest = key.partition(".")
    return prefix in ("*", *architectures) and rest not in _NOT_COMPUTED_WITH


def _rank(difference: MetadataDifference) -> tuple[bool, int, str]:
    rest = difference.key.partition(".")[2]
    places = (index for index, start in enumerate(_FIRST) if rest.startswith(start))
    return not difference.changes_numbers, next(places, len(_FIRST)), difference.key


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, StringArray) and isinstance(b, StringArray):
        return a.count == b.count and a.data == b.data
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, np.ndarray | StringArray) or isinstance(b, np.ndarray | StringArray) or a is None or b is None:
        return a is b
    return bool(a == b) or repr(a) == repr(b)


def _texts(a: Any, b: Any) -> tuple[str | None, str | None]:
    """Both values, short: arrays by their length, and by their first difference where the lengths agree."""
    lists = (np.ndarray, StringArray)
    if isinstance(a, lists) and isinstance(b, lists) and len(a) == len(b) and type(a) is type(b):
        index, left, right = _first_difference(a, b)
        return f"[{index}] of {len(a)}: {_short(left)}", f"[{index}] of {len(b)}: {_short(right)}"
    left_text, right_text = _text(a), _text(b)
    if left_text == right_text and isinstance(a, str) and isinstance(b, str):
        at = next(i for i, (x, y) in enumerate(zip(a + "\0", b + "\0", strict=False)) if x != y)
        return f"{len(a)} characters, at {at}: {_short(a[at:])}", f"{len(b)} characters, at {at}: {_short(b[at:])}"
    return left_text, right_text


def _first_difference(a: Any, b: Any) -> tuple[int, Any, Any]:
    left, right = (x.read() if isinstance(x, StringArray) else x.tolist() for x in (a, b))
    index = next((i for i, (x, y) in enumerate(zip(left, right, strict=True)) if not _equal(x, y)), 0)
    return index, _decoded(left[index]), _decoded(right[index])


def _decoded(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, np.ndarray | StringArray):
        return f"array of {len(value)}"
    return _short(value)


def _short(value: Any) -> str:
    if isinstance(value, float):
        # The file has float32 mostly: its shortest digits, not those of the double it became.
        narrow = np.float32(value)
        return str(narrow) if float(narrow) == value else repr(value)
    if isinstance(value, str):
        return repr(value) if len(value) <= _MOST_CHARACTERS else f"{value[:_MOST_CHARACTERS]!r}…"
    return reprlib.repr(value)
