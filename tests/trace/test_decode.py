"""JSON becomes records, or one line that names the field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pytest

from aprtui.trace.decode import DecodeError, decode


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    count: int
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    inners: tuple[Inner, ...] = ()
    by_name: Mapping[str, int] | None = None
    colour: Colour = Colour.RED
    anything: Any = None


def test_a_record_is_read_with_what_it_leaves_out_and_without_what_it_does_not_know() -> None:
    document = {"name": "a", "inners": [{"count": 3, "share": 1}], "by_name": {"x": 1}, "colour": "red", "more": 2}
    assert decode(Outer, document) == Outer("a", (Inner(3, 1.0),), {"x": 1})
    assert decode(Outer, {"name": "a", "by_name": None}) == Outer("a")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "the document is not an object"),
        ({}, "field name is missing"),
        ({"name": 1}, "field name is 1, expected str"),
        ({"name": "a", "inners": {}}, r"field inners is \{\}, expected tuple"),
        ({"name": "a", "inners": [{"count": 1}, {}]}, r"field inners\[1\].count is missing"),
        ({"name": "a", "inners": [3]}, r"inners\[0\] is not an object"),
        ({"name": "a", "inners": [{"count": -1}]}, r"field inners\[0\].count is -1, expected int"),
        ({"name": "a", "inners": [{"count": True}]}, r"field inners\[0\].count is True, expected int"),
        (
            {"name": "a", "inners": [{"count": 1, "share": 10**400}]},
            r"field inners\[0\].share is 1000.*, expected float",
        ),
        ({"name": "a", "by_name": {"x": "1"}}, "field by_name.x is '1', expected int"),
        ({"name": "a", "colour": []}, r"field colour is \[\], expected Colour"),
    ],
)
def test_what_is_wrong_is_named_by_its_field(document: Any, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decode(Outer, document)
