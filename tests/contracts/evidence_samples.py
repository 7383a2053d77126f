"""Evidence to read, count and lint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aprtui.compare.verdict import Verdict
from aprtui.contracts.checks.judgement import Relation
from aprtui.contracts.evidence.claim import claim_digest
from aprtui.contracts.evidence.files import CheckRun, EvidenceRecord, Host, JudgedOn, Revision
from tests.contracts.samples import document

CAPTURE = JudgedOn("capture", "m", "a" * 64, "aprtui", "0.1.0", "cpu", "a processor", "exact", ())
ORACLE = replace(CAPTURE, role="reference", engine="transformers")

PASSED = EvidenceRecord(
    contract="sample.yaml", contract_version="1.0", falsifier="FALSIFY-1",
    claim=claim_digest((), document().falsifiers[0]), date="2026-11-20T10:00:00Z",
    host=Host("here", "Linux 6", "x86_64", "a processor", None), program_version="0.1.0",
    revision=Revision("c" * 40, dirty=False), sources={}, judged_on=(CAPTURE,), live=True,
    check=CheckRun("byte_format", {}), test=("run it",), command="aprtui contracts check sample.yaml --id FALSIFY-1",
    output=("  PASS    FALSIFY-1",), verdict=Verdict.PASS, reason="all as declared", metric="wrong files",
    number=0.0, bound=0.0, relation=Relation.AT_MOST,
)  # fmt: skip


OTHER_MACHINE: dict[str, Any] = {
    "host": Host("here", "Linux 5", "x86_64", "another processor", None),
    "judged_on": (replace(CAPTURE, device="another processor"),),
}
"""What differs in a record of another machine: hardware and driver, not the name."""


def evidence(**changed: Any) -> EvidenceRecord:
    """A live PASS with provenance, with some fields changed; the number of a FAIL is beyond its bound."""
    if changed.get("verdict") is Verdict.FAIL:
        changed = {"number": 1.0, **changed}
    return replace(PASSED, **changed)
