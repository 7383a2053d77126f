"""Token ids come before any number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.align.tokens import align_tokens
from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict, parse_tolerance
from aprtui.engine.rounding import round_bf16, round_f16
from aprtui.errors import UsageError
from aprtui.trace.capture import PROVENANCE, Capture
from aprtui.trace.graph.stage import Node
from aprtui.trace.manifest import read_manifest, write_manifest
from tests.compare.synthetic import NODES, TOKENS, Edit, changed, scaled, write_capture

LOOSE = DiffOptions(tolerances=(parse_tolerance("rel_l2=1e-6"),))
EMBEDDING = Node(0, "embedding")


def compare(a: Path, b: Path, options: DiffOptions = LOOSE) -> Comparison:
    return compare_captures(Capture.open(a), Capture.open(b), options)


def test_ids_of_a_provenance_file_align_with_those_of_a_manifest(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", manifest=False)
    (b / PROVENANCE).write_text(f"# reference\ntokens: {list(TOKENS)}\n")
    result = compare(a, b)
    assert result.verdict is Verdict.PASS
    assert result.alignment.sources == ("manifest", PROVENANCE)


def test_differing_ids_compare_the_common_prefix_and_judge_nothing(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", tokens=(*TOKENS[:3], 8, 8), edits={Node(1, "ffn_up"): changed((1, 1), 99.0)})
    result = compare(a, b)
    assert result.verdict is Verdict.UNKNOWN
    assert "position 3" in result.reasons[0]
    assert result.alignment.aligned == 3
    # The edit lies in the prefix and is shown; lm_head holds another position and is not compared.
    assert [s.node for s in result.stages if s.verdict.verdict is Verdict.FAIL] == [Node(1, "ffn_up")]
    assert result.compared == NODES - 1


def test_differing_ids_without_a_common_prefix_compare_nothing(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    result = compare(a, write_capture(tmp_path / "b", tokens=(1, *TOKENS[1:])))
    assert (result.verdict, result.compared, result.alignment.aligned) == (Verdict.UNKNOWN, 0, 0)


def test_shorter_run_of_the_same_tokens_can_fail_but_not_pass(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", tokens=TOKENS[:4])
    result = compare(a, b)
    assert (result.verdict, result.alignment.aligned) == (Verdict.UNKNOWN, 4)
    assert "A holds 5 tokens, B 4" in result.reasons[0]
    c = write_capture(tmp_path / "c", tokens=TOKENS[:4], edits={Node(1, "ffn_up"): changed((1, 1), 99.0)})
    assert compare(a, c).verdict is Verdict.FAIL


def test_same_tokens_at_other_positions_are_not_comparable(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b")
    manifest = read_manifest(b)
    assert manifest is not None
    write_manifest(b, replace(manifest, positions=(0, 1, 3, 4, 5)))
    result = compare(a, b)
    assert result.verdict is Verdict.UNKNOWN
    assert "other positions from token 2" in result.reasons[0]


def test_equal_embeddings_align_where_no_ids_are_recorded(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a", manifest=False)
    b = write_capture(tmp_path / "b", manifest=False, edits={EMBEDDING: scaled(1 + 5e-7)})
    result = compare(a, b)
    assert result.alignment.sources == ("embedding", "embedding")
    assert (result.verdict, result.alignment.aligned) == (Verdict.PASS, len(TOKENS))


@pytest.mark.parametrize("kept", [round_f16, round_bf16])
def test_embeddings_align_of_which_one_is_kept_in_16_bits(tmp_path: Path, kept: Edit) -> None:
    a = write_capture(tmp_path / "a", manifest=False)
    b = write_capture(tmp_path / "b", manifest=False, edits={EMBEDDING: kept})
    for result in (compare(a, b), compare(b, a)):
        assert result.alignment.sources == ("embedding", "embedding")
        assert result.compared == NODES


def test_embeddings_in_16_bits_of_other_tokens_do_not_align(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a", manifest=False)
    b = write_capture(
        tmp_path / "b", manifest=False, edits={EMBEDDING: lambda v: round_bf16(v[[1, *range(1, len(v))]])}
    )
    assert compare(a, b).compared == 0


@pytest.mark.parametrize("side", ["differs", "missing"])
def test_nothing_is_compared_where_nothing_aligns(tmp_path: Path, side: str) -> None:
    a = write_capture(tmp_path / "a", manifest=False)
    if side == "differs":
        b = write_capture(tmp_path / "b", manifest=False, edits={EMBEDDING: scaled(1.001)})
    else:
        b = write_capture(tmp_path / "b", manifest=False, without=[EMBEDDING])
    result = compare(a, b)
    assert (result.verdict, result.compared) == (Verdict.UNKNOWN, 0)
    assert "--tokens" in result.reasons[0]
    stated = compare(a, b, replace(LOOSE, tokens=TOKENS))
    assert stated.alignment.sources == ("--tokens", "--tokens")
    assert stated.verdict is (Verdict.FAIL if side == "differs" else Verdict.UNKNOWN)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (lambda values: 0 * values, "constant"),
        (lambda values: 0 * values + np.float32(0.25), "constant"),
        (lambda values: np.tile(values[:1], (len(TOKENS), 1)), "one row"),
        (changed((2, 3), np.nan), "NaN or Inf"),
        (changed((2, 3), np.inf), "NaN or Inf"),
    ],
)
@pytest.mark.parametrize("counted", [True, False])
def test_embedding_that_tells_no_tokens_apart_proves_nothing(
    tmp_path: Path, values: Edit, problem: str, counted: bool
) -> None:
    # Without attn_softmax nothing tells how many tokens, and so how many rows, there are.
    without = [] if counted else [Node(layer, "attn_softmax") for layer in range(3)]
    a = write_capture(tmp_path / "a", manifest=False, without=without, edits={EMBEDDING: values})
    result = compare(a, a)
    assert (result.verdict, result.compared) == (Verdict.UNKNOWN, 0)
    assert problem in result.reasons[0]
    assert compare(a, a, replace(LOOSE, tokens=TOKENS)).compared > 0


def test_embedding_of_one_token_is_proof_enough(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a", manifest=False, tokens=TOKENS[:1])
    assert compare(a, a).verdict is Verdict.PASS


def test_embedding_that_was_not_written_proves_nothing(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a", complete=False)
    (a / "layer-0/embedding.bin").write_bytes(bytes(100))
    result = compare(a, write_capture(tmp_path / "b", manifest=False))
    assert (result.verdict, result.compared) == (Verdict.UNKNOWN, 0)
    assert "A has no embedding stage" in result.reasons[0]


def test_stated_ids_that_contradict_a_capture_are_a_usage_error(tmp_path: Path) -> None:
    a = Capture.open(write_capture(tmp_path / "a"))
    b = Capture.open(write_capture(tmp_path / "b", manifest=False))
    with pytest.raises(UsageError, match="position 4"):
        align_tokens(a, b, (*TOKENS[:4], 8))
    with pytest.raises(UsageError, match="4 ids given"):
        align_tokens(b, b, TOKENS[:4])


def test_attention_maps_need_a_token_count(tmp_path: Path) -> None:
    softmax = [Node(layer, "attn_softmax") for layer in range(3)]  # the token count is inferred from these
    a = write_capture(tmp_path / "a", manifest=False, without=softmax)
    b = write_capture(tmp_path / "b", manifest=False, without=softmax)
    result = compare(a, b)
    assert {skip.node.stage for skip in result.skipped} == {"attn_scores"}
    assert result.verdict is Verdict.UNKNOWN
    assert compare(a, b, replace(LOOSE, tokens=TOKENS)).verdict is Verdict.PASS
