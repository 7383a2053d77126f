"""What is wrong everywhere: it has a sentence of its own, passes nowhere, and hides no local fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison
from aprtui.compare.report.headline import headline
from aprtui.compare.verdict import Verdict
from aprtui.engine.evaluation.arithmetics import ARITHMETICS, EngineArithmetic, stage_tensors
from aprtui.engine.evaluation.bug_detection import buggy_tensors
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, write_kind
from aprtui.engine.evaluation.everywhere import EVERYWHERE
from aprtui.engine.evaluation.porting_bugs.table import PORTING_BUGS
from aprtui.engine.floors.criteria import criteria_by_model
from aprtui.engine.replay.arithmetic import UNROUNDED, Recomputation, parse_rounding
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.model import Model
from aprtui.trace.aprt import read_aprt
from aprtui.trace.capture import Capture
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node
from aprtui.trace.manifest import relative_path
from tests.engine.embedded_captures import TOKENS, edit
from tests.thinning import often

Array = NDArray[np.float32]
Make = Callable[..., Capture]
WRONG = {name: wrong for name, wrong in EVERYWHERE.items() if wrong.looks_like}
OFTEN = frozenset({"weights in fp8", "weights and inputs in int8", "inputs clamped at 20"})
"""One of weights, of inputs, and of limits; the others, and sums, are tried by the slow tests."""


@pytest.fixture
def capture_of(model: Model, evaluators: Evaluators, tmp_path: Path) -> Make:
    """A capture of an engine, with `change` made to the stages of its run."""

    def make(
        engine: EngineArithmetic, kind: str = "complete", change: Callable[[Node, Array], Array] = lambda _, v: v,
        name: str = "capture",
    ) -> Capture:  # fmt: skip
        tensors = stage_tensors(engine, model, TOKENS, evaluators, seed=len(name), change=change)
        return write_kind(CAPTURE_KINDS[kind], tensors, model.graph, TOKENS, tmp_path / name)

    return make


@pytest.fixture
def replayed(model: Model, evaluators: Evaluators) -> Callable[..., Comparison]:
    def run(capture: Capture, rounding: str = "") -> Comparison:
        stated = parse_rounding(rounding) if rounding else {}
        return replay_capture(capture, model, ReplayOptions(rounding=stated), evaluators)

    return run


@pytest.fixture
def diffed(
    model: Model, evaluators: Evaluators, capture_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Capture], Comparison]:
    """An honest float32 capture against another one, by the measured floor."""
    monkeypatch.setattr("aprtui.engine.floors.criteria.floor_cache", lambda: tmp_path / "floors")

    def run(capture: Capture) -> Comparison:
        honest = capture_of(ARITHMETICS["float32"], name="honest")
        criteria = criteria_by_model(honest, capture, model, TOKENS, evaluators)
        return compare_captures(honest, capture, DiffOptions(tokens=TOKENS), None, criteria)

    return run


@pytest.mark.parametrize("name", often(WRONG, OFTEN))
def test_what_is_wrong_everywhere_is_named_in_one_sentence(
    capture_of: Make, replayed: Callable[..., Comparison], diffed: Callable[[Capture], Comparison], name: str
) -> None:
    wrong = WRONG[name]
    capture = capture_of(wrong.engine)
    for result, side in ((replayed(capture), ""), (diffed(capture), "B: ")):
        assert result.verdict is (Verdict.UNKNOWN if wrong.may_be_meant else Verdict.FAIL)
        text = headline(result)
        assert text.startswith(side) and f"as {wrong.looks_like} do" in text
        assert ("all 21 matrix products err alike" in text) is (wrong.share == 1)
        assert (wrong.may_be_meant and "if that is meant" in text) or not wrong.may_be_meant


@pytest.mark.parametrize("name", often(WRONG, {"inputs clamped at 20"}))
def test_a_local_fault_on_top_of_it_is_named(
    capture_of: Make, replayed: Callable[..., Comparison], diffed: Callable[[Capture], Comparison], name: str
) -> None:
    """A product that is off by a half: no more than a few times what eight bits lose."""
    fault = Node(2, "attn_out")
    capture = capture_of(WRONG[name].engine, change=lambda n, v: v * np.float32(1.5) if n == fault else v)
    for result in (replayed(capture), diffed(capture)):
        assert result.verdict is Verdict.FAIL
        assert result.first_divergence is not None and result.first_divergence.verdict.node == fault
        assert f"besides, {'B: ' if result.everywhere[0].side else ''}" in headline(result)
        assert fault not in result.everywhere[0].nodes


def test_a_small_fault_shows_where_the_weights_are_reproduced(
    capture_of: Make, replayed: Callable[..., Comparison]
) -> None:
    """One part in a hundred, where the weights alone make two."""
    fault = Node(1, "ffn_up")
    capture = capture_of(WRONG["weights in fp8"].engine, change=lambda n, v: v * np.float32(1.01) if n == fault else v)
    divergence = replayed(capture).first_divergence
    assert divergence is not None and divergence.verdict.node == fault


@pytest.mark.parametrize(
    "name", often((name for name, wrong in WRONG.items() if wrong.rounding), OFTEN - {"weights in fp8"})
)
def test_what_is_stated_is_meant(capture_of: Make, replayed: Callable[..., Comparison], name: str) -> None:
    capture = capture_of(WRONG[name].engine)
    assert replayed(capture, WRONG[name].rounding).verdict is Verdict.PASS


def test_a_product_whose_weights_were_left_alone_is_no_fault(
    model: Model, evaluators: Evaluators, capture_of: Make, replayed: Callable[..., Comparison]
) -> None:
    """Engines that round weights often keep those of the logits."""
    capture = capture_of(WRONG["weights in fp8"].engine)
    head = Node(None, "lm_head")
    norm = next(source for source in model.graph.inputs(head))
    x = np.asarray(read_aprt(capture.path / relative_path(norm)).values).reshape(len(TOKENS), -1)[-1:]
    own = Recomputation(model, UNROUNDED, evaluators).evaluate(head, [x], TOKENS[-1:], len(TOKENS) - 1)
    edit(capture.path, head, lambda values: own.reshape(-1))
    result = replayed(capture)
    assert result.verdict is Verdict.UNKNOWN
    assert headline(result).startswith("20 of 21 matrix products err alike")


def test_the_cause_in_a_product_is_found_where_weights_are_in_16_bits_too(
    capture_of: Make, replayed: Callable[..., Comparison]
) -> None:
    """As a model of PyTorch is that was turned into bfloat16."""
    fault = Node(2, "attn_out")
    engine = EVERYWHERE["bf16, weights too"].engine
    capture = capture_of(engine, change=lambda n, v: v * np.float32(1.5) if n == fault else v)
    (cause,) = replayed(capture).causes
    assert cause.nodes == (fault,)
    assert cause.words == "multiplied by 1.5"


@pytest.mark.parametrize(
    "name", often((name for name, wrong in EVERYWHERE.items() if not wrong.looks_like), {"bf16, weights too"})
)
def test_types_that_a_matrix_unit_takes_together_need_no_word(
    capture_of: Make, replayed: Callable[..., Comparison], name: str
) -> None:
    result = replayed(capture_of(EVERYWHERE[name].engine))
    assert result.verdict is Verdict.PASS and not result.everywhere


def test_weights_that_nothing_explains_do_not_pass_by_their_own_floor(
    model: Model, capture_of: Make, replayed: Callable[..., Comparison], diffed: Callable[[Capture], Comparison]
) -> None:
    random = np.random.default_rng(1)

    def change(node: Node, values: Array) -> Array:
        is_product = model.graph[node.stage].op is Op.MATMUL
        return values * random.normal(1, 0.05, values.shape).astype(np.float32) if is_product else values

    capture = capture_of(ARITHMETICS["float32"], change=change)
    for result in (replayed(capture), diffed(capture)):
        assert result.verdict is Verdict.UNKNOWN
        assert "all 21 matrix products err alike, by 4.9 %" in headline(result)
        assert "other weights than MODEL's" in headline(result)


def test_an_error_of_all_norms_is_named_at_the_first_and_said_of_all(
    model: Model, capture_of: Make, replayed: Callable[..., Comparison]
) -> None:
    def change(node: Node, values: Array) -> Array:
        return values * np.float32(1.01) if model.graph[node.stage].op is Op.RMS_NORM else values

    result = replayed(capture_of(ARITHMETICS["float32"], change=change))
    assert result.verdict is Verdict.FAIL
    cause = "every layer attn_norm, ffn_norm and final_norm: multiplied by 1.01; that reproduces the capture to"
    assert headline(result).startswith(cause)


def test_a_manifest_that_states_the_weights_allows_no_others(
    model: Model, evaluators: Evaluators, exact: Path, capture_of: Make
) -> None:
    wrong = capture_of(WRONG["weights in fp8"].engine)
    manifest = Capture.open(exact).manifest
    assert manifest is not None
    unchecked = {path: replace(info, crc32=None) for path, info in manifest.files.items()}
    stated = replace(wrong, manifest=replace(manifest, files=unchecked))
    result = replay_capture(stated, model, ReplayOptions(), evaluators)
    assert result.verdict is Verdict.FAIL
    assert result.everywhere and not result.everywhere[0].may_be_meant
    assert "as weights in fp8 (e4m3) with one scale a tensor do; first at layer 0 qkv_matmul" in headline(result)


_TAIL = ("tail of the columns left out", "as products that do not sum the last 32 inputs of each row do")
_LIMITS = ("inputs of products clamped", "each product's at a limit of its own, do")


@pytest.mark.parametrize(
    ("engine", "bug", "looks_like"),
    [
        ("float32", *_TAIL), pytest.param("llama.cpp, f16 K/V", *_TAIL, marks=pytest.mark.slow),
        pytest.param("bfloat16", *_TAIL, marks=pytest.mark.slow),
        pytest.param("float32", *_LIMITS, marks=pytest.mark.slow), ("bfloat16", *_LIMITS),
    ],
)  # fmt: skip
def test_what_no_product_sums_and_limits_of_each_are_named_and_fail(
    model: Model, evaluators: Evaluators, tmp_path: Path, replayed: Callable[..., Comparison], engine: str, bug: str,
    looks_like: str,
) -> None:  # fmt: skip
    tensors = buggy_tensors(PORTING_BUGS[bug], ARITHMETICS[engine], model, TOKENS, evaluators)
    result = replayed(write_kind(CAPTURE_KINDS["complete"], tensors, model.graph, TOKENS, tmp_path / "capture"))
    assert result.verdict is Verdict.FAIL
    assert "all 21 matrix products err alike" in headline(result) and looks_like in headline(result)


def test_an_honest_engine_has_no_such_finding(capture_of: Make, replayed: Callable[..., Comparison]) -> None:
    for name in ("float32", "llama.cpp, f16 K/V", "TF32", "bfloat16, float32 residual"):
        assert replayed(capture_of(ARITHMETICS[name], name=name)).everywhere == ()


def test_progress_says_which_candidate_is_tried(model: Model, evaluators: Evaluators, capture_of: Make) -> None:
    said: list[tuple[str, int, int]] = []
    replay_capture(
        capture_of(ARITHMETICS["bfloat16, float32 residual"]), model, ReplayOptions(), evaluators,
        lambda *state: said.append(state),
    )  # fmt: skip
    tried = [state for state in said if state[0].startswith("trying")]
    assert tried and all(0 <= done < total for _, done, total in tried)
    assert any("kv_cache=bf16" in text and "f32 residual" in text for text, _, _ in tried)


def test_a_limit_that_nothing_reaches_is_no_limit(capture_of: Make, replayed: Callable[..., Comparison]) -> None:
    engine = EngineArithmetic(replace(UNROUNDED, input_limit="1e6"))
    assert replayed(capture_of(engine)).verdict is Verdict.PASS
