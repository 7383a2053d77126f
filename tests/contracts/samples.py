"""A contract of a kernel that breaks no rule, to be made wrong one edit at a time."""

from __future__ import annotations

from pathlib import Path

from aprtui.contracts.documents.document import Document
from aprtui.contracts.documents.reader import document_of
from aprtui.yaml_file import parse_yaml

PATH = Path("sample.yaml")

SOUND = """\
metadata:
  version: 1.0
  created: 2026-11-24
  description: A sample
  status: ACTIVE
  references:
    - a book
  depends_on: [base-v1]
equations:
  scaled:
    formula: y = a * x
    domain: all x
proof_obligations:
  - id: OB-1
    type: invariant
    property: y is finite
    formal: isfinite(y)
  - id: OB-2
    type: subcontract
    property: y keeps the base
    formal: base(y)
    parent_contract: base-v1
falsification_tests:
  - id: FALSIFY-1
    rule: finite
    prediction: no NaN
    test: run it
    if_fails: a is not finite
    status: FUNCTIONAL
  - id: FALSIFY-2
    rule: scaled
    prediction: twice the input
    test: run it
    if_fails: a is wrong
kani_harnesses:
  - id: KANI-1
    obligation: OB-1
    bound: 4
  - id: KANI-2
    obligation: OB-2
    bound: 4
qa_gate:
  id: GATE-1
  name: the gate
"""


def document(text: str = SOUND) -> Document:
    """The document that `text` holds."""
    return document_of(parse_yaml(text, PATH))


def edited(old: str, new: str) -> str:
    """The sound contract with the first `old` replaced by `new`; `old` must occur."""
    assert old in SOUND, f"{old!r} is not in the sample"
    return SOUND.replace(old, new, 1)


def line_of(text: str, marker: str) -> int:
    """The first line of `text` that contains `marker`."""
    return next(number for number, line in enumerate(text.splitlines(), 1) if marker in line)
