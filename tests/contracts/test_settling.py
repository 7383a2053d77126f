"""What an UNKNOWN lacks, and the commands that settle it."""

from __future__ import annotations

from pathlib import Path

import pytest

from aprtui.compare.verdict import Verdict
from aprtui.contracts.checks.arguments import CheckSubject
from aprtui.contracts.checks.judgement import Judgement, no_device, not_testable, unknown
from aprtui.contracts.documents.document import CheckCall
from aprtui.contracts.documents.loading import load_documents
from aprtui.contracts.panel import panel
from aprtui.contracts.settling import Lack, settling
from aprtui.resources import contracts as own_contracts
from aprtui.trace.capture import Capture
from tests.compare.synthetic import write_capture

CONTRACT = """\
metadata: {version: 1.0.0, status: PROPOSED, kind: schema, references: [none]}
equations:
  bytes: {formula: "count = product of the shape"}
falsification_tests:
  - id: A-1
    rule: parity
    prediction: both are alike
    test: |
      aprtui trace --save-tensor-dir REFERENCE

      aprtui trace --save-tensor-dir CAPTURE
    check: {name: cosine_floor, stages: [ffn_gate], at_least: 0.99}
  - id: A-2
    rule: the model says something new
    check: {name: throughput_floor, at_least: 1}
  - id: A-3
    binds_to: bytes
  - id: A-4
    rule: "a rule over\\n two lines"
    prediction: more
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alpha-v1.yaml").write_text(CONTRACT)
    return tmp_path / "alpha-v1.yaml"


def lacks(path: Path, capture: Path | None = None) -> dict[str, tuple[Lack, tuple[str, ...]]]:
    (document,) = load_documents((path,)).readable
    rows = tuple(panel(document, None if capture is None else Capture.open(capture)))
    return {row.falsifier.id: (row.settling.lack, row.settling.commands) for row in rows if row.settling is not None}


def test_each_lack_has_the_commands_that_settle_it(path: Path) -> None:
    test = ("aprtui trace --save-tensor-dir REFERENCE", "aprtui trace --save-tensor-dir CAPTURE")
    assert lacks(path) == {
        "A-1": (Lack.CAPTURE, test),
        "A-2": (Lack.RUN, ("aprtui contracts check alpha-v1.yaml --id A-2 --model MODEL",)),
        "A-3": (Lack.CHECK, ()),
        "A-4": (Lack.CHECK, ()),
    }
    write_capture(path.parent / "one")
    assert lacks(path, path.parent / "one")["A-1"] == (Lack.REFERENCE, test)


def test_a_verdict_lacks_nothing_and_a_device_needs_one(path: Path) -> None:
    (document,) = load_documents((path,)).readable
    falsifier, call = document.falsifiers[0], CheckCall("cosine_floor", {})
    write_capture(path.parent / "one")
    one = Capture.open(path.parent / "one")
    both = CheckSubject(one, one)
    for verdict in (Verdict.PASS, Verdict.FAIL):
        assert settling(document, falsifier, call, Judgement(verdict, ""), both) is None
    found = [
        settling(document, falsifier, call, judgement, both)
        for judgement in (no_device("none"), not_testable("moe_router"), unknown("odd"))
    ]
    assert [each.lack for each in found if each is not None] == [Lack.DEVICE, Lack.OTHER_CAPTURE, Lack.OTHER_CAPTURE]


def test_what_is_about_another_subject_or_cannot_fail_says_so(path: Path) -> None:
    (document,) = load_documents((path,)).readable
    falsifier, one = document.falsifiers[0], CheckSubject(Capture.open(write_capture(path.parent / "one")))
    other = unknown("holds for model demo, the claim is about model qwen2*: 3 files")
    for call, judgement, lack in (
        (CheckCall("byte_format", {}), other, Lack.SUBJECT),
        (CheckCall("cosine_floor", {"at_least": -1}), unknown("vacuous, no cosine is below -1"), Lack.BOUND),
    ):
        found = settling(document, falsifier, call, judgement, one)
        assert found is not None and found.lack is lack


def test_our_own_contracts_need_neither_path_nor_model() -> None:
    documents = load_documents((own_contracts(),)).readable
    runs = [row.settling for document in documents for row in panel(document) if row.settling is not None]
    commands = {command for each in runs if each.lack is Lack.RUN for command in each.commands}
    assert commands and all(command.startswith("aprtui contracts check --id APRTUI-") for command in commands)


def test_a_rule_is_a_sentence_on_one_line(path: Path) -> None:
    (document,) = load_documents((path,)).readable
    assert [row.sentence for row in panel(document)] == [
        "parity: both are alike", "the model says something new", "count = product of the shape",
        "a rule over two lines",
    ]  # fmt: skip
