"""The lists of the diff screen: what the error looks like, and the values that differ most."""

from __future__ import annotations

from collections.abc import Mapping

from aprtui.tui.screens.diff.model import Element, Judgement
from aprtui.tui.screens.diff.words import number, place_words
from aprtui.tui.widgets.table import Column, Row, Tone

HYPOTHESIS_COLUMNS = (Column(""), Column("looks like", grows=True), Column("evidence", grows=True, rank=1))
ELEMENT_COLUMNS = (
    Column("place", grows=True), Column("A", right=True), Column("B", right=True), Column("B − A", right=True, rank=1),
)  # fmt: skip

SIGNS: Mapping[str, str] = {"supported": "yes", "refuted": "no", "untested": "?"}
"""What is said of a hypothesis, in few letters."""

NO_HYPOTHESES = "Nothing diverges: there is no error to look at."
NO_ELEMENTS = "No stage differs."


def hypothesis_rows(judgement: Judgement) -> list[Row]:
    """A row a signature, those supported first; the cause stands behind what it looks like."""
    return [
        Row(
            fields["name"],
            (SIGNS.get(fields["state"], fields["state"]), f"{fields['name']}: {fields['cause']}", fields["evidence"]),
            Tone.MARKED if fields["state"] == "supported" else Tone.MUTED,
        )
        for fields in judgement.told.hypotheses
    ]


def element_rows(judgement: Judgement) -> list[Row]:
    """A row for each of the values that differ most, at the stage that the report looks at first."""
    return [
        Row(
            place_of(element),
            (place_words(element.place), f"{element.a:.6g}", f"{element.b:.6g}", number(element.b - element.a)),
        )
        for element in judgement.told.elements
    ]


def place_of(element: Element) -> tuple[int, int, int]:
    """Plane, row and column of a value."""
    place = element.place
    if "head" in place:
        return place["head"], place["query"], place["key"]
    return 0, place.get("token", 0), place.get("channel", 0)
