"""What a lint rule is, and what it may look at beside the contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aprtui.contracts.documents.document import Document
from aprtui.contracts.documents.finding import Severity
from aprtui.contracts.evidence.assessment import Ledger
from aprtui.contracts.lint.source_tree import SourceTree


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a contract is held against.

    `options` are those of each command of ours, by its words (`trace`, `contracts check`). `ledgers` are the recorded
    evidence, by the contract's path. Rules about what is not given are silent.
    """

    source: SourceTree | None = None
    options: Mapping[str, frozenset[str]] = field(default_factory=dict)
    ledgers: Mapping[Path, Ledger] = field(default_factory=dict)


Breaches = Iterator[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class LintRule:
    """A rule: `find` yields line and message for every breach."""

    code: str
    severity: Severity
    states: str
    find: Callable[[Document, Surroundings], Breaches]
