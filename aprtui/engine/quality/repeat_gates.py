"""Gates that do a thing again and expect the same: captures, generations, replays."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np

from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.protocol import Logits, Mode
from aprtui.engine.quality.finding import Finding
from aprtui.engine.quality.subject import Subject
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.trace.capture import Capture
from aprtui.trace.manifest import Manifest

TOKENS = 8
RUNS = 3


def capture_determinism(subject: Subject) -> Finding:
    """Two captures of one prompt hold the same bytes, and capturing changes no token."""
    with tempfile.TemporaryDirectory(prefix="aprtui-qa-") as folder:
        first, second = (_capture(subject, Path(folder) / name, Mode.Q8) for name in ("first", "second"))
    different = [name for name, info in first.files.items() if info.crc32 != second.files[name].crc32]
    if different:
        return Finding.failed(f"{len(different)} of {len(first.files)} files differ, the first is {different[0]}")
    tokens = [token.id for token in subject.generate(first.tokens[: first.prompt_tokens], TOKENS)]
    captured = list(first.tokens[first.prompt_tokens :])
    if captured != tokens[: len(captured)]:
        return Finding.failed(f"the captured run chose {captured}, the plain one {tokens}")
    return Finding.passed(f"{len(first.files)} files of two captures are equal, and so are the tokens of a plain run")


def _capture(subject: Subject, path: Path, mode: Mode) -> Manifest:
    """A capture of the prompt and a few tokens more, so that both code paths are in it."""
    engine = subject.engine(mode)
    prompt = subject.prompt()[:TOKENS]
    nodes = frozenset(engine.graph.nodes)
    request = CaptureRequest(prompt, None, nodes, Logits.ALL, generate=TOKENS // 2)
    return write_capture(engine, subject.model, request, path, threads=subject.options.threads)


def backend_state_isolation(subject: Subject) -> Finding:
    """One prompt gives the same logits and tokens three times, other prompts between them or not."""
    engine, prompt = subject.engine(Mode.Q8), subject.prompt()
    other = subject.prompt("import os\nfor name in os.listdir('.'):\n")

    def once() -> tuple[bytes, list[int]]:
        engine.reset()
        logits = engine.forward(prompt)
        return np.ascontiguousarray(logits).tobytes(), [token.id for token in subject.generate(prompt, TOKENS)]

    first = once()
    for turn in range(1, RUNS):
        list(subject.generate(other, turn * TOKENS))
        if once() != first:
            return Finding.failed(f"run {turn + 1} of the same prompt, after another one, gives other logits or tokens")
    return Finding.passed(f"{RUNS} runs of one prompt with another between them are equal to the bit")


def replay_control(subject: Subject) -> Finding:
    """A capture of our own in `exact` mode, replayed by the same backend, shows no error at all."""
    with tempfile.TemporaryDirectory(prefix="aprtui-qa-") as folder:
        path = Path(folder) / "exact"
        _capture(subject, path, Mode.EXACT)
        with Evaluators(subject.model, subject.options.backend, subject.options.threads) as evaluators:
            replayed = replay_capture(Capture.open(path), subject.model, ReplayOptions(), evaluators)
    if replayed.compared != replayed.expected or not replayed.compared:
        return Finding.failed(f"{replayed.compared} of {replayed.expected} stages were replayed")
    errors = {
        stage.node: math.inf if stage.metrics.max_abs is None else stage.metrics.max_abs for stage in replayed.stages
    }
    node, error = max(errors.items(), key=lambda found: found[1])
    where = f", the worst at {node}" if error else ""
    return Finding.of(error == 0, f"{replayed.compared} stages replayed, largest error {error:.3g}{where}", error, 0.0)
