"""How the commands of `aprtui contracts` tell what recorded evidence carries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aprtui.contracts.evidence.assessment import Backing


def backing_record(backing: Backing) -> dict[str, Any]:
    """The newest evidence, whether it still holds, and the levels, for JSON."""
    from aprtui.contracts.documents.document import NAMES

    newest = backing.newest
    return {
        "carries": NAMES[backing.now],
        "ever_carried": NAMES[backing.ever],
        "files": len(backing.backers),
        "file": None if newest is None else str(newest.path),
        "date": None if newest is None else newest.evidence.date,
        "verdict": None if newest is None else str(newest.evidence.verdict),
        "standing": None if newest is None else str(newest.standing),
        "changes": [] if newest is None else newest.changes,
    }


def backing_words(backing: Backing) -> str:
    """The newest evidence in a line: `PASS of 2026-11-27, stale: engine.py changed; carries FUNCTIONAL`."""
    from aprtui.contracts.documents.document import NAMES, Maturity

    newest = backing.newest
    if newest is None:
        stated = f", what the contract tells carries {NAMES[backing.now]}" if backing.now > Maturity.NONE else ""
        return f"none recorded{stated}"
    return f"{newest.evidence.verdict} of {newest.evidence.date[:10]}, {newest.words}; carries {NAMES[backing.now]}"
