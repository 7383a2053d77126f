"""The contents of a contract as records, and the ladder of maturity that ranks the statuses of falsifiers.

Words are kept as written, and keys without a field here stay in `extras`. Every record knows its `line`, and in `lines`
the line of each of its fields, so that a finding can point at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import IntEnum
from pathlib import Path
from typing import Any

from aprtui.yaml_file import DuplicateKey, YamlError

BLOCKER = "BLOCKER_"

Extras = Mapping[str, Any]


class ContractError(YamlError):
    """A contract, or a file that belongs to it, that cannot be used: the YAML is sound, what it says is not."""


class Maturity(IntEnum):
    """What a status claims, from less to more. UNRANKED words are displayed, never compared."""

    UNRANKED = -1
    NONE = 0
    BLOCKED = 1
    ALGORITHM = 2
    FUNCTIONAL = 3
    DISCHARGED = 4

    @property
    def label(self) -> str:
        """The name in our output; for the three highest it is also the word that a status takes."""
        return "PARTIAL_ALGORITHM_LEVEL" if self is Maturity.ALGORITHM else self.name


_RANKS = {
    "": Maturity.NONE, "PROPOSED": Maturity.NONE, "PLANNED": Maturity.NONE, "PENDING": Maturity.NONE,
    "PARTIAL": Maturity.ALGORITHM, "PARTIAL_ALGORITHM_LEVEL": Maturity.ALGORITHM,
    "ALGORITHM_LEVEL_DISCHARGED": Maturity.ALGORITHM,
    "FUNCTIONAL": Maturity.FUNCTIONAL, "FUNCTIONAL_DISCHARGED": Maturity.FUNCTIONAL,
    "DISCHARGED": Maturity.DISCHARGED, "LIVE-DISCHARGED": Maturity.DISCHARGED,
}  # fmt: skip


def maturity_of(status: str) -> Maturity:
    """The rank of a falsifier's status as written; no status claims nothing."""
    word = status.strip().upper()
    return Maturity.BLOCKED if word.startswith(BLOCKER) else _RANKS.get(word, Maturity.UNRANKED)


def nearest_status(status: str) -> str:
    """The word of the ladder that an unranked status nearly is; empty where it is unlike all of them."""
    word = status.strip().upper().replace("-", "_").replace(" ", "_")
    if word.startswith(BLOCKER.removesuffix("ER_")):
        return f"{BLOCKER}…"
    near = get_close_matches(word, [known for known in _RANKS if known], 1, 0.85)
    return near[0] if near else ""


@dataclass(frozen=True, slots=True)
class Entry:
    """What every record of a contract has."""

    line: int
    lines: Mapping[str, int]
    extras: Extras

    def line_of(self, *fields: str) -> int:
        """The line of the first of `fields` that is written, else the line of the record itself."""
        return next((self.lines[field] for field in fields if field in self.lines), self.line)


@dataclass(frozen=True, slots=True)
class Metadata(Entry):
    """The head of a contract; `status` is the document's life cycle, which says nothing about its falsifiers.

    `vouches_for` applies to the falsifiers that have none of their own.
    """

    version: str
    description: str
    status: str
    kind: str | None
    registry: bool
    references: tuple[str, ...]
    depends_on: tuple[str, ...]
    binds_to: tuple[str, ...]
    vouches_for: tuple[str, ...]

    @property
    def dependencies(self) -> tuple[str, ...]:
        """The contracts in `depends_on`, each once, without the remark that may follow: `name-v1 (parent contract)`."""
        return tuple(dict.fromkeys(entry.split()[0] for entry in self.depends_on if entry.split()))


@dataclass(frozen=True, slots=True)
class Equation(Entry):
    name: str
    formula: str
    domain: str
    codomain: str
    invariants: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Obligation(Entry):
    """Something to be proved. Fields that may be None are not written then."""

    id: str
    type: str
    property: str
    formal: str
    applies_to: str
    requires: str | None
    applies_to_phase: str | None
    parent_contract: str | None
    lean_status: str | None
    na_reason: str | None
    na_owner: str | None


@dataclass(frozen=True, slots=True)
class Claim:
    """A status of a falsifier; `key` is the field that holds it (`status`, `discharge_status`, `status_v1_2_0`)."""

    key: str
    status: str
    line: int

    @property
    def maturity(self) -> Maturity:
        return maturity_of(self.status)


@dataclass(frozen=True, slots=True)
class StatedEvidence:
    """Evidence that the contract states in its field `key`: texts, or a mapping of lists (`parts`)."""

    key: str
    texts: tuple[str, ...]
    parts: Mapping[str, tuple[str, ...]]
    line: int


@dataclass(frozen=True, slots=True)
class CheckCall:
    """The built-in check that judges a falsifier, with its parameters as plain values."""

    name: str
    parameters: Mapping[str, Any]
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Blocker:
    """Something that a falsifier waits for: a `BLOCKER_*` status, or the text of a field that says so."""

    key: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Falsifier(Entry):
    """One falsification test. `legacy` marks entries of the older `falsification` list, which has other fields.

    `vouches_for` are the source files and folders that evidence for it covers, relative to the project.
    """

    id: str
    rule: str
    name: str
    prediction: str
    test: str
    if_fails: str
    claims: tuple[Claim, ...]
    binds_to: tuple[str, ...]
    evidence: tuple[StatedEvidence, ...]
    check: CheckCall | None
    blockers: tuple[Blocker, ...]
    vouches_for: tuple[str, ...]
    legacy: bool

    @property
    def test_lines(self) -> tuple[str, ...]:
        return tuple(self.test.strip().splitlines())

    @property
    def title(self) -> str:
        """The rule in words; the name where there is no rule."""
        return self.rule or self.name

    @property
    def status(self) -> str:
        """The claim as written, the highest of several; empty where nothing is claimed."""
        return max(self.claims, key=lambda claim: claim.maturity).status if self.claims else ""

    @property
    def maturity(self) -> Maturity:
        return maturity_of(self.status)


@dataclass(frozen=True, slots=True)
class Harness(Entry):
    """A bounded model checking harness."""

    id: str
    obligation: str
    bound: str


@dataclass(frozen=True, slots=True)
class QaGate(Entry):
    """The quality gate; any field may be empty, since free forms are in use."""

    id: str
    name: str
    checks: tuple[str, ...]
    pass_criteria: str


@dataclass(frozen=True, slots=True)
class Document(Entry):
    """A contract. `extras` are its top-level sections without a field here; `keys` all top-level keys in order;
    `refusal` the line and the reason where `pv` would not read it."""

    path: Path
    keys: tuple[str, ...]
    metadata: Metadata
    equations: tuple[Equation, ...]
    obligations: tuple[Obligation, ...]
    falsifiers: tuple[Falsifier, ...]
    harnesses: tuple[Harness, ...]
    qa_gate: QaGate | None
    duplicates: tuple[DuplicateKey, ...]
    refusal: tuple[int, str] | None

    @property
    def name(self) -> str:
        """The contract's name: the stem of its file."""
        return self.path.stem

    @property
    def life_cycle(self) -> str:
        """The status of the document as written, in its metadata or at the top; empty where there is none."""
        return self.metadata.status or str(self.extras.get("status") or "")

    @property
    def is_kernel(self) -> bool:
        """Whether the rules of kernels apply; without a kind they do, unless the contract is of the registry."""
        return not self.metadata.registry and self.metadata.kind in (None, "kernel")
