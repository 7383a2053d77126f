"""All contracts together: how many falsifiers are at which level, and what waits for what.

The maturity of falsifiers and the life cycle of documents are counted apart: a document of one life cycle may hold
falsifiers of every maturity.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from aprtui.contracts.checks.mapping import check_of, own_mapping
from aprtui.contracts.documents.document import Blocker, Document, Falsifier, Maturity
from aprtui.contracts.evidence.assessment import Assessment, Ledger

_LONGEST_NAME = 60
_ID = re.compile(r"\b[A-Z][A-Z0-9]*(?:-[A-Z0-9]+)*-\d{3,}\b|\b[A-Z][A-Z0-9]*(?:-[A-Z0-9]+){2,}\b|(?<!\w)#\d+\b")
"""An id of a falsifier, a ticket or a pull request: SHIP-007, M-FFN-GGUF-5, #1550."""


@dataclass(frozen=True, slots=True)
class AssessedFalsifier:
    document: Document
    falsifier: Falsifier
    assessment: Assessment


@dataclass(frozen=True, slots=True)
class Level:
    """How many falsifiers claim exactly this level, have evidence that carries it now, and ever had such evidence."""

    level: Maturity
    claimed: int
    carried: int
    ever: int


class WaitKind(StrEnum):
    """The kind of thing that is waited for: one that a blocker names, or a contract that another depends on."""

    BLOCKER = "blocker"
    CONTRACT = "contract"


@dataclass(frozen=True, slots=True)
class Waiting:
    """One that waits: a falsifier of a contract because of a blocker, or a contract that depends on another."""

    document: Document
    falsifier: Falsifier | None
    blocker: Blocker | None


@dataclass(frozen=True, slots=True)
class Wait:
    """Something that is waited for, and everything that waits for it.

    `document` is the contract that it is or belongs to, `falsifier` the falsifier that it is; None where it is not
    among the contracts given.
    """

    name: str
    kind: WaitKind
    document: Document | None
    falsifier: Falsifier | None
    waiting: tuple[Waiting, ...]


def assess_falsifiers(documents: Iterable[Document], ledgers: Mapping[Path, Ledger]) -> tuple[AssessedFalsifier, ...]:
    """Every falsifier with the assessment of its evidence; `ledgers` by the contract's path."""
    return tuple(
        AssessedFalsifier(document, test, ledgers[document.path].assess(test, check_of(test, own_mapping())))
        for document in documents
        for test in document.falsifiers
    )


def levels(found: Sequence[AssessedFalsifier]) -> tuple[Level, ...]:
    """The counts of each level, the highest first; statuses without a rank come last."""
    claimed = Counter(assessed.falsifier.maturity for assessed in found)
    carried = Counter(assessed.assessment.now for assessed in found)
    ever = Counter(assessed.assessment.ever for assessed in found)
    return tuple(Level(level, claimed[level], carried[level], ever[level]) for level in sorted(Maturity, reverse=True))


def waits(documents: Sequence[Document]) -> tuple[Wait, ...]:
    """Everything that is waited for: blockers before contracts, and those that most wait for first."""
    contracts = {document.name: document for document in documents}
    tests = {test.id: (document, test) for document in documents for test in document.falsifiers if test.id}
    found = []
    for name, waiting in _blocked(documents, {*tests, *contracts}).items():
        document, test = tests.get(name, (None, None))
        found.append(Wait(name, WaitKind.BLOCKER, document or contracts.get(name), test, tuple(waiting)))
    for name, waiting in _depended_on(documents).items():
        found.append(Wait(name, WaitKind.CONTRACT, contracts.get(name), None, tuple(waiting)))
    return tuple(sorted(found, key=lambda wait: (wait.kind is WaitKind.CONTRACT, -len(wait.waiting), wait.name)))


def _blocked(documents: Iterable[Document], known: AbstractSet[str]) -> Mapping[str, list[Waiting]]:
    found: dict[str, list[Waiting]] = defaultdict(list)
    for document in documents:
        for test in document.falsifiers:
            reasons = [
                (name, blocker)
                for blocker in test.blockers
                for name in _names_in(blocker, known - {test.id, document.name})
            ]
            for name, blocker in dict(reversed(reasons)).items():  # a claim waits once, for the first reason given
                found[name].append(Waiting(document, test, blocker))
    return found


def _depended_on(documents: Iterable[Document]) -> Mapping[str, list[Waiting]]:
    found: dict[str, list[Waiting]] = defaultdict(list)
    for document in documents:
        for name in document.metadata.dependencies:
            found[name].append(Waiting(document, None, None))
    return found


def _names_in(blocker: Blocker, known: Iterable[str]) -> Iterator[str]:
    """The falsifiers, contracts and tickets that a blocker names; its own words where it names none."""
    words = " ".join(blocker.text.split())
    if len(words.split()) == 1:
        yield words
        return
    named = [name for name in known if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", words)]
    named += _ID.findall(words)
    if named:
        yield from dict.fromkeys(named)
    else:
        yield words if len(words) <= _LONGEST_NAME else words[: _LONGEST_NAME - 1] + "…"
