"""A run that is recorded: the tokens that it has anyway, with the statistics of every stage, whatever ends it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np

from aprtui.engine.generation import generate
from aprtui.engine.opening import open_engine
from aprtui.engine.process.loading import description
from aprtui.engine.process.messages import TokenNames
from aprtui.engine.process.slots import CANDIDATES
from aprtui.engine.protocol import Mode
from aprtui.engine.sampling import Sampling
from aprtui.engine.sessions.format import SessionEnd, SessionStart, SessionToken
from aprtui.engine.sessions.recording import SessionWriter, recorded
from aprtui.engine.sessions.session_file import SessionFile, session_summary
from aprtui.model.model import load_model
from tests.model.gguf_files import write_model

PROMPT = (1, 5, 9, 200, 33)
SAMPLING = Sampling(temperature=0.9, seed=4)


def test_a_recorded_run_is_the_run_without_a_record(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path / "model.gguf"))
    path = tmp_path / "s.jsonl"
    with closing(open_engine(model, backend="numpy", mode=Mode.EXACT, context=32)) as engine:
        plain = list(generate(engine, model.tokenizer, PROMPT, max_tokens=5, sampling=SAMPLING))
        start = SessionStart(description(engine, model), SAMPLING, model.tokenizer.decode(PROMPT), "said", PROMPT)
        generation = generate(engine, model.tokenizer, PROMPT, max_tokens=5, sampling=SAMPLING, candidates=CANDIDATES)
        with SessionWriter(path, start) as writer:
            tokens = list(recorded(generation, engine, model, writer))
    assert [(token.id, token.text) for token in tokens] == [(token.id, token.text) for token in plain]
    with SessionFile(path) as file:
        lines = list(file.rest())
    read = [line for line in lines if isinstance(line, SessionToken)]
    assert [(token.record.token, token.text) for token in read] == [(token.id, token.text) for token in plain]
    assert [token.record.evaluated for token in read] == [5, 1, 1, 1, 1]
    names = {key: name for line in lines if isinstance(line, TokenNames) for key, name in line.names}
    for token in read:
        assert np.all(token.record.stats["count"] > 0), "every stage was tapped"
        assert {*token.record.candidates["token"].tolist(), token.record.token} <= names.keys()
    assert set(PROMPT) <= names.keys()
    assert isinstance(lines[-1], SessionEnd)


def test_a_run_that_is_killed_leaves_what_it_had_generated(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    command = [sys.executable, "-m", "aprtui", "run", "-p", "def", "-n", "400", "--backend", "numpy", "--record"]
    with subprocess.Popen([*command, str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and (not path.exists() or path.read_bytes().count(b'"record": "token"') < 3):
            time.sleep(0.02)
        running.send_signal(signal.SIGKILL)
    summary = session_summary(path)
    assert summary.tokens >= 3 and summary.end is None
    with SessionFile(path) as file:
        assert sum(isinstance(line, SessionToken) for line in file.rest()) == summary.tokens
