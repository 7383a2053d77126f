"""Scores and levels of a contract, as `pv score`, `pv proof-status` and the enforcement gate of `pv lint` define them.

They count what a contract writes down (equations, tests, harnesses, theorems, bindings) and say nothing about whether
anything holds: that is what evidence is for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from aprtui.contracts.audit.bindings import CREDIT, BindingRegistry
from aprtui.contracts.documents.document import Document, Falsifier, Harness, Obligation

WEIGHTS: Mapping[str, float] = {
    "specification": 0.20, "tests": 0.25, "harnesses": 0.25, "theorems": 0.10, "bindings": 0.20,
}  # fmt: skip
_GRADES = ((0.90, "A"), (0.75, "B"), (0.60, "C"), (0.40, "D"))
_STRATEGIES = {"exhaustive": 1.0, "bounded_int": 0.9, "stub_float": 0.8, "compositional": 0.7}
_NO_STRATEGY = 0.5
_DATA_ONLY = 0.5
"""The credit for theorems of a contract that is no kernel: there may be nothing to prove."""
NOT_APPLICABLE = "not-applicable"


class ProofLevel(IntEnum):
    """How far a contract can be proved by what it holds. Nothing here runs Lean, so L4 and L5 are never given."""

    L1 = 1
    L2 = 2
    L3 = 3


class EnforcementLevel(IntEnum):
    """What a contract holds, from less to more, in the words of `metadata.enforcement_level`."""

    BASIC = 1
    STANDARD = 2
    STRICT = 3
    PROVEN = 4

    @property
    def label(self) -> str:
        return self.name.lower()


LOCKS: Mapping[str, EnforcementLevel] = {
    "basic": EnforcementLevel.BASIC, "l1": EnforcementLevel.BASIC,
    "standard": EnforcementLevel.STANDARD, "l2": EnforcementLevel.STANDARD, "l3": EnforcementLevel.STANDARD,
    "strict": EnforcementLevel.STRICT, "l4": EnforcementLevel.STRICT,
    "proven": EnforcementLevel.PROVEN, "l5": EnforcementLevel.PROVEN,
}  # fmt: skip
"""The words of `metadata.locked_level`, without regard to case."""


@dataclass(frozen=True, slots=True)
class ContractScore:
    """A contract's share of each dimension of `WEIGHTS`, from 0 to 1."""

    shares: Mapping[str, float]

    @property
    def total(self) -> float:
        """The weighted sum of the shares."""
        return sum(WEIGHTS[name] * share for name, share in self.shares.items())

    @property
    def grade(self) -> str:
        return next((grade for least, grade in _GRADES if self.total >= least - 1e-9), "F")


def tests_of(document: Document) -> Sequence[Falsifier]:
    """The falsifiers that `pv` reads: those of the older dialect are none to it."""
    return [test for test in document.falsifiers if not test.legacy]


def score_of(document: Document, registry: BindingRegistry | None = None) -> ContractScore:
    """The score of a contract; without a registry, a kernel has no share of bindings."""
    bindings, theorems = _bindings(document, registry), theorem_share(document)
    if not document.is_kernel:
        bindings, theorems = 1.0, max(theorems, _DATA_ONLY)
    return ContractScore(
        {
            "specification": _specification(document),
            "tests": _covered(len(tests_of(document)), document),
            "harnesses": harness_share(document),
            "theorems": theorems,
            "bindings": bindings,
        }
    )


def _specification(document: Document) -> float:
    equations, metadata = document.equations, document.metadata
    parts = (
        (0.30, bool(equations)),
        (0.15, any("domain" in equation.lines for equation in equations)),
        (0.15, any(equation.invariants for equation in equations)),
        (0.15, document.extras.get("kernel_structure") is not None),
        (0.10, any(obligation.extras.get("tolerance") is not None for obligation in document.obligations)),
        (0.10, bool(metadata.references)),
        (0.05, bool(metadata.depends_on)),
    )
    return sum(share for share, there in parts if there)


def _covered(count: int, document: Document) -> float:
    total = len(document.obligations)
    return min(count, total) / total if total else float(count > 0)


def harness_share(document: Document) -> float:
    """The obligations that harnesses cover, each weighted by its strategy; one that CI ran counts fully."""
    total = len(document.obligations)
    if not total:
        return float(bool(document.harnesses))
    return min(sum(map(_weight, document.harnesses)) / total, 1.0)


def _weight(harness: Harness) -> float:
    if harness.extras.get("actually_verified") is True:
        return 1.0
    return _STRATEGIES.get(str(harness.extras.get("strategy")), _NO_STRATEGY)


def theorem_share(document: Document) -> float:
    """The share of theorems that their obligations call proved, of those that can be; 0 where there are none."""
    named = [
        lean for obligation in document.obligations if (lean := lean_status(obligation)) not in ("", NOT_APPLICABLE)
    ]
    return named.count("proved") / len(named) if named else 0.0


def lean_status(obligation: Obligation) -> str:
    """What an obligation says of its Lean proof: `sorry` where it does not say; empty without a theorem."""
    return (obligation.lean_status or "sorry") if "lean" in obligation.lines else ""


def names_a_theorem(document: Document) -> bool:
    """Whether some equation or obligation names a Lean theorem."""
    return any(equation.extras.get("lean_theorem") for equation in document.equations) or any(
        map(lean_status, document.obligations)
    )


def _bindings(document: Document, registry: BindingRegistry | None) -> float:
    entries = () if registry is None else registry.of(document)
    return sum(CREDIT[entry.status] for entry in entries) / len(entries) if entries else 0.0


def proof_level(document: Document) -> ProofLevel:
    """L2: as many tests as obligations, and at least one; L3: harnesses too; else L1."""
    total = len(document.obligations)
    if not total or len(tests_of(document)) < total:
        return ProofLevel.L1
    return ProofLevel.L3 if document.harnesses else ProofLevel.L2


def claims_proof(document: Document) -> bool:
    """Whether its summary claims a Lean proof of every obligation that can be proved (L4)."""
    proved, total = _summary(document, "l4_lean_proved"), len(document.obligations)
    return bool(total) and proved > 0 and proved + _summary(document, "l4_not_applicable") >= total


def _summary(document: Document, field: str) -> int:
    summary: Any = document.extras.get("verification_summary")
    value = summary.get(field) if isinstance(summary, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def enforcement_level(document: Document, registry: BindingRegistry | None = None) -> EnforcementLevel:
    """What a contract holds: a summary that claims theorems without a gap, all equations implemented by `registry`,
    tests and harnesses, or less."""
    if _summary(document, "l4_lean_proved") > 0 and not _summary(document, "l4_sorry_count"):
        return EnforcementLevel.PROVEN
    if not (tests_of(document) and document.harnesses):
        return EnforcementLevel.BASIC
    implemented = registry is not None and registry.implements(document)
    return EnforcementLevel.STRICT if implemented else EnforcementLevel.STANDARD
