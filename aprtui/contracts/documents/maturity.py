"""How far a falsifier's claim goes. The life cycle of a document is another thing, and has no order here.

The words are kept as they stand in the file; this only ranks them.
"""

from __future__ import annotations

from enum import IntEnum


class Maturity(IntEnum):
    """What a status claims, from less to more. UNRANKED words are shown, never compared."""

    UNRANKED = -1
    NONE = 0
    BLOCKED = 1
    ALGORITHM = 2
    FUNCTIONAL = 3
    DISCHARGED = 4


BLOCKER = "BLOCKER_"

NAMES = {
    Maturity.UNRANKED: "UNRANKED",
    Maturity.NONE: "NONE",
    Maturity.BLOCKED: "BLOCKED",
    Maturity.ALGORITHM: "PARTIAL_ALGORITHM_LEVEL",
    Maturity.FUNCTIONAL: "FUNCTIONAL",
    Maturity.DISCHARGED: "DISCHARGED",
}
"""What each level is called where we speak of it; of the three highest, the word that a status takes."""

_RANKS = {
    "": Maturity.NONE, "PROPOSED": Maturity.NONE, "PLANNED": Maturity.NONE, "PENDING": Maturity.NONE,
    "PARTIAL": Maturity.ALGORITHM, "PARTIAL_ALGORITHM_LEVEL": Maturity.ALGORITHM,
    "ALGORITHM_LEVEL_DISCHARGED": Maturity.ALGORITHM,
    "FUNCTIONAL": Maturity.FUNCTIONAL, "FUNCTIONAL_DISCHARGED": Maturity.FUNCTIONAL,
    "DISCHARGED": Maturity.DISCHARGED, "LIVE-DISCHARGED": Maturity.DISCHARGED,
}  # fmt: skip


def maturity_of(status: str) -> Maturity:
    """The rank of a status as written; no status claims nothing."""
    word = status.strip().upper()
    return Maturity.BLOCKED if word.startswith(BLOCKER) else _RANKS.get(word, Maturity.UNRANKED)
