"""What an engine process does beside generating: candidates, lens, noise, captures, another engine."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from aprtui.cli.main import main
from aprtui.engine.process.engine_process import EngineProcess, EngineState
from aprtui.engine.process.loading import load_engine
from aprtui.engine.process.messages import (
    Captured,
    Declined,
    EngineDescription,
    EngineSettings,
    Failed,
    Finished,
    Loaded,
    NoiseMeasured,
    Paused,
    Started,
    StepProgress,
    TokenNames,
    TokenText,
)
from aprtui.engine.process.slots import CANDIDATES, TokenRecord
from aprtui.engine.protocol import KvType, Mode
from aprtui.engine.sampling import GREEDY
from aprtui.resources import embedded_model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage_graph import graph_for
from tests.engine.fake_engine import open_fake
from tests.engine.process.test_engine_process import E, pid, running, until

OPENER = partial(load_engine, path=embedded_model())
SETTINGS = EngineSettings("numpy", Mode.Q8, KvType.F16, threads=1, context=48)
PROMPT = "def fib("


@pytest.fixture(autouse=True)
def floors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements are kept for the length of a test; kernels stay where they are."""
    cache = tmp_path / "cache"
    cache.mkdir()
    kernels = Path(os.environ.get("APRTUI_CACHE_DIR", Path.home() / ".cache" / "aprtui")) / "kernels"
    (cache / "kernels").symlink_to(kernels)
    monkeypatch.setenv("APRTUI_CACHE_DIR", str(cache))


@pytest.fixture
def process() -> Iterator[EngineProcess]:
    with running(OPENER, settings=SETTINGS) as process:
        until(process, Loaded, 60)
        yield process


def generated(process: EngineProcess, count: int) -> list[int]:
    """Token ids of a whole generation."""
    process.generate(PROMPT, GREEDY, count)
    return [event.id for event in until(process, Finished, 60) if isinstance(event, TokenText)]


def record_of(process: EngineProcess, number: int) -> TokenRecord:
    found = process.record(number)
    assert found is not None
    return found


def info_of(process: EngineProcess) -> EngineDescription:
    assert process.info is not None
    return process.info


def one(process: EngineProcess, wanted: type[E]) -> E:
    """The first event of type `wanted`."""
    return next(event for event in until(process, wanted, 60) if isinstance(event, wanted))


def pause_after(process: EngineProcess, count: int) -> Started:
    """Generate `count` tokens and rest."""
    process.generate(PROMPT, GREEDY, 30)
    process.pause()
    started = next(event for event in until(process, Paused, 60) if isinstance(event, Started))
    for _ in range(count - 1):
        process.step()
        until(process, Paused, 60)
    return started


def test_candidates_are_named_and_the_first_is_what_greedy_takes(process: EngineProcess) -> None:
    process.generate(PROMPT, GREEDY, 3)
    events = until(process, Finished, 60)
    names = dict(pair for event in events if isinstance(event, TokenNames) for pair in event.names)
    for number in range(3):
        record = process.record(number)
        assert record is not None
        tokens, probabilities = record.candidates["token"], record.candidates["probability"]
        assert tokens[0] == record.token
        assert probabilities[0] == pytest.approx(np.exp(record.logprob), rel=1e-5)
        assert (np.diff(probabilities) <= 0).all()
        assert 0 < probabilities.sum() <= 1.000001
        assert len(set(tokens.tolist())) == CANDIDATES
        assert all(int(token) in names for token in tokens)
    pieces = "".join(event.text for event in events if isinstance(event, TokenText))
    assert "".join(names[record_of(process, number).token] for number in range(3)) == pieces
    started = next(event for event in events if isinstance(event, Started))
    assert "".join(names[token] for token in started.tokens) == "<|endoftext|>" + PROMPT


def test_names_are_told_once(process: EngineProcess) -> None:
    process.generate(PROMPT, GREEDY, 5)
    told = [pair for event in until(process, Finished, 60) if isinstance(event, TokenNames) for pair in event.names]
    assert len(told) == len(dict(told))


def test_seconds_of_stages_come_with_every_token(process: EngineProcess) -> None:
    generated(process, 2)
    record = process.latest()
    assert record is not None
    assert (record.stage_seconds > 0).all()
    assert record.stage_seconds.sum() < record.seconds


def test_engine_that_takes_no_times_gives_none() -> None:
    with running(open_fake) as process:
        until(process, Loaded)
        process.generate("abc", GREEDY, 2)
        until(process, Finished)
        newest = process.latest()
        assert newest is not None and np.isnan(newest.stage_seconds).all()


def test_lens_comes_with_the_tokens_made_while_it_is_wanted(process: EngineProcess) -> None:
    pause_after(process, 2)
    process.set_lens(True)
    process.step()
    until(process, Paused, 60)
    process.set_lens(False)
    process.step()
    until(process, Paused, 60)
    lenses = [record_of(process, number).lens for number in range(4)]
    assert [lens is not None for lens in lenses] == [False, False, True, False]
    lens, chosen = lenses[2], record_of(process, 2).candidates
    assert lens is not None and chosen is not None
    assert len(lens) == info_of(process).graph.layers
    # q8 and the lens round differently; on a clear token they agree all the same.
    assert lens["token"][-1] == chosen["token"][0]


def test_lens_changes_no_token(process: EngineProcess) -> None:
    plain = generated(process, 8)
    process.set_lens(True)
    assert generated(process, 8) == plain


