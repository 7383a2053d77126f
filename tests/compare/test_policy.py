"""Policies: the first rule that matches counts, a forgotten stage is an error, and mistakes are named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aprtui.compare.captures import Criteria, DiffOptions, compare_captures
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.policy import Policy, read_policy
from aprtui.compare.verdict import Verdict
from aprtui.errors import UsageError
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.compare.synthetic import scaled, write_capture

DOCUMENT = Path(__file__).parents[2] / "docs" / "policy.md"


def policy(folder: Path, text: str) -> Policy:
    path = folder / "policy.yaml"
    path.write_text(text)
    return read_policy(path)


def documented(folder: Path) -> Policy:
    example = re.search(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert example is not None
    return policy(folder, example.group(1))


def test_the_documented_example_reads_and_judges(tmp_path: Path) -> None:
    rules = documented(tmp_path)
    assert rules.allow_missing == ("ffn_silu",)
    bounds = rules.tolerances(Node(1, "attn_out"))
    assert [(bound.metric, bound.bound) for bound in bounds] == [(Metric.REL_L2, 1e-3), (Metric.COSINE, 0.999)]
    assert rules.tolerances(Node(2, "attn_out"))[0].metric is Metric.TOKEN_REL_L2
    a = Capture.open(write_capture(tmp_path / "a"))
    b = Capture.open(write_capture(tmp_path / "b", edits={Node(1, "attn_out"): scaled(1.01)}))
    result = compare_captures(a, b, DiffOptions(), None, Criteria(bounds=rules.tolerances))
    assert result.verdict is Verdict.FAIL
    assert result.first_divergence is not None
    assert result.first_divergence.verdict.node == Node(1, "attn_out")
    assert "the policy" in result.first_divergence.verdict.reason


def test_the_first_rule_that_matches_counts(tmp_path: Path) -> None:
    rules = policy(tmp_path, "rules: [{stage: ffn_up, bounds: {rms: 1}}, {stage: 'ffn_*', bounds: {rms: 2}}]")
    assert rules.tolerances(Node(0, "ffn_up"))[0].bound == 1
    assert rules.tolerances(Node(0, "ffn_gate"))[0].bound == 2


def test_a_stage_that_no_rule_matches_is_an_error(tmp_path: Path) -> None:
    rules = policy(tmp_path, "rules: [{stage: 'ffn_*', bounds: {rms: 1}}]")
    with pytest.raises(UsageError, match="no rule matches layer 3 attn_out"):
        rules.tolerances(Node(3, "attn_out"))


def test_aliases_are_the_stages_they_name(tmp_path: Path) -> None:
    rules = policy(tmp_path, "rules: [{stage: layer_output, bounds: {rms: 1}}]")
    assert rules.tolerances(Node(0, "post_ffn_residual"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected the fields"),
        ("[1, 2]", "expected the fields"),
        ("rules: []", "at least one rule"),
        ("rule: []", "no field 'rule'"),
        ("rules: [{stage: a}]", "rules\\[0\\]: the field bounds is missing"),
        ("rules: [{stage: a, bounds: {}}]", "expected metrics with their bounds"),
        ("rules: [{stage: a, bounds: {nothing: 1}}]", "rules\\[0\\].bounds: tolerance 'nothing=1'"),
        ("rules: [{stage: a, bounds: {rms: much}}]", "'much' is not a number"),
        ("rules: [{stage: a, layers: 5..3, bounds: {rms: 1}}]", "is empty"),
        ("rules: [{stage: 7, bounds: {rms: 1}}]", "expected names or globs"),
        ("rules: [{stage: a, bounds: {rms: 1}, why: x}]", "no field 'why'"),
        ("rules: [{stage: a, bounds: {rms: 1}}]\nallow_missing: x", "allow_missing: expected names"),
        ("rules: [\n", "line 2: not YAML"),
        ("a: &x [1]\nb: *x", "aliases are not allowed"),
        ("rules: !!python/object/apply:os.system [ls]", "line 1: the tag .* is not allowed"),
    ],
)
def test_a_mistake_is_named_with_file_and_field(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        policy(tmp_path, text)
    assert "policy.yaml" in str(error.value)


def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_policy(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="larger than"):
        policy(tmp_path, "#" * (1 << 20) + "\n")
