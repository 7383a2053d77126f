"""False alarms: captures of honest engines, judged alone by replay and in pairs by the measured floor. None of them may
be called a divergence.

A folder holds `<model>/model.gguf` and captures of it by any engine in `<model>/<name>/`; our own runs of the
model on the same tokens join them. `faults/<name>/` hold captures of engines that ran an edited model: `expected.json`
names the original (`model`, relative to the folder) and the stages that are right answers (`accepted`).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import combinations, groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.causes import cause_sentence
from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, one_in, write_kind
from aprtui.engine.evaluation.fault_detection import DIFF, REPLAY
from aprtui.engine.floors.criteria import criteria_by_model
from aprtui.engine.kv_types import fitting_kv_types
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import KvType, Mode
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.engine.replay.token_ids import TABLE_SOURCE, known_tokens
from aprtui.errors import UnreadableError
from aprtui.model.model import Model, load_model
from aprtui.progress import Progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node


@dataclass(frozen=True, slots=True)
class JudgedCapture:
    """One judgement: its object, the signal, the verdict and its reason (`said`). `right` is whether the named stage is
    one of the right answers, None where only the verdict counts. `causes` are those that were proved: on what an honest
    engine wrote, each is false, whatever the verdict."""

    what: str
    signal: str
    verdict: Verdict
    said: str
    right: bool | None = None
    causes: tuple[str, ...] = ()


def judge_replays(
    model: Model, captures: Sequence[Capture], evaluators: Evaluators, where: str = ""
) -> Iterator[JudgedCapture]:
    """Each of `captures` of `model`, replayed; `where` goes before its name."""
    for capture in captures:
        comparison = replay_capture(capture, model, ReplayOptions(), evaluators)
        yield judged(f"{where}{capture.path.name}", REPLAY, comparison)


def judge_pairs(
    model: Model, tokens: Sequence[int], pairs: Iterable[tuple[Capture, Capture]], evaluators: Evaluators,
    where: str = "",
) -> Iterator[JudgedCapture]:  # fmt: skip
    """Each pair of captures of `model` on `tokens`, by the measured floor."""
    for a, b in pairs:
        criteria = criteria_by_model(a, b, model, tokens, evaluators)
        options = DiffOptions(tokens=tuple(tokens), token_source=TABLE_SOURCE)
        what = f"{where}{a.path.name} and {b.path.name}"
        yield judged(what, DIFF, compare_captures(a, b, options, None, criteria))


def own_captures(model: Model, tokens: Sequence[int], folder: Path) -> Iterator[Capture]:
    """Our own runs: both modes, every K/V type that fits, the prompt at once and, for half of it, token by token; of
    quantised K/V, which are written alike, the second only."""
    in_two = max(1, len(tokens) // 2)
    for mode in Mode:
        for kv in fitting_kv_types(model.config.graph):
            for prefill in (in_two,) if kv in (KvType.Q8_0, KvType.Q4_0) else (None, in_two):
                path = folder / f"aprtui-{mode}-{kv}{'' if prefill is None else '-decode'}"
                nodes = frozenset(model.graph.nodes)
                with closing(open_engine(model, mode=mode, kv=kv, context=len(tokens))) as engine:
                    write_capture(engine, model, CaptureRequest(tokens, None, nodes, prefill=prefill), path)
                yield Capture.open(path)


def judged(what: str, signal: str, comparison: Comparison, right: bool | None = None) -> JudgedCapture:
    divergence = comparison.first_divergence
    said = "; ".join(comparison.reasons)
    if divergence is not None:
        verdict = divergence.verdict
        said = f"{verdict.node}: {verdict.metric} {verdict.error:.3g}, bound {verdict.bound:.3g}"
    return JudgedCapture(what, signal, comparison.verdict, said, right, tuple(map(cause_sentence, comparison.causes)))


def judge_honest(folder: Path, progress: Progress) -> Iterator[JudgedCapture]:
    """Every honest capture below `folder` by replay, and every pair of the same model and tokens by diff."""
    models = sorted(path.parent for path in folder.glob("*/model.gguf"))
    for done, home in enumerate(models):
        progress(f"judging honest captures of {home.name},", done, len(models))
        with tempfile.TemporaryDirectory(prefix="aprtui-honest-") as own:
            yield from _of_model(load_model(home / "model.gguf"), _captures(home), Path(own), home.name)


def judge_honest_by_kind(folder: Path, progress: Progress, every: int = 1) -> Iterator[JudgedCapture]:
    """Every honest capture below `folder` as every kind of part that it can be cut to, replayed; one in `every`."""
    homes = [path.parent for path in sorted(folder.glob("*/model.gguf"))]
    cases = [(home, capture, kind) for home in homes for capture in _captures(home) for kind in CAPTURE_KINDS]
    taken = one_in(every, cases)
    done = 0
    for home, of_model in groupby(taken, lambda case: case[0]):
        model = load_model(home / "model.gguf")
        with Evaluators(model) as evaluators, tempfile.TemporaryDirectory(prefix="aprtui-kinds-") as own:
            for _, capture, kind in of_model:
                progress("judging captures of other engines by kind,", done, len(taken))
                done += 1
                tokens = known_tokens(capture, capture, model, None)
                if tokens is not None:
                    part = write_kind(
                        CAPTURE_KINDS[kind],
                        _tensors(capture, model, tokens),
                        model.graph,
                        tokens,
                        Path(own) / str(done),
                    )
                    what = f"{kind}: {capture.path.name} of {home.name}"
                    yield judged(what, REPLAY, replay_capture(part, model, ReplayOptions(), evaluators))
                    shutil.rmtree(part.path)


def _tensors(capture: Capture, model: Model, tokens: Sequence[int]) -> dict[Node, NDArray[np.float32]]:
    """The values of `capture` in the shapes of the stages of `model`."""
    return {
        node: capture.values(node).reshape(model.graph[node.stage].shape(len(tokens)))
        for node in capture.files
        if node in model.graph.order
    }


def _captures(home: Path) -> list[Capture]:
    found = []
    for path in sorted(path for path in home.iterdir() if path.is_dir()):
        try:
            found.append(Capture.open(path))
        except UnreadableError:
            continue
    return found


def _of_model(model: Model, foreign: Sequence[Capture], own: Path, name: str) -> Iterator[JudgedCapture]:
    groups: dict[tuple[int, ...], list[Capture]] = {}
    for capture in foreign:
        tokens = known_tokens(capture, capture, model, None)
        if tokens is not None:
            groups.setdefault(tokens, []).append(capture)
    with Evaluators(model) as evaluators:
        for index, (tokens, captures) in enumerate(groups.items()):
            everyone = [*captures, *own_captures(model, tokens, own / str(index))]
            where = f"{name}, {len(tokens)} tokens: "
            yield from judge_replays(model, everyone, evaluators, where)
            yield from judge_pairs(model, tokens, combinations(everyone, 2), evaluators, where)


def judge_outside_faults(folder: Path, progress: Progress) -> Iterator[JudgedCapture]:
    """Every capture of an edited model below `folder`, replayed with the original."""
    expected = sorted((folder / "faults").glob("*/expected.json"))
    for done, path in enumerate(expected):
        progress("replaying captures of edited models,", done, len(expected))
        stated = json.loads(path.read_text())
        accepted = {Node(answer["layer"], answer["stage"]) for answer in stated["accepted"]}
        model = load_model(folder / stated["model"])
        with Evaluators(model) as evaluators:
            comparison = replay_capture(Capture.open(path.parent), model, ReplayOptions(), evaluators)
        divergence = comparison.first_divergence
        right = divergence is not None and divergence.verdict.node in accepted
        yield judged(path.parent.name, REPLAY, comparison, right)
