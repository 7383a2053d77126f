"""How far a load and a prefill are, from what the taps of their passes hand out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest

from aprtui.engine.generation import PassCancelled, StopReason, generate
from aprtui.engine.process.engine_process import EngineState
from aprtui.engine.process.loading import LoadedEngine, load_engine
from aprtui.engine.process.messages import EngineSettings, Failed, Finished, Loaded, StepProgress
from aprtui.engine.process.records import Recorder
from aprtui.engine.process.slots import Slots
from aprtui.engine.protocol import KvType, Mode
from aprtui.engine.sampling import GREEDY
from aprtui.model.model import load_model
from aprtui.progress import Progress
from aprtui.resources import embedded_model
from tests.engine.fake_engine import open_fake
from tests.engine.process.test_engine_process import running, until

TOKENS = [(7 * index) % 1500 + 300 for index in range(40)]


@contextmanager
def loaded(backend: str, progress: Progress) -> Iterator[tuple[LoadedEngine, Recorder]]:
    settings = EngineSettings(backend, Mode.Q8, KvType.F32, threads=1, context=64)
    opened = load_engine(progress, settings, embedded_model())
    graph, descriptor = opened.engine.graph, os.memfd_create("test")
    slots = Slots(descriptor, len(graph.nodes), graph.layers, create=True)
    try:
        yield opened, Recorder(opened, slots, lambda event: None)
    finally:
        opened.engine.close()
        os.close(descriptor)


@pytest.mark.parametrize("backend", ["cpu", "numpy"])
def test_a_load_counts_the_weights_that_its_first_pass_reads(backend: str) -> None:
    calls: list[tuple[str, int, int]] = []
    with loaded(backend, lambda *call: calls.append(call)):
        read = [(done, total) for what, done, total in calls if what == "reading weights, MB"]
    total = sum(weight.data.size for weight in load_model(embedded_model()).weights.values()) // 1_000_000
    assert {found for _, found in read} == {total} and len(read) == 1 + 4
    assert [done for done, _ in read] == sorted(done for done, _ in read) and 0 < read[-1][0] <= total


@pytest.mark.parametrize("backend", ["cpu", "numpy"])
@pytest.mark.parametrize("kept", [0, 15])
def test_a_prefill_counts_the_tokens_that_have_gone_through_the_layers(backend: str, kept: int) -> None:
    calls: list[tuple[str, int, int]] = []
    with loaded(backend, lambda *call: None) as (opened, recorder):
        if kept:
            opened.engine.forward(TOKENS[:kept])
        generation = generate(opened.engine, opened.tokenizer, TOKENS, max_tokens=3, held=TOKENS[:kept])
        recorder.watch_prefill(len(TOKENS) - generation.kept, lambda *call: calls.append(call))
        generation.taps = recorder.taps(False)
        next(generation)
        recorder.end_watching()
        next(generation)
    assert {(what, total) for what, _, total in calls} == {("evaluating the prompt, tokens", len(TOKENS) - kept)}
    assert [done for _, done, _ in calls] == [(len(TOKENS) - kept) * layer // 4 for layer in (1, 2, 3, 4)]


def test_a_prefill_that_is_cancelled_between_two_layers_leaves_an_engine_that_goes_on() -> None:
    def end(what: str, done: int, total: int) -> None:
        if done >= total // 2:
            raise PassCancelled

    with loaded("cpu", lambda *call: None) as (opened, recorder):
        generation = generate(opened.engine, opened.tokenizer, TOKENS, max_tokens=1)
        recorder.watch_prefill(len(TOKENS), end)
        generation.taps = recorder.taps(False)
        assert next(generation, None) is None and generation.stop_reason is StopReason.CANCELLED
        recorder.end_watching()
        assert opened.engine.position == 0
        after = next(generate(opened.engine, opened.tokenizer, TOKENS, max_tokens=1))
        opened.engine.reset()
        assert after.choice == next(generate(opened.engine, opened.tokenizer, TOKENS, max_tokens=1)).choice


def endless(progress: Progress, settings: EngineSettings) -> LoadedEngine:
    """An opener that never ends by itself."""
    for done in count():
        progress("reading weights, MB", done % 100, 100)
        time.sleep(0.01)
    raise AssertionError


def test_a_load_that_is_cancelled_ends_the_process_with_the_reason() -> None:
    with running(endless) as process:
        until(process, StepProgress)
        process.cancel()
        events = until(process, Failed)
        assert events[-1] == Failed("the load was cancelled", fatal=True)
        assert process.state is EngineState.CRASHED


def first_load_only(progress: Progress, settings: EngineSettings) -> LoadedEngine:
    return endless(progress, settings) if settings.mode is Mode.EXACT else open_fake(progress, settings)


def test_another_engine_whose_load_is_cancelled_leaves_the_one_that_was_there() -> None:
    with running(first_load_only) as process:
        until(process, Loaded)
        process.reopen(EngineSettings(mode=Mode.EXACT))
        until(process, StepProgress)
        process.cancel()
        assert until(process, Failed)[-1] == Failed("the load was cancelled", fatal=False)
        run = process.generate("abc", GREEDY, 2)
        assert until(process, Finished)[-1] == Finished(run, StopReason.LENGTH, "")
