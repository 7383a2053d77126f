"""Gates that do a thing again and expect the same: captures, generations, replays."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from aprtui.engine.backends.registry import host_backends, is_host
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.generation import evaluate
from aprtui.engine.protocol import Logits, Mode
from aprtui.engine.quality.gate import GateFinding, ModelUnderTest
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.trace.capture import Capture
from aprtui.trace.manifest import FILE_NAME, Manifest

TOKENS = 8
RUNS = 3


def capture_determinism(subject: ModelUnderTest) -> GateFinding:
    """Two captures of one prompt hold the same bytes."""
    with tempfile.TemporaryDirectory(prefix="aprtui-qa-") as folder:
        first, second = (_capture(subject, Path(folder) / name, Mode.Q8) for name in ("first", "second"))
    different = [name for name, info in first.files.items() if info.crc32 != second.files[name].crc32]
    if different:
        message = f"{len(different)} of {len(first.files)} files differ, the first is {different[0]}"
        return GateFinding.failed(message, len(different), 0)
    return GateFinding.passed(f"{len(first.files)} files of two captures are equal", 0, 0)


def additive_capture(subject: ModelUnderTest) -> GateFinding:
    """A run with every stage captured chooses the tokens of a plain run, to the bit of its logits, and writes its files
    and nothing beside them."""
    with tempfile.TemporaryDirectory(prefix="aprtui-qa-") as folder:
        path = Path(folder) / "capture"
        manifest = _capture(subject, path, Mode.Q8)
        capture = Capture.open(path)
        (node,) = (node for node in capture.files if capture.graph[node.stage].holds_logits)
        captured = capture.values(node).tobytes()
        written = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    prompt = manifest.tokens[: manifest.prompt_tokens]
    problems = [f"{name} was not planned" for name in sorted(written - {*manifest.files, FILE_NAME})]
    problems += [f"{name} was planned and is missing" for name in sorted(set(manifest.files) - written)]
    chosen = tuple(token.id for token in subject.generate(prompt, TOKENS // 2))
    chosen_captured = manifest.tokens[len(prompt) :]
    if chosen[: len(chosen_captured)] != chosen_captured:
        problems.append(f"the captured run chose {list(chosen_captured)}, the plain one {list(chosen)}")
    engine = subject.engine(Mode.Q8)
    plain = evaluate(engine, manifest.tokens, prefill=len(prompt), logits=Logits.ALL)
    if captured != plain.tobytes():
        problems.append("the captured run has other logits than a plain one")
    fine = (
        f"{len(manifest.tokens)} tokens and their logits are those of a plain run, {len(manifest.files)} files written"
    )
    return GateFinding.of_problems(problems, fine)


def _capture(subject: ModelUnderTest, path: Path, mode: Mode) -> Manifest:
    """A capture of the prompt and a few tokens more, so that both code paths are in it."""
    engine = subject.engine(mode)
    prompt = subject.prompt()[:TOKENS]
    nodes = frozenset(engine.graph.nodes)
    request = CaptureRequest(prompt, None, nodes, Logits.ALL, generate=TOKENS // 2)
    return write_capture(engine, subject.model, request, path)


def backend_state_isolation(subject: ModelUnderTest) -> GateFinding:
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
            message = f"run {turn + 1} of the same prompt, after another one, gives other logits or tokens"
            return GateFinding.failed(message, 1, 0)
    return GateFinding.passed(f"{RUNS} runs of one prompt with another between them are equal to the bit", 0, 0)


def replay_control(subject: ModelUnderTest) -> GateFinding:
    """A capture of our own in `exact` mode, replayed by the same backend, shows no error at all.

    What a GPU captured is replayed by the CPU's kernels, to within a bound: the control is the CPU's own then.
    """
    if not is_host(subject.engine(Mode.EXACT).backend):
        with ModelUnderTest(subject.model, replace(subject.options, backend=host_backends()[0].name)) as on_host:
            return replay_control(on_host)
    with tempfile.TemporaryDirectory(prefix="aprtui-qa-") as folder:
        path = Path(folder) / "exact"
        _capture(subject, path, Mode.EXACT)
        with Evaluators(subject.model, subject.options.backend, subject.options.threads) as evaluators:
            replayed = replay_capture(Capture.open(path), subject.model, ReplayOptions(), evaluators)
    if replayed.compared != replayed.expected or not replayed.compared:
        return GateFinding.failed(f"{replayed.compared} of {replayed.expected} stages were replayed")
    errors = {
        stage.node: math.inf if stage.metrics.max_abs is None else stage.metrics.max_abs for stage in replayed.stages
    }
    node, error = max(errors.items(), key=lambda found: found[1])
    where = f", the worst at {node}" if error else ""
    return GateFinding.of(
        error == 0, f"{replayed.compared} stages replayed, largest error {error:.3g}{where}", error, 0.0
    )
