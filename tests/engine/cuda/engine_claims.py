"""What holds of a CUDA engine on any driver: the test modules of the fake one and of real devices take it from here."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice, product
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import numpy as np
import pytest

from aprtui.engine.cuda import device as device_module
from aprtui.engine.cuda import sizes
from aprtui.engine.opening import open_engine
from aprtui.engine.process.engine_process import EngineState
from aprtui.engine.process.loading import Opener, load_engine
from aprtui.engine.process.messages import EngineSettings, Event, Failed, Finished, Loaded, TokenText
from aprtui.engine.protocol import NO_TAPS, KvType, Logits, Mode, Taps
from aprtui.engine.reference.evaluate import evaluate
from aprtui.engine.reference.history import ATTENTION_HISTORY
from aprtui.engine.rounding import DEVICE_ARITHMETIC, round_f16
from aprtui.engine.sampling import GREEDY, Choice, Sampler, Sampling
from aprtui.errors import EngineError, UsageError
from aprtui.model.model import Model
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import Weight
from aprtui.resources import embedded_model
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node
from aprtui.trace.stats import accumulate, causal
from tests.engine.conformance import Recorder, relative_l2
from tests.engine.cuda.trapping import open_and_trap
from tests.engine.process.test_engine_process import running, until
from tests.engine.tiny_model import DEVICE_MODELS, MODELS, TINY, TinyModel, tiny_model
from tests.thinning import crossed

if TYPE_CHECKING:
    from aprtui.engine.cpu.engine import CpuEngine
    from aprtui.engine.cuda.engine import CudaEngine

PROMPT = [int(token) for token in np.random.default_rng(7).integers(0, 300, 11)]
FORCED = PROMPT[:4]
"""Decoded after the prompt, one by one."""
CONTEXT = 600


def opened(
    model: TinyModel, mode: Mode = Mode.Q8, kv: KvType = KvType.F32, context: int = CONTEXT
) -> closing[CudaEngine]:
    engine = open_engine(cast(Model, model), backend="cuda", mode=mode, kv=kv, context=context)
    return closing(cast("CudaEngine", engine))


def everything(model: TinyModel, recorder: Recorder) -> Taps:
    nodes = frozenset(model.graph.nodes)
    return Taps(recorder, full=nodes, stats=nodes)


def run(engine: CudaEngine | CpuEngine, taps: Taps = NO_TAPS) -> np.ndarray:
    """Logits of all positions: the prompt at once, then the forced tokens one by one."""
    engine.reset()
    logits = [engine.forward(PROMPT, taps, Logits.ALL)]
    return np.concatenate([*logits, *(engine.forward([token], taps) for token in FORCED)])


def recomputed(model: TinyModel, node: Node, recorder: Recorder, mode: Mode, kv: KvType) -> np.ndarray:
    """`node` from the tensors that it was made of, in float64 with the roundings that the engine states."""
    stage, config = model.graph[node.stage], model.config.graph
    inputs = []
    for index, (entry, source) in enumerate(zip(model.graph.entries(node), model.graph.inputs(node), strict=True)):
        values = recorder.tensor(source)
        values = values if values.ndim == 3 else values[:, config.part(entry.part)]
        cached = (stage.op, index) in ATTENTION_HISTORY and kv is KvType.F16
        inputs.append(round_f16(values) if cached else values)
    return evaluate(
        model, node, inputs, tokens=PROMPT + FORCED, position=0, arithmetic=DEVICE_ARITHMETIC[mode]  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(("name", "arithmetic"), crossed(DEVICE_MODELS, product(Mode, (KvType.F32, KvType.F16))))
def test_every_stage_is_what_its_inputs_make_in_the_stated_arithmetic(
    name: str, arithmetic: tuple[Mode, KvType]
) -> None:
    require_stages_of_their_inputs(DEVICE_MODELS[name](), *arithmetic)


def test_so_is_every_stage_of_weights_with_codebooks() -> None:
    require_stages_of_their_inputs(tiny_model(TINY, (WeightType.IQ4_XS, WeightType.MXFP4)), Mode.Q8, KvType.F32)


def require_stages_of_their_inputs(
    model: TinyModel, mode: Mode, kv: KvType, recorder: Recorder | None = None
) -> None:  # fmt: skip
    recorder = recorder or Recorder()
    with opened(model, mode, kv) as engine:
        run(engine, everything(model, recorder))
        stated = set(engine.rounding.matmul_input.split("+"))
    assert stated <= ({"none"} if mode is Mode.EXACT else {"none", "q8_1"})
    for node in model.graph.nodes:
        error = relative_l2(recorder.tensor(node), recomputed(model, node, recorder, mode, kv))
        assert error <= 2e-6, (mode, kv, node, error)


def test_exact_agrees_with_the_cpu_end_to_end() -> None:
    pytest.importorskip("numba")  # machines with a GPU may lack what the CPU engine needs
    from aprtui.engine.cpu.engine import CpuEngine

    for make in DEVICE_MODELS.values():
        model, ours, reference = make(), Recorder(), Recorder()
        with opened(model, Mode.EXACT) as engine:
            run(engine, everything(model, ours))
        with closing(CpuEngine(model, Mode.EXACT, KvType.F32, 1, CONTEXT)) as cpu:  # type: ignore[arg-type]
            run(cpu, everything(model, reference))
        for node in model.graph.nodes:
            assert relative_l2(ours.tensor(node), reference.tensor(node)) <= 1e-5, node
            for piece, expected in zip(ours.pieces[node], reference.pieces[node], strict=True):
                assert (piece[0], piece[1].shape) == (expected[0], expected[1].shape), node


@pytest.mark.parametrize(
    ("name", "arithmetic"), crossed(("qwen3", "gemma2", "gpt-oss"), product(Mode, (KvType.F32, KvType.F16)))
)
def test_taps_graphs_chunks_and_a_second_engine_change_no_bit(
    name: str, arithmetic: tuple[Mode, KvType], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = DEVICE_MODELS[name]()
    nodes = frozenset(model.graph.nodes)
    with opened(model, *arithmetic) as engine:
        assert engine.code_path.endswith("graphs")
        expected = run(engine)
        for taps in (everything(model, Recorder()), Taps(Recorder(), stats=nodes), Taps(Recorder(), nodes)):
            np.testing.assert_array_equal(run(engine, taps), expected)
        np.testing.assert_array_equal(run(engine), expected)
        with opened(model, *arithmetic) as second:
            np.testing.assert_array_equal(run(second), expected)
            np.testing.assert_array_equal(run(engine), expected)
    monkeypatch.setattr(sizes, "_MOST_TOKENS", 4)
    whole, pieces = Recorder(), Recorder()
    with opened(model, *arithmetic) as engine:
        np.testing.assert_array_equal(run(engine, everything(model, pieces)), expected)
        assert [position for position, _ in pieces.pieces[Node(0, "ffn_norm")]] == [0, 4, 8, 11, 12, 13, 14]
        engine.reset()
        np.testing.assert_array_equal(engine.forward(PROMPT), expected[len(PROMPT) - 1 :][:1])
        monkeypatch.setattr(sizes, "_MOST_TOKENS", 512)
    with opened(model, *arithmetic) as engine:
        run(engine, everything(model, whole))
    for node in model.graph.nodes:
        np.testing.assert_array_equal(pieces.tensor(node), whole.tensor(node))


@pytest.mark.parametrize("name", ["experts", "gpt-oss"])
def test_experts_of_a_longer_prompt_are_what_their_inputs_make_and_depend_on_no_chunk(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aprtui.engine.cuda import engine as engine_module

    monkeypatch.setattr(engine_module, "_FEW", 1)  # tokens of an expert that are multiplied one by one
    model, whole, pieces = DEVICE_MODELS[name](), Recorder(), Recorder()
    require_stages_of_their_inputs(model, Mode.Q8, KvType.F16, whole)
    monkeypatch.setattr(sizes, "_MOST_TOKENS", 5)
    with opened(model, Mode.Q8, KvType.F16) as engine:
        expected = run(engine, everything(model, pieces))
        np.testing.assert_array_equal(run(engine), expected)
    for node in model.graph.nodes:
        np.testing.assert_array_equal(pieces.tensor(node), whole.tensor(node))


def test_statistics_are_those_of_the_tensors_and_come_in_one_call_where_they_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from aprtui.engine.cuda import statistics

    monkeypatch.setattr(statistics, "_LARGE", 2000)  # values, so that some nodes are shared out among blocks
    model, recorder, nodes = MODELS["qwen2"](), Recorder(), frozenset(MODELS["qwen2"]().graph.nodes)

    class InOneCall:
        def __init__(self) -> None:
            self.sums: dict[int, tuple[float, ...]] = {}

        def put(self, node: Node, position: int, values: object, stats: object) -> None:
            raise AssertionError("nothing but statistics was asked for")

        def put_sums(self, places: np.ndarray, sums: np.ndarray) -> None:
            self.sums |= dict(zip(places.tolist(), sums.tolist(), strict=True))

    sink = InOneCall()
    with opened(model) as engine:
        run(engine, everything(model, recorder))
        engine.reset()
        engine.forward(PROMPT, Taps(sink, stats=nodes))
    for node in model.graph.nodes:
        for (position, values), stats in zip(recorder.pieces[node], recorder.stats[node], strict=True):
            expected = accumulate(causal(values, position) if values.ndim == 3 else values)
            assert (stats.count, stats.nan, stats.inf, stats.min, stats.max) == (
                expected.count, expected.nan, expected.inf, expected.min, expected.max,
            ), node  # fmt: skip
            found = [stats.total, stats.squares]
            np.testing.assert_allclose(found, [expected.total, expected.squares], rtol=1e-9, atol=1e-9)
        if node.stage != "lm_head":  # there only the last position had logits
            first = recorder.stats[node][0]
            assert sink.sums[model.graph.order[node]][:5] == (first.count, first.nan, first.inf, first.min, first.max)
    assert len(sink.sums) == len(model.graph.nodes)


def test_attention_maps_of_later_positions_need_longer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "_STRIDE", 12)
    model, short, long = MODELS["qwen2"](), Recorder(), Recorder()
    with opened(model) as engine:
        run(engine, everything(model, short))
        monkeypatch.setattr(device_module, "_STRIDE", 512)
    with opened(model) as engine:
        run(engine, everything(model, long))
    for node in model.graph.nodes:
        np.testing.assert_array_equal(short.tensor(node), long.tensor(node))


def test_only_tapped_nodes_are_handed_out_and_in_execution_order() -> None:
    full = frozenset({Node(0, "ffn_gate"), Node(1, "attn_softmax"), Node(None, "lm_head")})
    stats = frozenset({Node(0, "ffn_gate"), Node(1, "attn_norm")})
    seen: list[tuple[Node, int, tuple[int, ...] | None, bool]] = []

    class Sink:
        def put(self, node: Node, position: int, values: np.ndarray | None, stats: object) -> None:
            seen.append((node, position, None if values is None else values.shape, stats is not None))

    with opened(MODELS["qwen2"]()) as engine:
        engine.forward([1, 2])
        engine.forward([4, 5, 6], Taps(Sink(), full, stats))
        engine.forward([7], Taps(Sink(), full, stats))
    assert seen == [
        (Node(0, "ffn_gate"), 2, (3, TINY.ffn), True),
        (Node(1, "attn_norm"), 2, None, True),
        (Node(1, "attn_softmax"), 2, (TINY.heads, 3, 5), False),
        (Node(None, "lm_head"), 4, (1, TINY.vocabulary), False),
        (Node(0, "ffn_gate"), 5, (1, TINY.ffn), True),
        (Node(1, "attn_norm"), 5, None, True),
        (Node(1, "attn_softmax"), 5, (TINY.heads, 1, 6), False),
        (Node(None, "lm_head"), 5, (1, TINY.vocabulary), False),
    ]


def test_bad_calls_are_refused_and_leave_the_state() -> None:
    class Full:
        def put(self, *_: object) -> None:
            raise OSError("disk full")

    with opened(MODELS["qwen2"](), context=16) as engine:
        expected = run(engine)
        engine.reset()
        for tokens, message in (([1, 300], "token id 300"), ([-1], "token id -1"), ([], "no tokens")):
            with pytest.raises(UsageError, match=message):
                engine.forward(tokens)
        run(engine)
        with pytest.raises(EngineError, match=r"context of 16 positions is full: 15 are used"):
            engine.forward(PROMPT)
        assert engine.position == 15
        for tokens in (PROMPT, PROMPT[:1]):
            engine.reset()
            with pytest.raises(OSError, match="disk full"):
                engine.forward(tokens, Taps(Full(), full=frozenset({Node(0, "ffn_gate")})))
            assert engine.position == 0
        np.testing.assert_array_equal(run(engine), expected)
    engine.close()  # once more does nothing


def test_nan_in_weights_reaches_the_logits_and_the_statistics() -> None:
    qwen2 = MODELS["qwen2"]()
    node = next(node for node in qwen2.graph.nodes if qwen2.graph[node.stage].op is Op.RMS_NORM and node.layer == 1)
    values = np.full((1, TINY.hidden), np.nan, "f4").view(np.uint8)
    model = replace(qwen2, bound=qwen2.bound | {node: (Weight("broken", WeightType.F32, 1, TINY.hidden, values),)})
    for mode in Mode:
        recorder = Recorder()
        with opened(model, mode) as engine:
            assert np.isnan(engine.forward(PROMPT, everything(model, recorder))).all()
        assert recorder.stats[node][0].nan == TINY.hidden * len(PROMPT)
        assert recorder.stats[Node(0, "ffn_out")][0].nan == 0


def test_positions_that_are_kept_are_those_of_before() -> None:
    model = MODELS["qwen2"]()
    for mode in Mode:
        with opened(model, mode) as engine:
            engine.forward(PROMPT)
            expected = engine.forward(FORCED[:2])
            sampler = Sampler(GREEDY)
            for _, _ in zip(range(3), engine.choose(FORCED[2], sampler), strict=False):
                pass  # passes that were queued ahead have written behind what is kept
            engine.reset(len(PROMPT))
            assert engine.position == len(PROMPT)
            np.testing.assert_array_equal(engine.forward(FORCED[:2]), expected)


def same(found: Choice, expected: Choice) -> None:
    assert (found.id, [c.id for c in found.candidates]) == (expected.id, [c.id for c in expected.candidates])
    for name in ("logprob", "probability", "entropy", "margin"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12, abs=1e-12)


def test_choices_of_the_device_are_those_of_the_host_tapped_or_queued_ahead() -> None:
    model = MODELS["qwen2"]()
    sampler, recorder = Sampler(GREEDY, 5), Recorder()
    with opened(model, context=32) as engine:

        def by_host(count: int) -> list[Choice]:
            engine.reset()
            history = list(PROMPT)
            logits = engine.forward(PROMPT)
            for _ in range(count):
                history.append(sampler.choose(logits[-1], history).id)
                logits = engine.forward(history[-1:])
            return [Choice(history[-count], 0, 0, 0, 0), sampler.choose(logits[-1], history)]

        everything_expected = [by_host(count)[1] for count in range(1, 22)]
        first = by_host(1)[0].id
        for taps in (NO_TAPS, everything(model, recorder)):
            engine.reset()
            engine.forward(PROMPT)
            found = []
            for choice in engine.choose(first, sampler, taps):
                found.append(choice)
                assert engine.position == len(PROMPT) + len(found)
            assert len(found) == 32 - len(PROMPT), "as many as the context has room for"
            for one, expected in zip(found, everything_expected, strict=True):
                same(one, expected)
        assert [position for position, _ in recorder.pieces[Node(1, "attn_softmax")]] == list(range(len(PROMPT), 32))
        # Given up in the middle of a batch, the engine stands where it was asked to.
        engine.reset()
        engine.forward(PROMPT)
        choices = engine.choose(first, sampler)
        for _ in range(3):
            token = next(choices).id
        logits = engine.forward([token])
        assert engine.position == len(PROMPT) + 4
        assert next(choices, None) is None, "another call has ended it"
        same(sampler.choose(logits[-1], []), everything_expected[3])


def test_a_generation_on_the_device_is_the_one_on_the_host() -> None:
    from aprtui.engine.generation import StopReason, generate

    model = MODELS["qwen3"]()
    with opened(model, Mode.EXACT, context=40) as engine:

        def ids(**options: Any) -> tuple[list[int], StopReason | None, int]:
            generation = generate(engine, None, PROMPT, max_tokens=100, **options)
            return [token.id for token in generation], generation.stop_reason, engine.position

        ahead = ids()
        assert (ahead[1], ahead[2], len(ahead[0])) == (StopReason.CONTEXT_FULL, 40, 30)
        assert ids(taps=Taps(Recorder(), stats=frozenset({Node(0, "ffn_up")}))) == ahead
        penalised = Sampling(repeat_penalty=1.0 + 1e-12)  # too little to change a choice, but the host's
        assert ids(sampling=penalised) == ahead
        stop = ahead[0][12]
        at = ahead[0].index(stop)
        stopped = ids(stop_ids={stop})
        assert stopped == (ahead[0][:at], StopReason.STOP_TOKEN, len(PROMPT) + at)


def test_tokens_that_the_device_draws_are_those_that_the_host_draws_with_taps_or_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from aprtui.engine.generation import GeneratedToken, generate

    model = MODELS["qwen3"]()
    tapped = Taps(Recorder(), stats=frozenset({Node(0, "ffn_up")}))
    with opened(model, Mode.EXACT, context=48) as engine:
        forward = mock.Mock(wraps=engine.forward)
        monkeypatch.setattr(engine, "forward", forward)

        def generated(sampling: Sampling, taps: Callable[[int], Taps]) -> list[GeneratedToken]:
            forward.reset_mock()
            generation, tokens = generate(engine, None, PROMPT, max_tokens=99, sampling=sampling, candidates=3), []
            for token in generation:
                tokens.append(token)
                generation.taps = taps(len(tokens))
            assert len(tokens) == 48 - len(PROMPT) + 1
            return tokens

        for sampling in (Sampling(0.7, seed=3), Sampling(1.5, min_p=0.1, seed=4)):
            with monkeypatch.context() as patch:
                patch.setattr(engine, "can_choose", lambda _: False)
                by_host = generated(sampling, lambda _: NO_TAPS)
            assert forward.call_count == 48 - len(PROMPT) + 1
            assert len({token.id for token in by_host}) > 10
            for taps in (
                lambda _: NO_TAPS,
                lambda _: tapped,
                lambda count: tapped if count in (*range(3, 6), 21, 22) else NO_TAPS,  # in the middle of batches
            ):
                by_device = generated(sampling, taps)
                assert forward.call_count == 1, "the prompt alone gives its logits to the host"
                assert [token.id for token in by_device] == [token.id for token in by_host]
                for found, expected in zip(by_device, by_host, strict=True):
                    same(found.choice, expected.choice)


def test_host_and_device_draw_from_one_stream_in_turn() -> None:
    model, sampling = MODELS["qwen2"](), Sampling(1.2, seed=11)
    with opened(model, context=40) as engine:

        def drawn(turns: Sequence[str]) -> list[int]:
            engine.reset()
            sampler = Sampler(sampling)
            ids = [sampler.choose(engine.forward(PROMPT)[-1], PROMPT).id]
            for turn in turns:
                if turn == "host":
                    ids.append(sampler.choose(engine.forward(ids[-1:])[-1], ids).id)
                else:
                    ids += [choice.id for choice in islice(engine.choose(ids[-1], sampler), 3)]
            return ids

        assert drawn(["device", "host", "host", "device", "host", "device"]) == drawn(["host"] * 12)


def test_settings_that_need_the_host_are_known() -> None:
    of_device = (GREEDY, Sampling(top_k=3, top_p=0.5), Sampling(0.5), Sampling(0.5, min_p=0.5, seed=9))
    of_host = (Sampling(0.5, top_k=3), Sampling(0.5, top_p=0.9), Sampling(0.5, repeat_penalty=1.1))
    with opened(MODELS["qwen2"](), context=32) as engine:
        assert all(engine.can_choose(sampling) for sampling in of_device)
        assert not any(engine.can_choose(sampling) for sampling in (*of_host, Sampling(repeat_penalty=1.1)))


def test_logits_that_are_no_distribution_are_reported_after_their_stages() -> None:
    from aprtui.engine.generation import generate

    qwen2 = MODELS["qwen2"]()
    node = Node(None, "final_norm")
    values = np.full((1, TINY.hidden), np.nan, "f4").view(np.uint8)
    model = replace(qwen2, bound=qwen2.bound | {node: (Weight("broken", WeightType.F32, 1, TINY.hidden, values),)})
    for taps, sampling in product((NO_TAPS, Taps(Recorder(), stats=frozenset({node}))), (GREEDY, Sampling(1.0))):
        with opened(model) as engine:
            engine.forward(PROMPT)
            with pytest.raises(EngineError, match=r"300 of 300 logits are NaN \(first: token id 0\)"):
                next(engine.choose(3, Sampler(sampling), taps))
            assert engine.position == len(PROMPT) + 1
            with pytest.raises(EngineError, match="no token can be chosen"):
                next(generate(engine, None, PROMPT, max_tokens=3))
        if isinstance(taps.sink, Recorder):
            assert taps.sink.stats[node][0].nan == TINY.hidden


def test_a_kernel_that_traps_is_reported_and_a_new_engine_process_is_right() -> None:
    settings = EngineSettings("cuda", Mode.Q8, KvType.F32, context=32)
    sampling = Sampling(repeat_penalty=1.01)  # the host chooses, so that every token is a pass of its own

    def texts(opener: Opener) -> tuple[list[str], Event, EngineState]:
        with running(opener, settings=settings) as process:
            until(process, Loaded, 60)
            process.generate([1, 2, 3], sampling, 5)
            events: list[Event] = []
            while not any(isinstance(event, Finished | Failed) for event in events):
                events += process.poll()
                time.sleep(0.005)
            record = process.latest()
            assert record is None or 0 < record.device_memory_used < record.device_memory
            return [e.text for e in events if isinstance(e, TokenText)], events[-1], process.state

    streamed, failed, state = texts(open_and_trap)
    assert isinstance(failed, Failed)
    assert (failed.fatal, state) == (True, EngineState.CRASHED)
    assert re.fullmatch(r"the device failed .*: open the engine again in a new process", failed.message)
    right, finished, _ = texts(partial(load_engine, path=embedded_model()))
    assert isinstance(finished, Finished)
    assert (len(streamed), len(right), streamed) == (2, 5, right[:2])


def test_an_engine_that_was_not_closed_ends_with_its_process() -> None:
    lines = (
        "from aprtui.engine.opening import open_engine",
        "from tests.engine.tiny_model import MODELS",
        "engine = open_engine(MODELS['qwen2'](), backend='cuda', context=32)",
        "engine.forward([1])",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_reaches_no_token_before_it(bad: float) -> None:
    qwen2 = MODELS["qwen2"]()
    table = qwen2.params(Node(0, "embedding"))[0]
    rows = table.dequantize()
    rows[PROMPT[4]] = bad
    weight = Weight("bad", WeightType.F32, table.rows, table.columns, rows.view(np.uint8))
    model = replace(qwen2, bound=qwen2.bound | {Node(0, "embedding"): (weight,)})
    for mode in Mode:
        reference = open_engine(cast(Model, model), backend="numpy", mode=mode, context=CONTEXT)
        for engine in (opened(model, mode), closing(reference)):
            with engine as found:
                recorder = Recorder()
                found.forward(PROMPT, everything(model, recorder), Logits.ALL)
            for node in model.graph.nodes:
                values = recorder.tensor(node)
                before = values[:, :4, :4] if values.ndim == 3 else values[:4]
                assert np.isfinite(before).all(), (mode, node)
            assert not np.isfinite(recorder.tensor(Node(1, "attn_out"))[4:]).all()


def test_a_closed_engine_says_so() -> None:
    with opened(MODELS["qwen2"]()) as engine:
        engine.forward(PROMPT)
        choices = engine.choose(3, Sampler(GREEDY))
        next(choices)
    for call in (lambda: engine.forward(PROMPT), lambda: next(engine.choose(3, Sampler(GREEDY)))):
        with pytest.raises(EngineError, match="the engine is closed: open it again"):
            call()


def test_an_interrupt_while_the_model_is_loaded_leaves_nothing_open() -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_engine(MODELS["qwen2"](), backend="cuda", progress=interrupt)  # type: ignore[arg-type]
    signal_at_once = (
        "import os, signal, threading, time",
        "from aprtui.cli.main import main",
        "from aprtui.engine.cuda import storage",
        "upload = storage.Uploader.upload",
        "def slow(*words):",
        "    os.kill(os.getpid(), signal.SIGINT)",
        "    time.sleep(0.3)",
        "    upload(*words)",
        "storage.Uploader.upload = slow",
        "main(['run', '--tokens', '1,2', '--backend', 'cuda'])",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(signal_at_once)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (130, "aprtui: interrupted"), done.stderr
