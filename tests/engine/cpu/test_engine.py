"""The CPU engine: what must change no bit (threads, taps, chunks, prefill or decode), and its limits."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from aprtui.engine.cpu import runner as runner_module
from aprtui.engine.cpu import storage as storage_module
from aprtui.engine.cpu.engine import CpuEngine
from aprtui.engine.kv_types import fitting_kv_types
from aprtui.engine.protocol import NO_TAPS, KvType, Logits, Mode, Taps
from aprtui.engine.reference.engine import NumpyEngine
from aprtui.errors import EngineError, UsageError
from aprtui.model.model import Model
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import Weight
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node, TokenMixer
from aprtui.trace.stats import accumulate, causal
from tests.engine.conformance import Recorder, relative_l2
from tests.engine.tiny_model import CPU_MODELS, MODELS, TINY, TinyModel
from tests.thinning import often

TOKENS = [int(token) for token in np.random.default_rng(7).integers(0, 300, 41)]
CONTEXT = 64


RARE = {"decoded", "few bits", "small blocks", "experts of few bits", "experts in blocks of 256"}
"""Models that differ from others by their types alone, whose kernels take long to compile: `test_matmul` has them."""


@pytest.fixture(scope="module", params=often(CPU_MODELS, CPU_MODELS.keys() - RARE))
def model(request: pytest.FixtureRequest) -> TinyModel:
    return CPU_MODELS[str(request.param)]()


@pytest.fixture(scope="module")
def qwen2() -> TinyModel:
    return MODELS["qwen2"]()


def opened(
    model: TinyModel, mode: Mode = Mode.Q8, kv: KvType = KvType.F32, threads: int = 2, context: int = CONTEXT
) -> closing[CpuEngine]:
    return closing(CpuEngine(cast(Model, model), mode, kv, threads, context))


def everything(model: TinyModel, recorder: Recorder) -> Taps:
    nodes = frozenset(model.graph.nodes)
    return Taps(recorder, full=nodes, stats=nodes)


def logits_of(engine: CpuEngine, taps: Taps = NO_TAPS) -> np.ndarray:
    engine.reset()
    return engine.forward(TOKENS, taps, Logits.ALL)


@pytest.mark.parametrize("kv", list(KvType))
@pytest.mark.parametrize("mode", list(Mode))
def test_every_stage_agrees_with_the_numpy_engine(model: TinyModel, mode: Mode, kv: KvType) -> None:
    if kv not in fitting_kv_types(model.config.graph):
        return
    ours, reference = Recorder(), Recorder()
    with opened(model, mode, kv) as engine:
        engine.forward(TOKENS, everything(model, ours), Logits.ALL)
    NumpyEngine(model, mode, kv, CONTEXT).forward(TOKENS, everything(model, reference), Logits.ALL)  # type: ignore[arg-type]
    # In q8 and with f16 a difference in the last bit flips a rounding now and then, which moves all that follows; a
    # level of Q4_0 is an eighth of the largest value.
    bound = 1e-5 if mode is Mode.EXACT and kv is KvType.F32 else 1e-1 if kv is KvType.Q4_0 else 2e-2
    for node in model.graph.nodes:
        assert relative_l2(ours.tensor(node), reference.tensor(node)) <= bound, node


@pytest.mark.parametrize("mode", list(Mode))
def test_thread_count_changes_no_bit(model: TinyModel, mode: Mode) -> None:
    results = []
    for threads in (1, 2, 5):
        with opened(model, mode, threads=threads) as engine:
            recorder = Recorder()
            logits = logits_of(engine, everything(model, recorder))
            step = engine.forward([3])
            stats = {node: pieces[0].finish() for node, pieces in recorder.stats.items()}
            results.append((logits, step, stats))
    for logits, step, stats in results[1:]:
        np.testing.assert_array_equal(logits, results[0][0])
        np.testing.assert_array_equal(step, results[0][1])
        assert stats == results[0][2]


@pytest.mark.parametrize("mode", list(Mode))
def test_taps_change_no_bit(model: TinyModel, mode: Mode) -> None:
    with opened(model, mode) as engine:
        untapped = logits_of(engine)
        step = engine.forward([3])
        tapped = logits_of(engine, everything(model, Recorder()))
        stats_only = Taps(Recorder(), stats=frozenset(model.graph.nodes))
        np.testing.assert_array_equal(engine.forward([3], stats_only), step)
    np.testing.assert_array_equal(tapped, untapped)


@pytest.mark.parametrize("kv", list(KvType))
@pytest.mark.parametrize("mode", list(Mode))
def test_decode_gives_the_bits_of_prefill(model: TinyModel, mode: Mode, kv: KvType) -> None:
    if kv not in fitting_kv_types(model.config.graph):
        return
    with opened(model, mode, kv) as engine:
        whole = logits_of(engine)
        engine.reset()
        steps = [engine.forward([token]) for token in TOKENS]
    np.testing.assert_array_equal(np.concatenate(steps), whole)


def test_chunks_change_no_bit_and_hand_out_the_same_tensors(qwen2: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = Recorder(), Recorder()
    with opened(qwen2) as engine:
        expected = logits_of(engine, everything(qwen2, whole))
    monkeypatch.setattr(storage_module, "MOST_TOKENS", 9)
    with opened(qwen2) as engine:
        np.testing.assert_array_equal(logits_of(engine, everything(qwen2, pieces)), expected)
        np.testing.assert_array_equal(logits_of(engine), expected)
        engine.reset()
        np.testing.assert_array_equal(engine.forward(TOKENS), expected[-1:])
    for node in qwen2.graph.nodes:
        assert len(pieces.pieces[node]) == 5
        np.testing.assert_array_equal(pieces.tensor(node), whole.tensor(node))


def test_large_attention_maps_make_smaller_chunks(qwen2: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = frozenset(node for node in qwen2.graph.nodes if qwen2.graph[node.stage].is_attention_map)
    whole, pieces = Recorder(), Recorder()
    with opened(qwen2) as engine:
        expected = logits_of(engine, Taps(whole, full=maps))
        monkeypatch.setattr(runner_module, "_MAP_BYTES", 8 * TINY.heads * len(TOKENS) * 10)
        np.testing.assert_array_equal(logits_of(engine, Taps(pieces, full=maps)), expected)
    for node in maps:
        assert max(values.shape[1] for _, values in pieces.pieces[node]) == 10
        np.testing.assert_array_equal(pieces.tensor(node), whole.tensor(node))


@pytest.mark.parametrize("tokens", [TOKENS, TOKENS[:1]])
def test_statistics_are_those_of_the_tensors(model: TinyModel, tokens: list[int]) -> None:
    recorder = Recorder()
    with opened(model) as engine:
        engine.forward([1, 2, 3])
        engine.forward(tokens, everything(model, recorder))
    for node in model.graph.nodes:
        ((position, values),) = recorder.pieces[node]
        (stats,) = recorder.stats[node]
        expected = accumulate(causal(values, position) if values.ndim == 3 else values)
        assert (stats.count, stats.nan, stats.inf, stats.min, stats.max) == (
            expected.count, expected.nan, expected.inf, expected.min, expected.max,
        ), node  # fmt: skip
        np.testing.assert_allclose(
            [stats.total, stats.squares], [expected.total, expected.squares], rtol=1e-9, atol=1e-9, err_msg=str(node)
        )


def test_only_tapped_nodes_are_handed_out_and_in_execution_order(qwen2: TinyModel) -> None:
    full = frozenset({Node(0, "ffn_gate"), Node(1, "attn_softmax"), Node(None, "lm_head")})
    stats = frozenset({Node(0, "ffn_gate"), Node(1, "attn_norm")})
    seen: list[tuple[Node, int, tuple[int, ...] | None, bool]] = []

    class Sink:
        def put(self, node: Node, position: int, values: np.ndarray | None, stats: object) -> None:
            seen.append((node, position, None if values is None else values.shape, stats is not None))

    with opened(qwen2) as engine:
        engine.forward([1, 2])
        engine.forward([4, 5, 6], Taps(Sink(), full, stats))
    assert seen == [
        (Node(0, "ffn_gate"), 2, (3, TINY.ffn), True),
        (Node(1, "attn_norm"), 2, None, True),
        (Node(1, "attn_softmax"), 2, (TINY.heads, 3, 5), False),
        (Node(None, "lm_head"), 4, (1, TINY.vocabulary), False),
    ]


def test_a_full_context_is_refused_and_leaves_the_state(qwen2: TinyModel) -> None:
    with opened(qwen2, context=8) as engine, opened(qwen2, context=8) as undisturbed:
        engine.forward(TOKENS[:7])
        undisturbed.forward(TOKENS[:7])
        with pytest.raises(EngineError, match=r"context of 8 positions is full: 7 are used"):
            engine.forward(TOKENS[7:9])
        assert engine.position == 7
        np.testing.assert_array_equal(engine.forward(TOKENS[7:8]), undisturbed.forward(TOKENS[7:8]))
        assert engine.position == 8


def test_token_ids_outside_the_vocabulary_are_refused(qwen2: TinyModel) -> None:
    with opened(qwen2) as engine:
        for tokens, message in (([1, 300], "token id 300"), ([-1], "token id -1"), ([], "no tokens")):
            with pytest.raises(UsageError, match=message):
                engine.forward(tokens)
        assert engine.position == 0


def test_nan_in_weights_reaches_the_logits_and_hangs_nothing(qwen2: TinyModel) -> None:
    node = next(node for node in qwen2.graph.nodes if qwen2.graph[node.stage].op is Op.RMS_NORM and node.layer == 1)
    broken = Weight("broken", WeightType.F32, 1, TINY.hidden, np.full((1, TINY.hidden), np.nan, "f4").view(np.uint8))
    model = replace(qwen2, bound=qwen2.bound | {node: (broken,)})
    for mode in Mode:
        recorder = Recorder()
        with opened(model, mode) as engine:
            assert np.isnan(engine.forward(TOKENS, everything(model, recorder))).all()
        assert recorder.stats[node][0].nan == TINY.hidden * len(TOKENS)
        assert recorder.stats[Node(0, "ffn_out")][0].nan == 0


def test_an_error_in_the_sink_leaves_the_engine_usable(qwen2: TinyModel) -> None:
    class Full:
        def put(self, *_: object) -> None:
            raise OSError("disk full")

    with opened(qwen2) as engine:
        expected = logits_of(engine)
        engine.reset()
        with pytest.raises(OSError, match="disk full"):
            engine.forward(TOKENS, Taps(Full(), full=frozenset({Node(0, "ffn_gate")})))
        assert engine.position == 0
        np.testing.assert_array_equal(logits_of(engine), expected)


def test_closing_ends_the_threads(qwen2: TinyModel) -> None:
    before = threading.active_count()
    with opened(qwen2, threads=4) as engine:
        engine.forward(TOKENS[:2])
        assert threading.active_count() == before + 3
    assert threading.active_count() == before
    engine.close()


@pytest.fixture
def busy_machine() -> Iterator[None]:
    """Two threads that use the processor all the time, so that workers are held up at every point."""
    stop = threading.Event()

    def spin() -> None:
        values = np.ones(4096)
        while not stop.is_set():
            np.sqrt(values).sum()

    threads = [threading.Thread(target=spin) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield
    stop.set()
    for thread in threads:
        thread.join()


@pytest.mark.usefixtures("busy_machine")
def test_more_threads_than_cores_on_a_busy_machine_change_no_bit(qwen2: TinyModel) -> None:
    with opened(qwen2, threads=1) as engine:
        expected = logits_of(engine)
    with opened(qwen2, threads=9) as engine:
        for _ in range(3):
            np.testing.assert_array_equal(logits_of(engine), expected)


def test_a_cache_that_does_not_fit_in_memory_is_refused(qwen2: TinyModel) -> None:
    with pytest.raises(EngineError, match=r"K/V cache for \d+ positions does not fit in memory .*--context"):
        CpuEngine(qwen2, Mode.Q8, KvType.F32, 1, 1 << 40)  # type: ignore[arg-type]


def test_an_engine_that_is_dropped_ends_its_threads(qwen2: TinyModel) -> None:
    before = threading.active_count()
    engine = CpuEngine(qwen2, Mode.Q8, KvType.F32, 3, CONTEXT)  # type: ignore[arg-type]
    engine.forward([1])
    del engine
    assert threading.active_count() == before


@pytest.mark.parametrize("tapped", ["attn_scores", "attn_softmax", "attention", "ffn_norm", "final_norm", "lm_head"])
def test_tokens_that_are_not_wanted_change_no_bit(model: TinyModel, tapped: str) -> None:
    """Only the last logits are wanted: the end of the last layer is computed for one token, or for all if tapped."""
    node = next(node for node in reversed(model.graph.nodes) if node.stage == tapped)
    recorder, whole = Recorder(), Recorder()
    taps, all_taps = (Taps(sink, full=frozenset({node})) for sink in (recorder, whole))
    with opened(model) as engine:
        expected = logits_of(engine, all_taps)[-1:]
    with opened(model) as engine:  # whose buffers hold nothing from before
        np.testing.assert_array_equal(engine.forward(TOKENS), expected)
        engine.reset()
        np.testing.assert_array_equal(engine.forward(TOKENS, taps), expected)
    wanted = whole.tensor(node)[-1:] if tapped == "lm_head" else whole.tensor(node)
    np.testing.assert_array_equal(recorder.tensor(node), wanted)


def test_opening_reports_progress_up_to_the_end(qwen2: TinyModel) -> None:
    seen: list[tuple[str, int, int]] = []
    with opened(qwen2):
        pass  # compiled by now, if it was not before
    CpuEngine(qwen2, Mode.Q8, KvType.F32, 1, CONTEXT, lambda *step: seen.append(step)).close()  # type: ignore[arg-type]
    assert {what for what, _, _ in seen} == {"loading kernels"}
    assert [done for _, done, _ in seen] == list(range(len(seen)))
    assert {total for _, _, total in seen} == {len(seen) - 1}


def test_an_interrupt_is_heard_between_layers_and_leaves_the_engine_usable(qwen2: TinyModel) -> None:
    def interrupt(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupt)
    with opened(qwen2) as engine:
        expected = logits_of(engine)
        try:
            for delay in (1e-4, 3e-4, 1e-3, 2e-3, 5e-3):
                with pytest.raises(InterruptedError):  # noqa: PT012 - the time must not run before the block
                    signal.setitimer(signal.ITIMER_REAL, delay)
                    while True:
                        logits_of(engine)
                np.testing.assert_array_equal(logits_of(engine), expected)
        finally:
            signal.signal(signal.SIGALRM, before)


def test_f16_cache_rounds_keys_and_values_and_nothing_else(qwen2: TinyModel) -> None:
    recorders = {}
    for kv in KvType:
        recorders[kv] = Recorder()
        with opened(qwen2, Mode.EXACT, kv) as engine:
            engine.forward(TOKENS, everything(qwen2, recorders[kv]), Logits.ALL)
    exact, rounded = recorders[KvType.F32], recorders[KvType.F16]
    for stage in ("q_post_rope", "k_post_rope"):
        np.testing.assert_array_equal(rounded.tensor(Node(0, stage)), exact.tensor(Node(0, stage)))
    for stage in ("attn_scores", "attention"):
        error = relative_l2(rounded.tensor(Node(0, stage)), exact.tensor(Node(0, stage)))
        assert 2e-5 < error < 5e-4, (stage, error)  # float16 has 11 bits: 2**-12 / sqrt(3) on each value at most


@pytest.mark.parametrize("threads", [1, 2])
def test_seconds_of_all_stages_are_taken_and_do_not_exceed_the_call(model: TinyModel, threads: int) -> None:
    with opened(model, threads=threads) as engine:
        assert np.isnan(engine.stage_seconds()).all()
        for tokens in (TOKENS, TOKENS[:1]):
            started = time.perf_counter()
            engine.forward(tokens)
            elapsed = time.perf_counter() - started
            seconds = engine.stage_seconds()
            assert (seconds[~np.isnan(seconds)] > 0).all()
            # Rounded to float32, the sum may exceed the whole by a few parts in a million.
            assert np.nansum(seconds) <= elapsed * 1.0001
            # Each matrix product is an instruction of its own; what follows it in one go has no time of its own.
            timed = {node for node, value in zip(engine.graph.nodes, seconds, strict=True) if not np.isnan(value)}
            assert {node for node in engine.graph.nodes if engine.graph[node.stage].op is Op.MATMUL} <= timed
            layer = model.config.graph.layers_with(TokenMixer.ATTENTION)[0]
            assert Node(layer, "attn_scores") in timed
            assert not timed & {Node(layer, "attn_softmax"), Node(layer, "attention")}


def test_statistics_count_for_no_stage(qwen2: TinyModel) -> None:
    nodes = frozenset(qwen2.graph.nodes)
    with opened(qwen2, threads=1) as engine:
        engine.forward(TOKENS[:1])
        plain = np.isnan(engine.stage_seconds())
        engine.forward(TOKENS[:1], Taps(Recorder(), stats=nodes))
        assert np.array_equal(np.isnan(engine.stage_seconds()), plain)
