"""The state of a screen as one string, which `aprtui open` takes: `aprtui:diff?a=good&b=bad&layer=2&stage=ffn_gate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from urllib.parse import parse_qsl, quote, urlencode

from aprtui.errors import UsageError

SCHEME = "aprtui:"


class ScreenName(StrEnum):
    """The screens, in the order of their keys 1 … 6."""

    LIVE = "live"
    BROWSE = "browse"
    TENSOR = "tensor"
    DIFF = "diff"
    CONTRACTS = "contracts"
    SWEEP = "sweep"


UNTABBED = frozenset({ScreenName.SWEEP})
"""Screens that have a tab only while they are shown: 80 columns have no room for another, and few runs have a sweep."""


FIELDS: Mapping[ScreenName, tuple[str, ...]] = MappingProxyType(
    {
        ScreenName.LIVE: (
            "model", "recording", "prompt", "chat", "system", "earlier", "before", "temp", "top_k", "top_p", "min_p",
            "repeat_penalty", "seed", "mode", "backend", "kv", "inject", "view", "statistic", "tint", "lens", "layer",
            "stage", "token",
        ),
        ScreenName.BROWSE: ("path", "at", "layer", "stage", "a", "b", "filter", "stages", "tensors"),
        ScreenName.TENSOR: (
            "model", "tensor", "capture", "layer", "stage", "node", "path", "width", "at", "zoom", "head",
            "scale", "clip",
        ),
        ScreenName.DIFF: (
            "a", "b", "judge", "model", "floor", "layer", "stage", "at", "metric", "bound", "view",
        ),
        ScreenName.CONTRACTS: ("path", "document", "falsifier", "reference", "capture"),
        ScreenName.SWEEP: ("path", "model", "pair", "prompt", "view"),
    }
)  # fmt: skip
"""What a state can say of each screen."""


@dataclass(frozen=True, slots=True)
class ScreenState:
    """What a screen shows: its name, and some of its `FIELDS`."""

    screen: ScreenName
    fields: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __str__(self) -> str:
        # Names of files may hold bytes that are no UTF-8: they come back as they were.
        query = urlencode(self.fields, quote_via=quote, safe="/.:,", errors="surrogateescape")
        return f"{SCHEME}{self.screen}" + (f"?{query}" if query else "")

    def text(self, name: str, default: str = "") -> str:
        return self.fields.get(name, default)

    def path(self, name: str) -> Path | None:
        """Field `name` as a path; None where it is not given."""
        return Path(self.fields[name]) if self.fields.get(name) else None

    def number(self, name: str) -> int | None:
        """Field `name` as a whole number; None where it is not given. Raises `UsageError`."""
        text = self.fields.get(name)
        if not text:
            return None
        try:
            return int(text)
        except ValueError:
            raise UsageError(f"{self}: {name} is {text!r}: expected a whole number") from None


def screen_state(screen: ScreenName, **fields: object) -> ScreenState:
    """A state of `screen`; fields that are None or empty are left out."""
    kept = {name: str(value) for name, value in fields.items() if value not in (None, "")}
    assert kept.keys() <= set(FIELDS[screen]), f"a state that {screen} would not read: {kept}"
    return ScreenState(screen, kept)


def is_state(text: str) -> bool:
    """Whether `text` is meant as a state, not as a path."""
    return text.startswith(SCHEME)


def parse_state(text: str) -> ScreenState:
    """The state that `text` stands for. Raises `UsageError`."""
    name, _, query = text.removeprefix(SCHEME).partition("?")
    if name not in set(ScreenName):
        raise UsageError(f"{text}: there is no screen {name!r}: expected {SCHEME} and one of {', '.join(ScreenName)}")
    try:
        pairs = parse_qsl(
            query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=64, errors="surrogateescape"
        )
    except ValueError as error:
        raise UsageError(f"{text}: {error}: expected name=value pairs joined by &") from error
    fields, known = dict(pairs), FIELDS[ScreenName(name)]
    unknown = next((field for field in fields if field not in known), None)
    if unknown is not None:
        raise UsageError(f"{text}: {name} has no field {unknown!r}: expected {', '.join(known)}")
    return ScreenState(ScreenName(name), fields)
