"""A walk of a long text: honest engines raise nothing, faults are marked at their token, flips may be noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.verdict import Verdict
from aprtui.engine.capturing import CaptureRequest, write_window
from aprtui.engine.faults.faults import FaultInjector, parse_fault
from aprtui.engine.opening import open_engine
from aprtui.engine.parity import prompt_of
from aprtui.engine.protocol import Engine, KvType, Logits, Mode
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.engine.scanning.against import Against, level_of, parse_against
from aprtui.engine.scanning.figures import PositionFigures, error_figures, log_softmax, row_figures
from aprtui.engine.scanning.jumps import JumpRule, error_bounds, find_jumps, is_beyond_noise, normal_bound
from aprtui.engine.scanning.stored import logits_of_capture
from aprtui.engine.scanning.summary import ScanFinding, judge
from aprtui.engine.scanning.walk import EngineLogits, Walked, walk
from aprtui.errors import UnreadableError, UsageError
from aprtui.model.model import Model
from aprtui.progress import no_progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.engine.embedded_captures import captured

VOCABULARY = 1000


def honest(count: int, error: float = 0.05, seed: int = 0) -> list[PositionFigures]:
    """Figures of a walk whose errors are log-normal, as measured ones are."""
    random = np.random.default_rng(seed)
    errors = error * np.exp(0.4 * random.standard_normal(count))
    return [
        PositionFigures(at, 7, float(random.uniform(0, 4)), 2.0, 7, None, None, float(size), 1e-3, 0.0, 3.0)
        for at, size in enumerate(errors)
    ]


def test_hundreds_of_honest_walks_raise_nothing() -> None:
    assert [seed for seed in range(100) if find_jumps(honest(128, seed=seed), VOCABULARY, 1.0)] == []


def test_one_token_and_a_change_of_all_behind_are_marked_where_they_are() -> None:
    figures = honest(200)
    alone = [*figures[:120], replace(figures[120], error=4.0), *figures[121:]]
    (jump,) = find_jumps(alone, VOCABULARY)
    assert (jump.position, jump.rule, jump.tokens) == (120, JumpRule.ERROR, 1)
    shifted = [replace(one, error=5 * (one.error or 0)) if one.position >= 90 else one for one in figures]
    (jump,) = find_jumps(shifted, VOCABULARY)
    assert 90 <= jump.position <= 93 and "16 tokens together" in jump.said and jump.tokens > 50


def test_flips_within_the_noise_of_the_logits_are_no_divergence() -> None:
    figures = honest(100)
    bounds = error_bounds(figures)
    assert bounds is not None
    near, far = (replace(figures[50], lead=factor * float(bounds.bounds[50])) for factor in (1.0, 1.5))
    assert not is_beyond_noise(near, bounds.bounds[50]) and is_beyond_noise(far, bounds.bounds[50])
    assert find_jumps([*figures[:50], near, *figures[51:]], VOCABULARY) == []
    (jump,) = find_jumps([*figures[:50], far, *figures[51:]], VOCABULARY)
    assert jump.position == 50 and "another first token" in jump.said


def test_a_model_that_knows_nothing_any_more_is_marked_without_a_reference() -> None:
    plain = [replace(one, error=None, scale=None, lead=None) for one in honest(100)]
    assert find_jumps(plain, VOCABULARY) == []
    lost = [replace(one, entropy=5.5) if one.position >= 60 else one for one in plain]
    (jump,) = find_jumps(lost, VOCABULARY)
    assert (jump.position, jump.rule) == (60, JumpRule.ENTROPY)
    (jump,) = find_jumps([*plain[:30], replace(plain[30], entropy=6.8), *plain[31:]], VOCABULARY)
    assert jump.position == 30


def test_an_error_from_the_first_token_on_is_held_to_what_differs() -> None:
    assert [jump.rule for jump in find_jumps(honest(60), VOCABULARY, 0.01)] == [JumpRule.LEVEL]
    assert find_jumps(honest(60), VOCABULARY, 0.2) == []
    assert error_bounds(honest(7)) is None
    assert normal_bound(512) == pytest.approx(6.94, abs=0.05)


def test_figures_of_rows_that_are_no_distribution_are_nan() -> None:
    logits = np.array([[1, 2, 4], [np.nan, 0, 0], [-np.inf, 0, 1]], np.float32)
    found = row_figures(logits)
    p = np.exp(log_softmax(logits[:1]))[0]
    assert found.entropy[0] == pytest.approx(-(p * np.log(p)).sum()) and found.margin.tolist()[0] == 2
    assert np.isnan(found.entropy[1]) and np.isnan(found.margin[1]) and np.isfinite(found.entropy[2])
    against = error_figures(logits, found.log_p, np.array([[1, 2, 4], [0, 0, 0], [-np.inf, 2, 1]], np.float32))
    assert against.error[0] == 0 and against.kl[0] == 0 and against.lead.tolist()[2] == 1
    assert np.isnan(against.error[1]) and np.isnan(against.kl[1])
    shifted = error_figures(logits[:1], found.log_p[:1], logits[:1] + 3)
    assert shifted.error[0] == pytest.approx(0, abs=1e-6) and shifted.kl[0] == pytest.approx(0, abs=1e-9)


Scan = Callable[..., tuple[Walked, ScanFinding]]


@pytest.fixture
def scan(model: Model) -> Iterator[Scan]:
    """Scans the embedded model, against another setting where one is given."""
    with ExitStack() as stack:

        def opened(mode: Mode, kv: KvType, *faults: str) -> Engine:
            injector = FaultInjector(model, mode, [parse_fault(text, model) for text in faults]) if faults else None
            return stack.enter_context(
                closing(
                    open_engine(model, backend="cpu", mode=mode, kv=kv, threads=2, context=200, intervention=injector)
                )
            )

        def run(
            *faults: str, mode: Mode = Mode.Q8, kv: KvType = KvType.F32, against: Against | None = None,
            tokens: Sequence[int] = tuple(prompt_of(model, 64)), generated: int = 0,
        ) -> tuple[Walked, ScanFinding]:  # fmt: skip
            scanned = opened(mode, kv, *faults)
            other = None if against is None else opened(against.mode or mode, against.kv or kv)
            source = None if other is None else EngineLogits(other, against is not None and against.path == "decode")
            walked = walk(scanned, tokens, generated, frozenset(), source, no_progress)
            return walked, judge(model, walked, scanned, other, source is not None, no_progress)

        yield run


def test_honest_engines_raise_nothing(scan: Scan) -> None:
    for against in (Against(mode=Mode.EXACT), Against(path="decode"), Against(kv=KvType.F16)):
        _, found = scan(against=against, generated=24)
        assert found.verdict is Verdict.PASS, found
        assert found.error is not None and found.flips_beyond == 0
    assert scan(against=Against(path="decode"))[1].error_largest == 0


def test_a_fault_is_marked_at_its_token(scan: Scan) -> None:
    stale = "layer=2,stage=ffn_gate,kind=stale-row,token=50"
    for against in (Against(), Against(path="decode")):
        _, found = scan(stale, against=against)
        assert found.verdict is Verdict.FAIL and found.jumps[0].position == 50, found.jumps
    _, found = scan("layer=1,stage=attn_norm,kind=scale,magnitude=0.5", against=Against(mode=Mode.EXACT))
    assert found.jumps[0].rule is JumpRule.LEVEL and found.jumps[0].position == 0


def test_what_is_not_finite_is_marked_with_its_stage_and_ends_a_generation(scan: Scan) -> None:
    _, found = scan("layer=2,stage=ffn_up,kind=nan,token=41")
    assert (found.jumps[0].position, found.jumps[0].rule) == (41, JumpRule.NOT_FINITE)
    assert "layer 2 ffn_up first" in found.jumps[0].said
    walked, found = scan("layer=2,stage=ffn_up,kind=nan,token=70", generated=32)
    assert found.jumps[0].position == 70 and len(walked.figures) == 71


def test_a_generation_has_the_figures_of_a_given_text(scan: Scan) -> None:
    made, _ = scan(tokens=(3, 1, 4), generated=8)
    given, _ = scan(tokens=made.tokens[:-1])
    assert len(made.figures) == 10 and [one.entropy for one in made.figures] == [one.entropy for one in given.figures]
    assert [one.first for one in made.figures[2:]] == list(made.tokens[3:])


def test_a_window_is_a_capture_that_replays_and_diffs(model: Model, evaluators: Evaluators, tmp_path: Path) -> None:
    tokens = prompt_of(model, 24)
    for name, faults in (("good", ()), ("bad", ("layer=2,stage=ffn_gate,kind=stale-row,token=18",))):
        injector = FaultInjector(model, Mode.Q8, [parse_fault(text, model) for text in faults]) if faults else None
        engine = open_engine(model, backend="cpu", mode=Mode.Q8, threads=2, context=24, intervention=injector)
        request = CaptureRequest(tokens, None, frozenset(model.graph.nodes), prefill=17)
        with closing(engine):
            write_window(engine, model, request, 14, tmp_path / name)
    capture = Capture.open(tmp_path / "bad")
    assert capture.values(Node(2, "ffn_gate")).shape[0] == 10 and capture.tokens == tuple(tokens)
    assert (
        replay_capture(Capture.open(tmp_path / "good"), model, ReplayOptions(), evaluators).verdict is not Verdict.FAIL
    )
    found = replay_capture(capture, model, ReplayOptions(), evaluators)
    assert found.first_divergence is not None and found.first_divergence.verdict.node == Node(2, "ffn_gate")


def test_logits_of_a_capture_are_a_reference(model: Model, tmp_path: Path) -> None:
    file = logits_of_capture(captured(model, tmp_path / "all", logits=Logits.ALL), model)
    assert len(file.tokens) == len(file.logits.by_position) == 13
    with closing(open_engine(model, backend="cpu", mode=Mode.EXACT, threads=2, context=16)) as engine:
        walked = walk(engine, file.tokens, 0, frozenset(), file.logits, no_progress)
    assert all(one.error == 0 for one in walked.figures)
    nothing = captured(model, tmp_path / "none", nodes=frozenset({Node(0, "embedding")}))
    with pytest.raises(UnreadableError, match="has no lm_head"):
        logits_of_capture(nothing, model)


def test_settings_of_a_reference_are_read(model: Model) -> None:
    assert parse_against("mode=exact,kv=f16,path=decode,threads=3") == Against(
        Mode.EXACT, KvType.F16, None, 3, "decode"
    )
    for text, said in (
        ("mode=fast", "mode is one of exact, q8"), ("x=1", "expected NAME=VALUE of mode, kv"), ("base.kld", "a file"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            parse_against(text)


def test_what_differs_says_how_far_logits_may_be_apart(model: Model) -> None:
    tokens = prompt_of(model, 16)
    engines = [
        open_engine(model, backend="cpu", mode=mode, kv=kv, threads=1, context=16)
        for mode, kv in ((Mode.Q8, KvType.F32), (Mode.EXACT, KvType.F32), (Mode.Q8, KvType.F16))
    ]
    q8, exact, f16 = engines
    assert level_of(model, q8, q8, tokens, 3.0, no_progress) == pytest.approx(3e-4)
    between = level_of(model, q8, exact, tokens, 3.0, no_progress)
    assert between is not None and 0.03 < between < 0.6
    assert level_of(model, q8, exact, tokens[:4], 3.0, no_progress) is None
    assert level_of(model, q8, f16, tokens, 3.0, no_progress) is None
    for engine in engines:
        engine.close()
