"""A panel's rows: claims as written, the stages they are about, and the judgement on the current capture."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aprtui.compare.verdict import Verdict
from aprtui.contracts.binding import bind
from aprtui.contracts.checks.mapping import own_mapping, read_mapping
from aprtui.contracts.documents.document import CheckCall, ContractError
from aprtui.contracts.documents.loading import load_documents
from aprtui.contracts.documents.reader import read_document
from aprtui.contracts.panel import panel
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.compare.synthetic import write_capture
from tests.contracts.captures import NAN_AT, nan_capture
from tests.contracts.samples import SOUND, document, edited

SAVE_TENSOR = "apr-cli-trace-save-tensor-v1.yaml"


def bound(fields: str, equations: str = "", check: CheckCall | None = None) -> str:
    read = document(f"falsification_tests:\n- id: X\n{fields}\nequations: {{{equations}}}\n")
    binding = bind(read, read.falsifiers[0], check)
    if not binding.stages:
        return "no stage"
    layers = f"layer {', '.join(map(str, sorted(binding.layers)))} " if binding.layers is not None else ""
    return f"{layers}{', '.join(binding.stages)}{' (inferred)' if binding.inferred else ''}"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("  binds_to: ffn_gate", "ffn_gate"),
        ("  prediction: layer 3 ffn_gate is off", "layer 3 ffn_gate (inferred)"),
        ("  test: cmp A/layer-0/embedding.bin B/layer-0/embedding.bin", "layer 0 embedding (inferred)"),
        ("  rule: all of attention and its embedding hold", "no stage"),
        ("  rule: stages [attn_norm,attention]", "attn_norm, attention (inferred)"),
        ("  prediction: AttnScores then LmHead", "attn_scores, lm_head (inferred)"),
        ("  rule: layer_output agrees", "post_ffn_residual (inferred)"),
        ("  rule: nothing", "no stage"),
    ],
)
def test_stages_are_those_bound_else_those_read_out_of_the_text(fields: str, expected: str) -> None:
    assert bound(fields) == expected


def test_a_check_says_what_is_meant_whatever_the_text_mentions() -> None:
    call = CheckCall("cosine_floor", {"stages": ["ffn_u*", "ffn_o*"], "layers": "0..2"})
    found = bound("  rule: lm_head", check=call)
    assert found == "layer 0, 1 ffn_up, ffn_out"


def test_a_bound_equation_is_read_where_the_falsifier_itself_names_no_stage() -> None:
    assert bound("  binds_to: chain", "chain: {formula: cos(attn_out)}") == "attn_out (inferred)"


def test_a_row_has_claims_cells_and_a_judgement(tmp_path: Path) -> None:
    capture = Capture.open(write_capture(tmp_path / "x"))
    read = document(edited("    status: FUNCTIONAL", "    status: FUNCTIONAL\n    check: byte_format"))
    first, second = panel(read, capture)
    assert (first.life_cycle, first.falsifier.status) == ("ACTIVE", "FUNCTIONAL")
    assert first.judgement is not None and first.judgement.verdict is Verdict.PASS
    assert first.nodes == capture.graph.nodes
    assert second.check is None and second.judgement is None


def test_without_a_capture_rows_are_there_and_nothing_that_needs_one_is_judged() -> None:
    read = document(edited("    status: FUNCTIONAL", "    check: {name: byte_format, stages: [ffn_up]}"))
    first, _ = panel(read)
    assert first.judgement is not None and first.judgement.verdict is Verdict.UNKNOWN
    assert first.nodes == () and first.binding.stages == ("ffn_up",)


def test_what_was_not_captured_shows_as_not_testable_with_its_cells(tmp_path: Path) -> None:
    path = write_capture(tmp_path / "x", without=[Node(n, "ffn_gate") for n in range(3)], unplanned=("ffn_gate",))
    read = document(edited("    status: FUNCTIONAL", "    check: {name: byte_format, stages: [ffn_gate], layers: 1}"))
    row = next(panel(read, Capture.open(path)))
    assert row.judgement is not None and not row.judgement.testable
    assert row.nodes == (Node(1, "ffn_gate"),)


@pytest.mark.group("conformance")
def test_nan_preservation_of_the_real_contract_is_judged_and_lights_its_cells(
    conformance: Path, tmp_path: Path
) -> None:
    read = read_document(conformance / "contracts" / "aprender" / SAVE_TENSOR)
    cells = (NAN_AT, Node(1, "ffn_silu"), Node(1, "ffn_swigl"))
    rows = {row.falsifier.id[-3:]: row for row in panel(read, nan_capture(tmp_path / "x", cells))}
    judgement = rows["006"].judgement
    assert judgement is not None and (judgement.verdict, judgement.number) == (Verdict.PASS, 0)
    assert rows["006"].nodes == cells
    assert rows["001"].judgement is None
    lost = {row.falsifier.id[-3:]: row for row in panel(read, nan_capture(tmp_path / "y", ()))}["006"]
    assert lost.judgement is not None and lost.judgement.verdict is Verdict.FAIL and lost.nodes == (NAN_AT,)


ELSEWHERE = {
    "FALSIFY-QA-SHIP-006", "FALSIFY-EX-001",  # apr-model-qa-v1 1.6.0
    "FALSIFY-QW2E-SHIP-002", "FALSIFY-QW2E-SHIP-007",  # qwen2-e2e-verification-v1 1.12.0
    "FALSIFY-CPU-GPU-014",  # apr-cpu-vs-gpu-output-parity-v1 1.11.0
}  # fmt: skip
"""Ids of contracts, or of later versions of them, that the folder does not hold."""


@pytest.mark.group("conformance")
def test_every_falsifier_that_our_mapping_names_is_in_the_real_contracts(conformance: Path) -> None:
    documents = load_documents([conformance / "contracts" / "aprender"]).readable
    known = {test.id for read in documents for test in read.falsifiers}
    assert not ELSEWHERE & known
    assert set(own_mapping()) <= known | ELSEWHERE
    for read in documents:
        for row in panel(read):
            assert row.judgement is None or "takes no" not in row.judgement.reason


def test_a_contract_edited_on_disk_is_read_again_and_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SOUND)
    (tmp_path / "b.yaml").write_text(SOUND)
    before = load_documents([tmp_path])
    assert before.refreshed() is before
    (tmp_path / "b.yaml").write_text(edited("status: ACTIVE", "status: DRAFTED"))
    after = before.refreshed()
    assert [read.life_cycle for read in after.readable] == ["ACTIVE", "DRAFTED"]
    assert after.files[0].document is before.files[0].document


def test_screens_that_show_the_same_contracts_read_them_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SOUND)
    first, second = load_documents([tmp_path]), load_documents([tmp_path])
    assert first.files[0].document is second.files[0].document


def test_a_replaced_file_of_the_same_size_and_time_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(SOUND)
    before = load_documents([path])
    status = path.stat()
    fresh = tmp_path / "fresh"
    fresh.write_text(edited("ACTIVE", "ACTIVATED"[:6]))
    os.utime(fresh, ns=(status.st_atime_ns, status.st_mtime_ns))
    fresh.replace(path)
    assert before.refreshed() is not before


def test_files_that_break_come_and_go_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(SOUND)
    documents = load_documents([tmp_path])
    path.write_text("a: [\n")
    documents = documents.refreshed()
    assert documents.readable == () and "a.yaml:2: not YAML" in (documents.files[0].error or "")
    assert documents.refreshed() is documents
    path.write_text(SOUND)
    assert len(documents.refreshed().readable) == 1
    path.unlink()
    documents = documents.refreshed()
    assert documents.files == () and "holds no .yaml file" in (documents.error or "")
    gone = load_documents([tmp_path / "gone.yaml"])
    assert gone.refreshed() is gone and "No such file" in (gone.files[0].error or "")


def test_a_mapping_is_read_and_a_broken_one_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text("A: byte_format\nB: {check: cosine_floor, at_least: 0.9}\n")
    found = read_mapping(path)
    assert found["A"].name == "byte_format" and found["B"].parameters == {"at_least": 0.9}
    path.write_text("A: byte_format\nB: {at_least: 0.9}\n")
    with pytest.raises(ContractError, match=r"map\.yaml:2: B: names no check"):
        read_mapping(path)
    path.write_text("A: byte_format\nA: determinism\n")
    with pytest.raises(ContractError, match=r"map\.yaml:2"):
        read_mapping(path)