def test_noise_needs_tokens_and_is_then_measured_while_a_generation_rests(process: EngineProcess) -> None:
    process.measure_noise()
    declined = one(process, Declined)
    assert "there are 0" in declined.message
    pause_after(process, 9)
    process.measure_noise()
    events = until(process, NoiseMeasured, 60)
    measured = next(event for event in events if isinstance(event, NoiseMeasured))
    assert 1e-3 < measured.noise.deviation < 1
    assert process.state is EngineState.PAUSED
    assert any(isinstance(event, StepProgress) for event in events)


def test_capture_is_what_trace_writes_of_the_same_tokens(process: EngineProcess, tmp_path: Path) -> None:
    started = pause_after(process, 4)
    process.write_capture(tmp_path / "live")
    events = until(process, Captured, 60)
    captured = next(event for event in events if isinstance(event, Captured))
    assert any(isinstance(event, StepProgress) for event in events)
    assert process.state is EngineState.PAUSED
    tokens = [*started.tokens, *(record_of(process, number).token for number in range(4))]
    assert captured.tokens == len(tokens)
    options = ["--decode-from", str(len(started.tokens)), "--backend", "numpy", "--mode", "q8", "--kv", "f16"]
    ids = ",".join(map(str, tokens))
    with pytest.raises(SystemExit) as left:
        main(["trace", "--tokens", ids, "--logits", "all", *options, "--save-tensor-dir", str(tmp_path / "traced")])
    assert left.value.code == 0
    live, traced = Capture.open(tmp_path / "live"), Capture.open(tmp_path / "traced")
    assert live.manifest is not None and traced.manifest is not None
    assert live.manifest.files == traced.manifest.files
    assert len(live.manifest.files) == captured.files
    assert live.manifest.tokens == tuple(tokens)
    assert live.manifest.complete


def test_generation_goes_on_after_a_capture_as_if_nothing_had_happened(process: EngineProcess, tmp_path: Path) -> None:
    undisturbed = generated(process, 8)
    pause_after(process, 3)
    process.write_capture(tmp_path / "live")
    until(process, Captured, 60)
    process.resume()
    events = until(process, Finished, 60)
    assert [record_of(process, 8 + number).token for number in range(8)] == undisturbed
    assert not any(isinstance(event, Failed) for event in events)


def test_capture_of_nothing_or_over_something_is_declined(process: EngineProcess, tmp_path: Path) -> None:
    process.write_capture(tmp_path / "live")
    assert one(process, Declined) == Declined("there is no run to capture: enter a prompt first")
    generated(process, 2)
    process.write_capture(tmp_path)
    declined = one(process, Declined)
    assert declined.message == f"{tmp_path}: exists: choose another directory"
    assert process.state is EngineState.READY


def test_cancelled_capture_leaves_nothing_and_the_generation_alone(process: EngineProcess, tmp_path: Path) -> None:
    pause_after(process, 12)
    process.write_capture(tmp_path / "live")
    until(process, StepProgress, 60)
    process.cancel()
    assert one(process, Declined) == Declined("writing the capture: cancelled")
    assert not (tmp_path / "live").exists()
    assert process.state is EngineState.PAUSED
    process.step()
    until(process, Paused, 60)


def test_engine_that_is_killed_in_a_capture_can_be_restarted(process: EngineProcess, tmp_path: Path) -> None:
    pause_after(process, 12)
    process.write_capture(tmp_path / "live")
    until(process, StepProgress, 60)
    os.kill(pid(process), signal.SIGKILL)
    until(process, Failed, 5)
    assert process.state is EngineState.CRASHED
    process.restart()
    until(process, Loaded, 60)
    assert len(generated(process, 2)) == 2
    shutil.rmtree(tmp_path / "live")


def test_other_settings_open_another_engine_and_last_over_a_restart(process: EngineProcess) -> None:
    pause_after(process, 2)
    fault = "layer=1,stage=ffn_gate,kind=nan"
    process.reopen(replace(SETTINGS, mode=Mode.EXACT, faults=(fault,)))
    until(process, Loaded, 60)
    for _ in range(2):
        assert process.state is EngineState.READY
        assert info_of(process).mode is Mode.EXACT
        assert info_of(process).faults == (fault,)
        process.generate(PROMPT, GREEDY, 2)
        until(process, Failed, 60)
        graph = graph_for(info_of(process).graph)
        newest = process.latest()
        assert newest is not None
        bad = newest.stats["nan"].nonzero()[0]
        assert str(graph.nodes[bad[0]]) == "layer 1 ffn_gate"
        process.restart()
        until(process, Loaded, 60)


def test_settings_that_cannot_be_had_leave_the_engine_as_it_was(process: EngineProcess) -> None:
    before = generated(process, 3)
    process.reopen(replace(SETTINGS, faults=("layer=1,stage=ffn_gate,kind=nonsense",)))
    failed = one(process, Failed)
    assert "kind 'nonsense' is not known" in failed.message
    assert not failed.fatal
    assert process.settings == SETTINGS or process.settings.faults == ()
    assert generated(process, 3) == before


def test_prompt_that_is_sent_right_after_other_settings_meets_the_other_engine(process: EngineProcess) -> None:
    process.generate(PROMPT, GREEDY, 30)
    until(process, TokenText, 60)
    process.reopen(replace(SETTINGS, mode=Mode.EXACT))
    process.generate(PROMPT, GREEDY, 2)
    finished: list[int] = []
    while len(finished) < 2:
        finished += [event.run for event in until(process, Finished, 60) if isinstance(event, Finished)]
    assert finished == [1, 2]
    assert info_of(process).mode is Mode.EXACT
