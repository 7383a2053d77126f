"""The contracts of other projects are read and judged as their own tools do."""

from __future__ import annotations

from pathlib import Path

import pytest

from aprtui.contracts.documents.loading import contract_files
from aprtui.contracts.documents.reader import read_document
from aprtui.contracts.documents.validation import validate

pytestmark = pytest.mark.group("conformance")

# Files with findings; every other file has none. `ship-007` and `chat-template` as stated with the files; the six
# without a quality gate were looked at one by one: they are kernels by default and have no qa_gate.
FOUND = {
    "aprender/apr-ship-007-gpu-stage-bisection-v1.yaml": [("SCHEMA-012", 97)],
    "aprender/chat-template-v1.yaml": [("SCHEMA-018", 20)],
    "realizar/batch-inference-v1.yaml": [("SCHEMA-013", 1)],
    "realizar/dispatch-v1.yaml": [("SCHEMA-013", 1)],
    "realizar/gemm-v1.yaml": [("SCHEMA-013", 1)],
    "realizar/kv-cache-management-v1.yaml": [("SCHEMA-013", 1)],
    "realizar/matmul-v1.yaml": [("SCHEMA-013", 1)],
    "realizar/tokenizer-v1.yaml": [("SCHEMA-013", 1)],
}


@pytest.fixture
def folder(conformance: Path) -> Path:
    return conformance / "contracts"


def test_every_contract_is_read_and_judged(folder: Path) -> None:
    files = contract_files([folder])
    assert len(files) == 43
    for path in files:
        findings = [(finding.code, finding.line) for finding in validate(read_document(path))]
        assert findings == FOUND.get(str(path.relative_to(folder)), []), path


def test_numbers_of_entries_are_as_stated(folder: Path) -> None:
    counts = {
        path.stem: (len(read.equations), len(read.obligations), len(read.falsifiers), len(read.harnesses))
        for path in contract_files([folder / "aprender"])
        for read in (read_document(path),)
    }
    assert counts["apr-cli-trace-save-tensor-v1"] == (4, 4, 11, 0)
    assert counts["trace-attn-sub-stages-v1"] == (3, 5, 5, 0)
    assert counts["apr-vs-gguf-forward-parity-v1"] == (4, 6, 7, 3)
    assert counts["chat-template-v1"] == (3, 0, 4, 0)
    assert counts["apr-ship-007-gpu-stage-bisection-v1"] == (2, 3, 4, 1)


def test_statuses_are_as_stated(folder: Path) -> None:
    save = read_document(folder / "aprender" / "apr-cli-trace-save-tensor-v1.yaml")
    assert save.life_cycle == "PROPOSED"
    assert {test.id[-3:]: test.status for test in save.falsifiers if test.status} == {
        "009": "FUNCTIONAL", "010": "FUNCTIONAL", "011": "FUNCTIONAL",
    }  # fmt: skip
    substages = read_document(folder / "aprender" / "trace-attn-sub-stages-v1.yaml")
    assert substages.falsifiers[3].status == "BLOCKER_FIXTURE_ABSENT" and substages.falsifiers[3].blockers
